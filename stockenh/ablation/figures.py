"""What the runs of an ablation left in their folders, and the measures that claims are made of.

Everything here is read from files, so that the table can be made again from the folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from stockenh.ablation.folder import DONE, AblationFolder
from stockenh.ablation.plan import PLAIN, Cell, Plan, Row

Scores = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class SeedFigures:
    """One run of a recipe.

    test, views: {"h5": {...}}, scores of the test part, and with noisy views where it has them
    curve:       the validation loss by epoch, of the weights that were best then
    averaged:    the same of the EMA weights, where there are none of the raw ones
    weights:     which were kept
    epochs:      trained in all, the trials of a search together
    """

    test: Scores
    views: Scores | None = None
    curve: tuple[float, ...] = ()
    averaged: tuple[float, ...] = ()
    weights: str = ""
    epochs: int = 0


@dataclass(frozen=True)
class Found:
    """All figures of an ablation: runs by recipe and seed, and what the recipes cost."""

    runs: Mapping[tuple[str, int], SeedFigures]
    cost: Mapping[str, Any]
    failed: Mapping[str, str]

    def seeds(self, row: Row) -> list[int]:
        """The seeds that both a row and the plain recipe have."""
        mine = [seed for recipe, seed in self.runs if recipe == row.recipe]
        return sorted(seed for seed in mine if (PLAIN, seed) in self.runs)

    def scores(self, row: Row, seed: int) -> Scores:
        """A row's scores with one seed."""
        run = self.runs[row.recipe, seed]
        return (run.views or {}) if row.views else run.test

    def plain(self, seed: int) -> Scores:
        return self.runs[PLAIN, seed].test


def collect(folder: AblationFolder, plan: Plan) -> Found:
    """Reads every cell that is done. Raises RunFolderError where a run's files are damaged."""
    runs, cost, failed = {}, {}, {}
    for cell in plan.cells:
        state = folder.state(cell)
        if state and state["state"] != DONE:
            failed[cell.path] = str(state["why"])
        elif state and cell.recipe is None:
            cost = state["figures"]
        elif state and cell.recipe is not None and cell.seed is not None:
            runs[cell.recipe.name, cell.seed] = _of_run(folder, cell, state["figures"])
    return Found(runs, cost, failed)


def _of_run(folder: AblationFolder, cell: Cell, figures: Mapping[str, Any]) -> SeedFigures:
    assert cell.recipe is not None
    if cell.recipe.kind == "search":
        return SeedFigures(figures["test"], epochs=figures["epochs"])
    run = folder.run(cell)
    summary, history = run.read_json(run.summary), run.read_metrics()
    losses = [line["by_weights"] for line in history]
    return SeedFigures(
        test=summary["parts"]["test"],
        views=figures["views"],
        curve=tuple(line["val_loss"] for line in history),
        averaged=tuple(of.get("ema", of["raw"])["loss"] for of in losses),
        weights=summary["weights"],
        epochs=summary["epochs"],
    )


def values(measure: str, row: Row, found: Found, horizon: str) -> list[float]:
    """A measure of a row, one value per seed (per round where it is of cost); empty where there is none."""
    if measure in ("train_speed", "inference_speed"):
        key = row.recipe if measure == "train_speed" else row.name
        return list(found.cost.get(measure, {}).get(key, []))
    if measure in ("memory", "weights_bytes"):
        key = row.recipe if measure == "memory" else row.name
        of_cost = found.cost.get(measure, {})
        own, plain = of_cost.get(key), of_cost.get(PLAIN)
        return [own / plain] if own and plain else []
    if measure in ("convergence", "time_to_plain", "roughness"):
        return _of_curves(measure, row, found)
    key = {"accuracy_kept": "accuracy"}.get(measure, measure)
    pairs = [
        (found.scores(row, seed).get(horizon, {}).get(key), found.plain(seed).get(horizon, {}).get(key))
        for seed in found.seeds(row)
    ]
    known = [(own, plain) for own, plain in pairs if own is not None and plain is not None]
    if measure == "accuracy_kept":
        return [own / plain for own, plain in known if plain]
    unit = 100 if measure in ("accuracy", "gap_closed") else 1
    return [unit * (own - plain) for own, plain in known]


def _of_curves(measure: str, row: Row, found: Found) -> list[float]:
    given = []
    speeds = sorted(found.cost.get("train_speed", {}).get(row.recipe, []))
    for seed in found.seeds(row):
        own, plain = found.runs[row.recipe, seed], found.runs[PLAIN, seed]
        if not own.curve or not plain.curve:
            continue
        if measure == "roughness":
            if (of_plain := roughness(plain.averaged)) and (of_own := roughness(own.averaged)) is not None:
                given.append(of_own / of_plain)
            continue
        first, reached = epochs_to_plain(plain.curve, own.curve)
        if measure == "convergence":
            given.append(first / reached)
        elif speeds:
            given.append(reached / first / speeds[len(speeds) // 2])
    return given


def epochs_to_plain(plain: Sequence[float], own: Sequence[float]) -> tuple[int, int]:
    """The epoch of the plain recipe's best validation loss, and the first in which another is as low.

    Where it never is, the epoch after its last, which flatters it.
    """
    best = min(plain)
    reached = (epoch for epoch, loss in enumerate(own, 1) if loss <= best)
    return plain.index(best) + 1, next(reached, len(own) + 1)


def roughness(curve: Sequence[float]) -> float | None:
    """The mean absolute change of a loss from one epoch to the next; None with a single epoch."""
    changes = [abs(b - a) for a, b in pairwise(curve)]
    return sum(changes) / len(changes) if changes else None
