"""What a cell does besides training: a search, the measurement of costs.

Costs are measured in turn, peak memory in a process of its own, on random numbers of the data's widths:
neither time nor memory depends on what they are.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from stockenh.commands.ablate.plan import PLAIN, Cell, Row
from stockenh.commands.ablate.spec import AblationSpec
from stockenh.commands.measure import Clock, Seconds, in_new_process, peak_memory
from stockenh.commands.multirun.folder import CONFIG_DIR
from stockenh.commands.multirun.launch import last_line
from stockenh.commands.multirun.stops import is_requested
from stockenh.commands.sweep.spec import SweepFolder
from stockenh.commands.train.session import resolved
from stockenh.config import build, plugins
from stockenh.config.schema import GROUPS, RunConfig, literals, parse
from stockenh.data.batches import Counts, Group, Micro
from stockenh.data.fitted import Fitted
from stockenh.errors import StockenhError
from stockenh.models import InputSpec
from stockenh.models.cpu.memory import keep_freed_memory, threads
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder
from stockenh.training.optimizers import AUTO
from stockenh.training.step import Learner

STOP_SECONDS = 60.0  # for a search to save where it is
SCHEDULE_STEPS = 1000  # of the schedule that a measured learner is given
MEMORY_STEPS = 3  # optimizer steps: from the second on everything that a step needs is allocated
WINDOWS = 256  # forecast at once
WAIT_SECONDS = 600  # for a process that measures memory
AS_PLAIN = "plain_recipe"  # the option of each group that a search begins with


def costs(config: RunConfig, spec: AblationSpec, device: torch.device) -> dict[str, Any]:
    """What all recipes of an ablation cost beside the plain one."""
    configs = {name: parse(raw) for name, raw in spec.configs.items()}
    prepared = build.data(config, device)
    kept = [r for r in spec.plan.recipes if r.kind == "train" and not r.name.startswith("without_")]
    rows = [row for row in spec.plan.rows if row.recipe in configs and not row.name.startswith("without_")]
    names, rounds = [recipe.name for recipe in kept], spec.settings.rounds
    spec_of = replace(prepared.spec, categories=())  # an embedding of a symbol's category costs nothing
    found = measure(configs, names, rows, spec_of, device, rounds)
    return {**found, "train_windows": len(prepared.rows["train"])}


def search(cell: Cell, spec: AblationSpec, directory: Path) -> tuple[RunFolder, dict[str, Any]]:
    """The best trial of a search, each trial as long as a plain run, and what the search took.

    It is a process of its own; a stopped one is resumed. Raises StockenhError where it failed.
    """
    assert cell.recipe is not None
    folder = SweepFolder(directory / "search")
    # not in the ablation's folder: options that somebody else left there would be found before Hydra's own
    with TemporaryDirectory(prefix="stockenh-") as options:
        own = [
            *write_as_options(spec.configs[PLAIN], Path(options), spec.flags), "sweep=base",
            "hydra/sweeper=stockenh_optuna", f"train.epochs={spec.base.train.epochs}", f"seed={cell.seed}",
            f"hydra.sweep.dir={folder.path}", *cell.recipe.overrides,
        ]  # fmt: skip
        command = [
            sys.executable,
            "-m",
            "stockenh",
            "sweep",
            *plugins.flags(),
            f"{CONFIG_DIR}{options}",
            *own,
        ]
        _run(command, directory / "search.log", spec.folder.path)
    looks = folder.read().get("test", [])
    if not looks:
        raise StockenhError(f"{folder.path}: the search has no best trial that was judged on the test part")
    best = looks[-1]
    trials = [RunFolder(path.parent) for path in folder.path.glob("*/summary.json")]
    seen = sum(trial.read_summary()["epochs"] for trial in trials)
    figures = {"trial": best["trial"], "trials": len(trials), "epochs": seen}
    return RunFolder.open(folder.trial(best["trial"]).path), figures


def write_as_options(config: Mapping[str, Any], directory: Path, flags: Sequence[str]) -> list[str]:
    """Writes a recipe as options of its groups and as an experiment; returns the overrides that pick them.

    So another command begins with exactly this recipe, wherever its values come from. flags: those that name
    a folder of the user's own options, which overrides may use too.
    """
    for source in (Path(flag.removeprefix(CONFIG_DIR)) for flag in flags):
        # the depth of hydra/launcher/NAME.yaml; below may lie anything, such as runs
        for found in (path for depth in range(3) for path in source.glob("*/" * depth + "*.yaml")):
            copy = directory / found.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found, copy)
    nodes = {group: config[group] for group in GROUPS if group in config}
    nodes["experiment"] = {key: node for key, node in config.items() if key not in GROUPS}
    for group, node in nodes.items():
        head = "# @package _global_\n" if group == "experiment" else ""
        path = directory / group / f"{AS_PLAIN}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, (head + yaml.safe_dump(literals(node), sort_keys=False)).encode())
    return [f"{group}={AS_PLAIN}" for group in nodes]


def _run(command: Sequence[str], log: Path, ablation: Path) -> None:
    """Runs a command to its end; passes on a Ctrl-C or a stop of the ablation and waits for it.

    Raises StockenhError where it fails, KeyboardInterrupt after a stop.
    """
    with log.open("a") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while (code := _code(process)) is None:
                if is_requested(ablation):
                    raise KeyboardInterrupt
        except BaseException:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()  # its workers die with it
            raise
    if code:
        raise StockenhError(f"the search ended with exit code {code}: {last_line(log)}")


def _code(process: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a process; None where it still runs after a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1.0)
    return None


def measure(
    configs: Mapping[str, RunConfig],
    trained: Sequence[str],
    rows: Sequence[Row],
    spec: InputSpec,
    device: torch.device,
    rounds: int,
) -> dict[str, Any]:
    """What every recipe in `trained` costs to train, and every row to forecast; the first of each is plain.

    configs: by the name of a recipe. On a CPU one thread's processor time, which other processes disturb
    little.
    """
    clock = Clock(device, math.inf, rounds, turn=0)
    micros = math.lcm(*(configs[name].train.accumulate for name in trained))
    with threads(1):
        training = clock.in_turn(
            {name: partial(training_steps(configs[name], spec, device), micros) for name in trained}
        )
        forecasting = clock.in_turn(
            {row.name: _forecasting(configs[row.recipe], row, spec, device) for row in rows}
        )
    windows = {name: micros * configs[name].train.batch_size for name in trained}
    return {
        "device": device.type,
        "rounds": rounds,
        "train_windows_per_second": {n: windows[n] / float(np.median(s)) for n, s in training.items()},
        "train_speed": _ratios(training),
        "forecast_ms": {name: 1000 * float(np.median(s)) for name, s in forecasting.items()},
        "inference_speed": _ratios(forecasting),
        "weights_bytes": {row.name: _bytes(configs[row.recipe], spec) for row in rows},
        "memory": {name: training_memory(configs[name], spec, device) for name in trained},
    }


def training_steps(config: RunConfig, spec: InputSpec, device: torch.device) -> Callable[[int], None]:
    """A recipe's training step on random windows: a function that makes steps over so many micro batches."""
    if config.optimizer.lr == AUTO:  # a rate that is still to be found changes no time
        config = replace(config, optimizer=replace(config.optimizer, lr=config.finder.start_lr))
    torch.manual_seed(config.seed)
    net = config.model.build(spec).to(device)
    config = resolved(config, net, device)
    no_statistics = Fitted(
        [""] * spec.context, [0.0] * spec.context, [1.0] * spec.context,
        [1.0] * spec.horizons, [0.5] * spec.horizons,
    )  # fmt: skip
    learner = build.learner(config, net.train(), no_statistics, device, SCHEDULE_STEPS)
    micro = _micro(config.train.batch_size, spec, device)

    def steps(micros: int) -> None:
        for _ in range(-(-micros // config.train.accumulate)):
            _step(learner, micro, config.train.accumulate)

    return steps


def training_memory(config: RunConfig, spec: InputSpec, device: torch.device) -> int | None:
    """Bytes that training steps hold at their peak, weights and optimizer included; None: not counted here.

    A process that fails counts nothing. Raises subprocess.TimeoutExpired after ten minutes.
    """
    arguments = (config.raw, asdict(spec), str(device))
    try:
        found: int | None = in_new_process(memory_here, *arguments, timeout=WAIT_SECONDS)
    except subprocess.CalledProcessError:
        return None
    return found


def memory_here(raw: Mapping[str, Any], widths: Mapping[str, Any], device_name: str) -> int | None:
    """`training_memory` in this process, which must be new."""
    config, spec, device = parse(raw), InputSpec(**widths), torch.device(device_name)
    keep_freed_memory()
    torch.set_num_threads(1)
    micros = MEMORY_STEPS * config.train.accumulate
    return peak_memory(lambda: training_steps(config, spec, device)(micros), device)


def _forecasting(config: RunConfig, row: Row, spec: InputSpec, device: torch.device) -> Callable[[], object]:
    net = config.model.build(spec).to(device).eval()
    passes = 1 + (config.tta.views if row.views else 0)
    inputs = _micro(WINDOWS, spec, device).inputs

    @torch.inference_mode()
    def call() -> None:
        for _ in range(passes):
            net(*inputs)

    return call


def _ratios(taken: Mapping[str, Seconds]) -> dict[str, list[float]]:
    """How many times as fast as the first, round by round."""
    first = next(iter(taken.values()))
    return {name: (first / np.maximum(seconds, 1e-9)).tolist() for name, seconds in taken.items()}


def _micro(batch: int, spec: InputSpec, device: torch.device) -> Micro:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(device)

    labels = random(batch, spec.horizons) - 0.5
    return Micro(
        x_price=random(batch, spec.lookback, spec.price),
        x_embedding=random(batch, spec.embedding),
        x_ctx=random(batch, spec.context),
        y_ret=labels,
        y_up=(labels > 0).float(),
        labelled=torch.ones_like(labels),
        day=torch.zeros(batch, dtype=torch.int64, device=device),
    )


def _step(learner: Learner, micro: Micro, accumulate: int) -> None:
    micros = (micro,) * accumulate
    learner.step(Group(micros, Counts.of(micros), len(micro.y_ret) * accumulate))


def _bytes(config: RunConfig, spec: InputSpec) -> int:
    with torch.device("meta"):
        net: nn.Module = config.model.build(spec)
    return sum(p.numel() * p.element_size() for p in net.state_dict().values())
