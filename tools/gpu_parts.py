"""What `tools/gpu.py` checks and measures on a GPU, part by part."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import stockenh
from stockenh.commands.bench import training as bench
from stockenh.commands.bench.figures import Aim, Figure, median, skipped
from stockenh.commands.bench.inference import augmentation
from stockenh.commands.bench.setup import WARM, ProjectLoop, Setup, torch_layers
from stockenh.commands.measure import Clock
from stockenh.config import build
from stockenh.config.catalog import groups
from stockenh.config.compose import compose
from stockenh.config.schema import plain
from stockenh.data.batches import Group, ReadyWindows, TrainBatches
from stockenh.data.placement import StreamedWindows
from stockenh.embedding.compute import filled
from stockenh.embedding.kernel import KernelEmbedding
from stockenh.embedding.kronos import KronosEmbedding
from stockenh.inference.predict import predict
from stockenh.storage.machine import has_bf16, lacks_compiler, synchronize
from stockenh.training import checkpoint
from stockenh.training.distributed import DistributedStep, ProcessGroup, RankBatches
from stockenh.training.precision import NonFiniteGradient, Precision
from stockenh.training.step import Learner
from stockenh.training.world import Rank

ROOT = Path(__file__).resolve().parents[1]
GUARDED = ["tests/training/test_step.py", "tests/data/test_placement.py"]
TESTS_NEED = ("pytest", "hypothesis")
CPU = torch.device("cpu")
NOTHING, ROUNDING = Aim(0, at_most=True), Aim(1e-3, at_most=True)
SMALL = ("model=timeformer", "model.dropout=0", "embedding=none", "train.precision=fp32")
TINY = {
    "tft_xl": ("model.d_model=16", "model.heads=2", "model.lstm_layers=1", "model.fusion_layers=1"),
    "": ("model.d_model=16", "model.heads=2", "model.layers=1", "model.ffn=16", "model.head_hidden=8"),
}


@dataclass(frozen=True)
class Job:
    """How a part is done. tiny: at the size of a test; give: gets each figure as soon as it is there."""

    device: torch.device
    tiny: bool
    give: Callable[[Figure], None]

    @property
    def clock(self) -> Clock:
        return Clock(self.device, 0.01, 3, 0.0) if self.tiny else Clock(self.device, 4.0, 7)

    def few(self, steps: int) -> int:
        """So many steps, or two at the size of a test."""
        return 2 if self.tiny else steps

    def composed(self, *overrides: str) -> dict[str, Any]:
        """A config of `train` with these overrides, its model as small as a test needs."""
        small: tuple[str, ...] = ()
        if self.tiny:
            small = TINY["tft_xl" if "model=tft_xl" in overrides else ""]
        return plain(compose([*overrides, *small]))

    def setup(self, *overrides: str) -> Setup:
        raw = self.composed(*overrides)
        return Setup.make(raw, raw["model"], self.device)


def tests(job: Job) -> None:
    """The tests that need CUDA, once, with warnings shown instead of raised."""
    if lacking := [name for name in TESTS_NEED if importlib.util.find_spec(name) is None]:
        job.give(skipped("tests", "tests that need CUDA", f"no {lacking[0]}: pip install -e '.[dev]'"))
        return
    command = [sys.executable, "-m", "pytest", "-W", "default", "-p", "no:cacheprovider", "-k", "gpu or cuda"]
    wanted = ["--collect-only"] if job.tiny else []
    done = subprocess.run([*command, *wanted, *GUARDED], cwd=ROOT, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["it printed nothing"]
    print(done.stdout, done.stderr)
    job.give(Figure("tests", "exit code", value=done.returncode, aim=NOTHING, note=lines[-1].strip("= ")))


def poisoned(job: Job) -> None:
    """A batch that is not finite changes no weight and is reported later, with the step's number."""
    setup = job.setup(*SMALL)
    batches = setup.batches()
    learner = setup.learner(batches.steps)
    learner = replace(learner, precision=Precision("fp32", job.device, deferred=True))
    learner.step(batches.group(0, 0))
    before = _weights(learner)
    group = batches.group(0, 1)
    bad = replace(group.micros[0], x_ctx=group.micros[0].x_ctx * torch.nan)
    learner.step(Group((bad,), group.count, group.windows))
    job.give(
        _check("poisoned", "largest change by a batch that is not finite", _apart(before, _weights(learner)))
    )
    learner.step(batches.group(0, 2))
    ago = -1
    try:
        learner.precision.require_finite(now=True)
    except NonFiniteGradient as error:
        ago = error.ago
    job.give(_check("poisoned", "steps since, as reported, less one", abs(ago - 1)))
    finite = all(bool(torch.isfinite(x).all()) for x in _weights(learner).values())
    job.give(_check("poisoned", "weights not finite afterwards", float(not finite)))


def tft(job: Job) -> None:
    """A TFT in bf16 with an EMA: what its LSTM computes in, gradients of exactly 0, and warnings."""
    shares = {}
    for precision in ("fp32", "bf16"):
        setup = job.setup("model=tft_xl", "embedding=none", "averaging=ema", f"train.precision={precision}")
        batches = setup.batches()
        learner = setup.learner(batches.steps)
        dtypes: set[torch.dtype] = set()
        for layer in learner.model.lstm:  # type: ignore[union-attr]
            layer.register_forward_hook(lambda layer, given, out, seen=dtypes: seen.add(out[0].dtype))
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            for step in range(job.few(20)):
                learner.step(batches.group(0, step % batches.steps))
            predict(learner.averages.named(learner.model)["ema"], setup.resident, np.arange(64), setup.fitted)
        gradients = [p.grad for p in learner.model.lstm.parameters()]  # type: ignore[union-attr]
        zeros = sum(int((g == 0).sum()) for g in gradients if g is not None)
        shares[precision] = zeros / sum(g.numel() for g in gradients if g is not None)
        computed = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
        scattered = sum("contiguous" in str(one.message) for one in warned)
        others = "; ".join(sorted({str(one.message).split(".")[0] for one in warned}))
        note = f"warned of: {others}" if others else ""
        job.give(_check("tft", f"{precision}: warnings of scattered LSTM weights", scattered, note=note))
        half = float(torch.float16 in dtypes)
        job.give(_check("tft", f"{precision}: LSTM in fp16", half, note=f"its output is {computed}"))
    more, aim = shares["bf16"] - shares["fp32"], Aim(0.05, at_most=True)
    job.give(_check("tft", "LSTM gradients of 0, bf16 less fp32, share", more, aim))
    setup = job.setup("model=tft_xl", "embedding=none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo looks at attributes that warn
        explained = torch._dynamo.explain(setup.net())(*setup.inputs(8))
    note = f"{explained.graph_break_count} breaks: torch does not compile an LSTM"
    job.give(
        Figure("tft", "graphs that torch.compile makes of tft_xl", value=explained.graph_count, note=note)
    )


def compiled(job: Job) -> None:
    """Compiled steps against eager ones: accumulation, a short last group, and an EMA."""
    if lacking := lacks_compiler(job.device):
        job.give(skipped("compiled", "compiled steps", lacking))
        return
    for accumulate in (1, 2):
        found, seconds = [], []
        for wanted in ("false", "true"):
            began = time.perf_counter()
            setup = job.setup(
                *SMALL, "averaging=ema", "train.batch_size=32", f"train.accumulate={accumulate}",
                f"train.compile={wanted}",
            )  # fmt: skip
            batches = _batches(setup, 32 * accumulate * 2 + 8)  # the last group is short
            learner = setup.learner(batches.steps)
            for step in range(2 * batches.steps):
                learner.step(batches.group(*divmod(step, batches.steps)))
            averaged = learner.averages.named(learner.model)["ema"].state_dict()
            found.append(_weights(learner) | {f"ema.{k}": v.clone() for k, v in averaged.items()})
            synchronize(job.device)
            seconds.append(time.perf_counter() - began)
        note = f"eager {seconds[0]:.1f} s, compiled {seconds[1]:.1f} s"
        name = f"compiled less eager weights, accumulate={accumulate}"
        job.give(_check("compiled", name, _apart(*found), ROUNDING, note))


def streamed(job: Job) -> None:
    """Windows streamed from the host against resident ones, and a run that is stopped and resumed."""
    setup = job.setup("model=timeformer", "embedding=none", "augment=noise", "train.precision=fp32")
    ready = {
        "resident": setup.resident,
        "streamed": StreamedWindows(
            setup.prepared.windows, setup.prepared.embedding, setup.fitted, job.device
        ),
    }
    weights, steps = {}, job.few(12)
    for name, windows in ready.items():
        weights[name], seconds, count = _epoch(setup, windows, steps)
        job.give(Figure("streamed", f"{name} windows", "windows/s", count / seconds))
    apart = _apart(weights["resident"], weights["streamed"])
    job.give(_check("streamed", "weights by streamed less by resident windows", apart))
    stopped, _, _ = _epoch(setup, setup.resident, steps, stop=steps // 2)
    apart = _apart(weights["resident"], stopped)
    job.give(_check("streamed", "weights of a resumed less of an uninterrupted run", apart))


def embeddings(job: Job) -> None:
    """The kernel embedding and Kronos: on this device and a CPU, among other windows and alone."""
    windows = job.setup(*SMALL).prepared.windows
    count = min(len(windows), job.few(512) * (16 if job.tiny else 1))
    rows, one = torch.arange(count), filled(np.array([5]), count, torch.device("cuda"))
    tiny = str(ROOT / "tests" / "kronos_tiny")
    for name, embedding in {
        "kernel": KernelEmbedding(),
        "Kronos, fp32": KronosEmbedding(checkpoint=tiny, precision="fp32"),
    }.items():
        here, there = (embedding.rows(windows, device) for device in (job.device, CPU))
        among = here(rows.to(job.device))
        alone = here(torch.from_numpy(one).to(job.device))[0]
        single = here(rows[5:6].to(job.device))[0]
        job.give(
            _check("embeddings", f"{name}: alone in a filled batch", float((among[5] - alone).abs().max()))
        )
        aim = NOTHING if name == "kernel" else None
        differs = float((among[5] - single).abs().max())
        job.give(_check("embeddings", f"{name}: in a batch of one", differs, aim))
        across = (among.cpu() - there(rows)).abs().amax(1)
        aim = NOTHING if name == "kernel" else Aim(0.02, at_most=True)
        note = f"at most {float(across.max()):.2g}; Kronos can have another token"
        share = float((across > 1e-3).float().mean())
        job.give(_check("embeddings", f"{name}: share of windows unlike a CPU's", share, aim, note))


def waits(job: Job) -> None:
    """Steps of every augmentation, loss and average, in which the host must not wait for the GPU."""
    waiting, tried = {}, 0
    for group in ("augment", "loss", "averaging"):
        for option in groups()[group]:
            batch = "date" if option in ("rank_ic", "listwise") else "random"
            setup = job.setup(
                "model=timeformer", "embedding=none", f"{group}={option}", f"train.batch={batch}"
            )
            batches = setup.batches()
            learner = setup.learner(batches.steps)
            learner.step(batches.group(0, 0))  # what is made once may wait
            tried += 1
            try:
                with _reported_waits(job.device):
                    for step in range(1, 1 + job.few(20)):
                        learner.step(batches.group(0, step % batches.steps))
            except RuntimeError as error:
                waiting[f"{group}={option}"] = str(error).splitlines()[0]
    note = "; ".join(f"{name}: {why}" for name, why in waiting.items())
    job.give(_check("waits", f"of {tried} options those whose steps wait", len(waiting), note=note))


def training(job: Job) -> None:
    """The project's loop against the plain recipe in fp32 without TF32, by precision, eager and compiled."""
    name = "timeformer_xl"
    setup = job.setup(f"model={name}", "train.batch_size=64").with_train(accumulate=1)
    clock = replace(job.clock, warm=WARM)
    precisions = ["fp32", *(["bf16"] if has_bf16(job.device) else []), *_fp16(job.device)]
    base: dict[str, Callable[[], None]] = {
        "plain recipe": setup.plain_step(torch_layers(setup.net())),
        "plain recipe with TF32": setup.plain_step(torch_layers(setup.net()), tf32=True),
    }
    eager = {f"{name}, {p}": ProjectLoop(setup.with_train(precision=p)) for p in precisions}
    taken = clock.in_turn({**base, **eager})
    plain_seconds = taken["plain recipe"]
    for key, seconds in taken.items():
        job.give(median("training", key, "windows/s", setup.batch_size / seconds))
    for key in list(taken)[1:]:
        job.give(median("training", f"{key} / plain recipe", "times", plain_seconds / taken[key], _aim(key)))
    with_tf32 = taken["plain recipe with TF32"]
    job.give(median("training", f"{key} / plain recipe with TF32", "times", with_tf32 / taken[key]))
    for precision in (*precisions[1:], "fp32"):
        key, began = f"{name}, {precision}, compiled", time.monotonic()
        if lacking := lacks_compiler(job.device):
            job.give(skipped("training", key, lacking))
            continue
        loop = ProjectLoop(setup.with_train(precision=precision, compile=True))
        for _ in range(3):
            loop()
        synchronize(job.device)
        note = f"after {time.monotonic() - began:.0f} s of compiling"
        found = clock.in_turn({"plain": base["plain recipe"], key: loop})
        ratio = found["plain"] / found[key]
        job.give(median("training", f"{key} / plain recipe", "times", ratio, _aim(key), note))


def memory(job: Job) -> None:
    """Peak memory of both loops by precision; on a CPU that of new processes."""
    name = "timeformer_xl"
    for precision in ("fp32", "auto"):
        raw = job.composed(f"model={name}", "train.batch_size=64", f"train.precision={precision}")
        for figure in bench.memory(name, raw, raw["model"], job.device):
            job.give(replace(figure, name=f"{figure.name}, {precision}"))


def inference(job: Job) -> None:
    """Forecasts of a whole part, and five views against one pass."""
    setup = job.setup("model=timeformer_xl")
    rows, net = setup.prepared.rows["train"], setup.net().eval()
    rows = rows[: 64 if job.tiny else len(rows)]
    taken = job.clock.in_turn({"": partial(predict, net, setup.resident, rows, setup.fitted)})[""]
    job.give(median("inference", "timeformer_xl: evaluation", "windows/s", len(rows) / taken))
    for figure in augmentation("timeformer_xl", setup, job.clock):
        job.give(figure)


def commands(job: Job) -> None:
    """A run trained, judged and used for a forecast by the commands themselves."""
    small = TINY[""] if job.tiny else ()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = stockenh.train(
            "data=synthetic_small", "data.bars=600", "train.epochs=1", f"device={job.device}", *small,
            directory=Path(folder, "run"), quiet=True,
        )  # fmt: skip
        trained = time.perf_counter()
        run.evaluate(None, f"device={job.device}")
        judged = time.perf_counter()
        rows = len(run.forecast(None, f"device={job.device}", "tta.views=4"))
        ended = time.perf_counter()
    seconds = {"train": trained - began, "evaluate": judged - trained, "tta-predict": ended - judged}
    for name, value in seconds.items():
        job.give(Figure("commands", f"stockenh {name}", "s", value, note=f"{rows} forecasts"))


def one_process(job: Job) -> None:
    """The steps of several processes in one, over NCCL on a GPU, against plain ones: the same and as fast."""
    setup = job.setup("model=timeformer", "model.dropout=0", "embedding=none", "train.precision=fp32")
    batches, steps = setup.batches(), job.few(20)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    with _environment(address):
        group = ProcessGroup(Rank(0, 0, 1))
    try:
        found, seconds = [], []
        for is_shared in (False, True):
            learner, own = setup.learner(batches.steps), batches
            if is_shared:
                learner = replace(learner, processes=DistributedStep(group, learner.model, job.device))
                own = RankBatches(batches, setup.prepared.windows.direction, group.own)
            learner.step(own.group(0, 0))
            synchronize(job.device)
            began = time.perf_counter()
            for step in range(1, 1 + steps):
                learner.step(own.group(*divmod(step, own.steps)))
            synchronize(job.device)
            seconds.append((time.perf_counter() - began) / steps)
            found.append(_weights(learner))
            del learner
        job.give(_check("processes", "weights of DDP less plain ones", _apart(*found), ROUNDING))
        job.give(Figure("processes", "a step of DDP / a plain one", "times", seconds[1] / seconds[0]))
    finally:
        group.leave(0)


def two_processes(job: Job) -> None:
    """A short run of torchrun's in two processes, where there are two GPUs."""
    if job.device.type == "cuda" and torch.cuda.device_count() < 2:
        job.give(skipped("processes", "two processes", "one GPU"))
        return
    small = TINY[""] if job.tiny else ()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m",
                "stockenh", "train", "data=synthetic_small", "data.bars=600", "train.epochs=1",
                f"device={job.device.type}", f"hydra.run.dir={folder}/run", *small,
            ],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
    note = (done.stderr.strip().splitlines() or [""])[-1] if done.returncode else ""
    job.give(_check("processes", "exit code of two", done.returncode, note=note))


def _check(part: str, name: str, value: float, aim: Aim | None = NOTHING, note: str = "") -> Figure:
    return Figure(part, name, value=float(value), aim=aim, note=note)


def _aim(key: str) -> Aim | None:
    return Aim(8) if "bf16" in key or "fp16" in key else None


def _fp16(device: torch.device) -> list[str]:
    return ["fp16"] if device.type == "cuda" else []


def _weights(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.model.state_dict().items()}


def _apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference between two sets of weights; 0: the same bits."""
    return max(float((one[name].float() - other[name].float()).abs().max()) for name in one)


def _batches(setup: Setup, count: int, ready: ReadyWindows | None = None) -> TrainBatches:
    """Groups of the first `count` windows, the last of them as short as that makes it."""
    prepared = replace(setup.prepared, rows={"train": setup.prepared.rows["train"][:count]})
    return build.batches(setup.config, prepared, ready or setup.resident)


def _epoch(
    setup: Setup, ready: ReadyWindows, steps: int, stop: int | None = None
) -> tuple[dict[str, Tensor], float, int]:
    """Weights after so many steps, seconds and windows; stop: goes on from a checkpoint there."""
    batches = _batches(setup, steps * setup.batch_size, ready)
    learner = setup.learner(batches.steps)
    device, count = setup.device, 0
    torch.manual_seed(0)
    synchronize(device)
    began = time.perf_counter()
    with contextlib.closing(batches.groups(0, 0)) as groups:
        for step, group in enumerate(groups):
            if step == stop:
                learner = _resumed(setup, learner, batches.steps)
            learner.step(group)
            count += group.windows
    synchronize(device)
    return _weights(learner), time.perf_counter() - began, count


def _resumed(setup: Setup, learner: Learner, steps: int) -> Learner:
    """A new learner with the state of this one, by way of a file, as after a stop."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "last.pt")
        state = {"learner": learner.checkpoint(), "rng": checkpoint.rng_state(setup.device)}
        checkpoint.save(file, state)
        content, fresh = checkpoint.load(file), setup.learner(steps)
    fresh.restore(content["learner"])
    checkpoint.set_rng_state(content["rng"], setup.device)
    return fresh


@contextlib.contextmanager
def _reported_waits(device: torch.device) -> Iterator[None]:
    """Within, CUDA raises RuntimeError where the host waits for it."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
