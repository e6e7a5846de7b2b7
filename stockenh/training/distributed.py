"""One training step over several processes, all of which run the same loop on their share of every group.

A process's loss is its share divided by the whole group's labels, so the gradients of all processes are
summed, and the step is the one that a single process would make (Li et al. 2020, DistributedDataParallel).
Rank 0 writes, prints, validates and decides. The others get its decisions where the loop broadcasts them.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import io
import os
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, ClassVar, TypeVar, get_type_hints

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket, PrefixStore, TCPStore
from torch.nn.parallel import DistributedDataParallel

from stockenh.data.batches import Counts, Group, TrainBatches
from stockenh.errors import ConfigError
from stockenh.models.own import UNUSED
from stockenh.training.world import Rank

# The others wait while rank 0 embeds, validates and evaluates. A dead process is noticed at once anyway.
TIMEOUT = datetime.timedelta(days=7)
# Of a sum between GPUs, which no process reaches much later than another; a dead one would hang it.
NCCL_TIMEOUT = datetime.timedelta(minutes=5)

# torch 2.13 has a new name for the option
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"

Inputs = tuple[Tensor, Tensor, Tensor]
T = TypeVar("T")


class SingleProcessStep:
    """What a training step does for other processes: nothing, where there are none."""

    def begin(self) -> None:
        """Called before the first forward pass of a step."""

    def forward(self, model: nn.Module, inputs: Inputs, last: bool) -> dict[str, Tensor]:
        """The model's output for a micro batch; last: of its group, which completes the gradients."""
        out: dict[str, Tensor] = model(*inputs)
        return out

    def total(self, loss: Tensor) -> Tensor:
        """The sum of all processes' shares of a group's loss."""
        return loss

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives in rank 0, plain containers and tensors on the CPU, in every process."""
        return make()


SINGLE_PROCESS = SingleProcessStep()


class ProcessGroup:
    """All processes of a run, as one of them sees them.

    current: the one that this process is in, if any
    """

    current: ClassVar[ProcessGroup | None] = None

    def __init__(self, own: Rank) -> None:
        """Waits for all others."""
        dist.init_process_group("gloo", timeout=TIMEOUT, **_meeting(own))
        self.own = own
        self.is_mid_step = False  # the others are, or soon will be, in collective operations of a step
        self.gpus: dist.ProcessGroup | None = None
        ProcessGroup.current = self

    def sync(self, number: int = 0) -> int:
        """Rank 0's number, 0 or more, in every process.

        Where rank 0 has ended instead, raises SystemExit in the others, with its exit code.
        """
        box = torch.tensor([number])
        dist.broadcast(box, src=0)
        if box < 0:
            raise SystemExit(-1 - int(box))
        return int(box)

    def broadcast(self, content: Any = None) -> Any:
        """Rank 0's content, plain containers and tensors, in every process on the CPU; see `sync`."""
        buffer = io.BytesIO()
        if self.own.is_first:
            torch.save(content, buffer)
        size = self.sync(buffer.tell())
        data = torch.zeros(size, dtype=torch.uint8)
        if self.own.is_first:
            data = torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)
        dist.broadcast(data, src=0)
        return torch.load(io.BytesIO(data.numpy().tobytes()), map_location="cpu", weights_only=True)

    def machine_by_machine(self, make: Callable[[], str | None]) -> list[str]:
        """Calls `make` in every process, first in one of each machine: the others find its files.

        What each returns, an error or None, is gathered. Returns the errors, the same in every process.
        """
        is_first_here = self.own.local_rank == 0
        error = make() if is_first_here else None
        dist.barrier()
        if not is_first_here:
            error = make()
        gathered: list[str | None] = [None] * self.own.size
        dist.all_gather_object(gathered, error)
        return [text for text in gathered if text is not None]

    def leave(self, exit_code: int) -> None:
        """Ends this process's part; rank 0 ends the others too, with this exit code.

        In the middle of a step the others wait for gradients: they notice that the connection closes.
        """
        ProcessGroup.current = None
        if self.is_mid_step:
            return
        if self.own.is_first:
            with contextlib.suppress(RuntimeError):  # another process is gone already
                dist.broadcast(torch.tensor([-1 - exit_code]), src=0)
        dist.destroy_process_group()

    @staticmethod
    def is_lost(error: BaseException) -> bool:
        """Whether this is the error of a collective operation where another process is gone."""
        return isinstance(error, dist.DistError) or "gloo" in str(error)


def _meeting(own: Rank) -> dict[str, Any]:
    """Where the processes of this start meet, as arguments of init_process_group.

    torchrun's store outlives a restart, with the addresses of processes that have ended, and nothing that all
    machines know numbers the starts. So rank 0 draws a name for this one, and sends it to each process that
    asks for it. By then all processes of an earlier start have ended.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return {}
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, own.size, is_master=False, timeout=TIMEOUT)
    name = uuid.uuid4().hex
    if own.is_first:
        _send_name(store, name, own.size)
    else:
        question = f"stockenh/{own.rank}", name
        store.set(*question)
        name = store.get("/".join(question)).decode()
        store.set(f"stockenh/{name}/{own.rank}", "here")
    return {"store": PrefixStore(name, store), "rank": own.rank, "world_size": own.size}


def _send_name(store: TCPStore, name: str, size: int) -> None:
    """Answers every other process until it has the name; the first question may be of an earlier start."""
    missing = set(range(1, size))
    while missing:
        for rank in sorted(missing):
            asks = f"stockenh/{rank}"
            if store.check([f"stockenh/{name}/{rank}"]):
                missing.remove(rank)
            elif store.check([asks]):
                store.set(f"{asks}/{store.get(asks).decode()}", name)
        time.sleep(0.01)


def device_name(name: str) -> str:
    """What `device=` means in this process: of several, each has a GPU of its own, which becomes the current
    one. Raises ConfigError."""
    if ProcessGroup.current is None:
        return name
    if name.startswith("cuda:"):
        raise ConfigError(f"device={name}: each of several processes has its own GPU; write device=cuda")
    if name == "mps":
        raise ConfigError("device=mps trains in one process: write device=cpu for several")
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    gpus, number = torch.cuda.device_count(), ProcessGroup.current.own.local_rank
    if number >= gpus:
        raise ConfigError(
            f"{number + 1} processes or more on a machine with {gpus} CUDA device(s): write "
            f"--nproc-per-node={gpus}, or device=cpu"
        )
    torch.cuda.set_device(number)  # before data are placed: what names no GPU would take the first
    return f"cuda:{number}"


class DistributedStep(SingleProcessStep):
    """Sums gradients over all processes during the backward pass of a group's last micro batch.

    All processes must make one at the same time; each gets rank 0's weights. `model` must later be the module
    given here; its state keeps the names of the bare module.
    """

    def __init__(self, group: ProcessGroup, model: nn.Module, device: torch.device) -> None:
        """Communicates by NCCL between GPUs, by gloo between CPUs."""
        group.is_mid_step = True
        if device.type == "cuda":
            group.gpus = group.gpus or dist.new_group(backend="nccl", timeout=NCCL_TIMEOUT)
        # buffers are constants here, or BatchNorm's, of which rank 0 keeps its own
        options: dict[str, Any] = {"process_group": group.gpus, _SYNC_BUFFERS: False}
        options["find_unused_parameters"] = getattr(model, UNUSED, False)
        self._net = DistributedDataParallel(model, **options)
        self._net.register_comm_hook(group.gpus, _summed)
        self._group = group
        group.is_mid_step = False

    def begin(self) -> None:
        self._group.sync()
        self._group.is_mid_step = True

    def forward(self, model: nn.Module, inputs: Inputs, last: bool) -> dict[str, Tensor]:
        with contextlib.nullcontext() if last else self._net.no_sync():
            out: dict[str, Tensor] = self._net(*inputs)
        return out

    def total(self, loss: Tensor) -> Tensor:
        dist.all_reduce(loss, group=self._group.gpus)
        self._group.is_mid_step = False
        return loss

    def from_first(self, make: Callable[[], T]) -> T:
        made: T = self._group.broadcast(make() if self._group.own.is_first else None)
        return made


def _summed(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The sum where DistributedDataParallel by itself would take the mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    done: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return done


# torch looks at the hook's annotations and wants types there, not their names
_summed.__annotations__ = get_type_hints(_summed)


class RankBatches(TrainBatches):
    """One process's share of the groups that a single process would have, with random numbers of its own.

    Shares differ by at most one row, and are cut into micro batches as large as the config allows: four
    processes pass once over what a single process accumulates in four passes. `count` and `windows` stay
    those of the whole group.
    """

    def __init__(
        self,
        whole: TrainBatches,
        direction: NDArray[np.floating],
        own: Rank,
        weight: NDArray[np.floating] | None = None,
    ) -> None:
        """direction: (n, H) of all windows, 0 where there is a label without one, NaN where there is none;
        weight: (n, H) of the labels, None: 1."""
        super().__init__(
            whole.data,
            whole.rows.cpu().numpy(),
            batch_size=whole.batch_size,
            accumulate=whole.group_size // whole.batch_size,
            seed=whole.seed,
            augment=whole.augment,
        )
        labelled = np.isfinite(direction) * (np.ones(1) if weight is None else weight)
        counts = np.stack([labelled.sum(1), (labelled * (direction != 0)).sum(1)]).astype(np.float32)
        self._labels, self._moves = torch.from_numpy(counts).to(self.rows.device)
        self._own = own

    def groups(self, epoch: int, first: int) -> Generator[Group, None, None]:
        """The shares of an epoch from step `first` on.

        Rank 0 goes on from the random state of its checkpoint. The others draw dropout and noise by the place
        in the run, so that they are the same however often the run was resumed.
        """
        with contextlib.closing(super().groups(epoch, first)) as groups:
            for step in range(first, self.steps):
                if not self._own.is_first:
                    entropy = (self.seed, self._own.rank, epoch, step)
                    seed = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
                    torch.manual_seed(int(seed >> 1))
                yield next(groups)

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of rows (B,); empty where there are fewer rows than processes."""
        return torch.tensor_split(rows, self._own.size)[self._own.rank]

    def _counted(self, group: Group, epoch: int, step: int) -> Group:
        rows = self.rows_of(epoch, step)
        labels, moves = self._labels[rows].sum(), self._moves[rows].sum().clamp(min=1)
        count = Counts(labels.to(group.count.labels), moves.to(group.count.moves))
        micros = group.micros
        if not len(self.share(rows)):
            micros = tuple(replace(m, labelled=torch.zeros_like(m.labelled)) for m in micros)
        return Group(micros, count, len(rows))

    def _parts(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        """An empty share gets one row without its label, since every process takes part in every step."""
        rows = self.rows_of(epoch, step)
        own = self.share(rows)
        return tuple((own if len(own) else rows[:1]).split(self.batch_size))
