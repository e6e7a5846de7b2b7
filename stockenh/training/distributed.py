"""One training step over several processes: each has the whole model and a share of every group.

A process's loss is its share divided by the whole group's labels, so the gradients of all processes are
summed, and the step is the one that a single process would make (Li et al. 2020, DistributedDataParallel).
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import io
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Protocol, TypeVar, get_type_hints

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import GradBucket
from torch.nn.parallel import DistributedDataParallel

from stockenh.training.world import Place

# Others wait for the first while it embeds, validates and judges; a dead one is noticed at once all the same.
PATIENCE = datetime.timedelta(days=7)

# torch 2.13 has a new name for the option
_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers"

Inputs = tuple[Tensor, Tensor, Tensor]
T = TypeVar("T")


class Shared(Protocol):
    """What a training step does for the sake of other processes."""

    def begin(self) -> None:
        """A step begins."""

    def forward(self, model: nn.Module, inputs: Inputs, last: bool) -> dict[str, Tensor]:
        """The model's answer to a micro batch; last: of its group, after which gradients are complete."""

    def total(self, loss: Tensor) -> Tensor:
        """The sum of all processes' shares of a group's loss."""


class Alone:
    """There are no other processes."""

    def begin(self) -> None:
        pass

    def forward(self, model: nn.Module, inputs: Inputs, last: bool) -> dict[str, Tensor]:
        out: dict[str, Tensor] = model(*inputs)
        return out

    def total(self, loss: Tensor) -> Tensor:
        return loss


ALONE = Alone()


class Together:
    """Sums gradients over all processes during the backward pass of a group's last micro batch.

    Making one takes all processes, and gives every process the first one's weights. `model` must then be
    the module that it was made of; its own state stays that of the bare module.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | None, begin: Callable[[], None]) -> None:
        self._begin = begin
        self._group = group
        # buffers are constants here, or BatchNorm's, of which the first process's are kept
        options: dict[str, Any] = {"process_group": group, _SYNC_BUFFERS: False}
        self._net = DistributedDataParallel(model, **options)
        self._net.register_comm_hook(group, _summed)

    def begin(self) -> None:
        self._begin()

    def forward(self, model: nn.Module, inputs: Inputs, last: bool) -> dict[str, Tensor]:
        with contextlib.nullcontext() if last else self._net.no_sync():
            out: dict[str, Tensor] = self._net(*inputs)
        return out

    def total(self, loss: Tensor) -> Tensor:
        dist.all_reduce(loss, group=self._group)
        return loss


def _summed(group: dist.ProcessGroup | None, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """The sum where DistributedDataParallel by itself would take the mean."""
    work = dist.all_reduce(bucket.buffer(), group=group, async_op=True)
    done: torch.futures.Future[Tensor] = work.get_future().then(lambda future: future.value()[0])
    return done


# torch looks at the hook's annotations and wants types there, not their names
_summed.__annotations__ = get_type_hints(_summed)


class Order(IntEnum):
    """What the first process tells the others to do."""

    TRAIN = 1  # a run's description follows
    STEP = 2  # the next optimizer step
    OVER = 3  # of this run there are no more
    LEAVE = 4  # and exit with this code


class Team:
    """All processes that were started together, as one of them sees them. The first one leads."""

    def __init__(self, place: Place) -> None:
        """Waits for all others."""
        dist.init_process_group("gloo", timeout=PATIENCE)
        self.place = place
        self._cards: dist.ProcessGroup | None = None

    def tell(self, order: Order, number: int = 0) -> None:
        """The first process gives an order to all others."""
        dist.broadcast(torch.tensor([order, number]), src=0)

    def hear(self) -> tuple[Order, int]:
        """Another process waits for its next order."""
        heard = torch.zeros(2, dtype=torch.int64)
        dist.broadcast(heard, src=0)
        order, number = heard.tolist()
        return Order(order), number

    def hand_out(self, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the first process gives, plain containers and tensors, to every process, on the CPU."""
        buffer = io.BytesIO()
        if content is not None:
            torch.save(content, buffer)
        handed: list[Any] = [buffer.getvalue()]
        dist.broadcast_object_list(handed, src=0)
        found: dict[str, Any] = torch.load(io.BytesIO(handed[0]), map_location="cpu", weights_only=True)
        return found

    def first_of_each_machine_first(self, make: Callable[[], T]) -> T:
        """Calls `make` in every process; what the first of a machine leaves on its disk, the others find."""
        first = self.place.local_rank == 0
        made = [make()] if first else []
        dist.barrier()
        return made[0] if first else make()

    def complaints(self, own: str | None) -> list[str]:
        """What kept any process from going on, the same list in all of them."""
        said: list[str | None] = [None] * self.place.size
        dist.all_gather_object(said, own)
        return [text for text in said if text is not None]

    def together(self, model: nn.Module, on: torch.device, begin: Callable[[], None]) -> Together:
        """A step's side of the team: NCCL between cards, gloo between CPUs."""
        if on.type == "cuda":
            torch.cuda.set_device(on)
            self._cards = self._cards or dist.new_group(backend="nccl")
        return Together(model, self._cards, begin)

    def dismiss(self, code: int) -> None:
        """The first process sends all others away, with this exit code."""
        self.tell(Order.LEAVE, code)
        self.part()

    def part(self) -> None:
        """Leaves the others."""
        dist.destroy_process_group()

    @staticmethod
    def is_broken(error: Exception) -> bool:
        """Whether this is what a process sees when another one is gone."""
        return isinstance(error, dist.DistError) or "gloo" in str(error)
