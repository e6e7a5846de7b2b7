"""The time to a result: how long the default recipe takes to the plain recipe's best validation loss."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from stockenh.commands.bench.figures import Aim, Figure, median
from stockenh.commands.measure import Clock
from stockenh.commands.train.run import train
from stockenh.config.schema import RunConfig, parse
from stockenh.errors import ConfigError, StockenhError, counted
from stockenh.storage.run_folder import RunFolder
from stockenh.training.stop import Interrupted

RESULT = "result"
AIM = Aim(0.5, at_most=True)  # the claim was 40 to 60% less

Curve = list[tuple[float, float]]  # after each epoch: seconds since the start, validation loss


def time_to_result(
    name: str, plain: Mapping[str, Any], own: Mapping[str, Any], seeds: Sequence[int], clock: Clock
) -> list[Figure]:
    """Both recipes by the project's loop, with the same model, data and seeds.

    plain, own: composed configs of the plain recipe and of the one that is measured. The plain recipe runs
    until its early stop; the other ends where it is as low. Seconds include validation.
    """
    taken: dict[str, list[float]] = {"plain": [], "own": []}
    epochs: list[str] = []
    for seed in seeds:
        of_plain = curve(_config(plain, seed, clock), clock)
        best = min(loss for _, loss in of_plain)
        of_own = curve(_config(own, seed, clock), clock, until=best)
        is_reached = of_own[-1][1] <= best
        first = next(number for number, (_, loss) in enumerate(of_plain) if loss == best)
        taken["plain"].append(of_plain[first][0])
        taken["own"].append(of_own[-1][0] if is_reached else math.inf)
        epochs.append(f"{len(of_own) if is_reached else 'never'} against {first + 1}")
    ratios = [own / plain for own, plain in zip(taken["own"], taken["plain"], strict=True)]
    note = f"epochs by seed: {', '.join(epochs)}"
    what = f"{name}: to the plain recipe's best validation loss"
    reached = [seconds for seconds in taken["own"] if seconds < math.inf]
    in_loop = "experiment=plain by the project's loop"
    return [
        median(RESULT, f"{what}, plain recipe", "s", taken["plain"], note=in_loop),
        *([median(RESULT, f"{what}, this recipe", "s", reached)] if reached else []),
        _ratio(f"{what}, this recipe / plain", ratios, note),
    ]


def _ratio(name: str, ratios: Sequence[float], note: str) -> Figure:
    """The median over seeds, of which those that never reach the loss count as infinite."""
    middle = sorted(ratios)[len(ratios) // 2]
    never = sum(ratio == math.inf for ratio in ratios)
    if never:
        note = f"{counted(never, 'seed')} of {len(ratios)} never reached it; {note}"
    if middle == math.inf:
        return Figure(RESULT, name, "times", rounds=len(ratios), aim=AIM, note=note)
    if never:
        return Figure(RESULT, name, "times", middle, rounds=len(ratios), aim=AIM, note=note)
    return median(RESULT, name, "times", ratios, AIM, note)


def _config(raw: Mapping[str, Any], seed: int, clock: Clock) -> RunConfig:
    return parse({**raw, "seed": seed, "device": str(clock.device), "threads": raw["threads"] or 1})


def curve(config: RunConfig, clock: Clock, until: float | None = None) -> Curve:
    """The validation loss of a run over its epochs, which ends once it is as low as `until`."""
    found: Curve = []
    began = 0.0

    def begin(made: RunConfig) -> None:
        nonlocal began
        folder.begin(made.raw)
        began = clock.now()

    def report(epoch: int, line: Mapping[str, Any]) -> bool:
        if line["val_loss"] is None:
            raise ConfigError("bench=result compares validation losses: the split must hold a part out")
        found.append((clock.now() - began, float(line["val_loss"])))
        return until is not None and found[-1][1] <= until

    with tempfile.TemporaryDirectory() as temporary:
        folder = RunFolder(Path(temporary) / "run")
        folder.path.mkdir()
        quiet = Console(file=io.StringIO())
        try:
            train(config, folder, clock.device, quiet, report=report, judged=("val",), begin=begin)
        except Interrupted:
            raise KeyboardInterrupt from None
    if not found:
        raise StockenhError("the recipe trained no epoch: raise train.epochs")
    return found
