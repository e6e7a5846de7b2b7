"""What the runs of an ablation left in their folders, and the measures that claims are made of.

Everything here is read from files, so that the table can be made again from the folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from stockenh.commands.ablate.cells import DONE, AblationFolder
from stockenh.commands.ablate.claims import Claim, Interval, Verdict, assess
from stockenh.commands.ablate.plan import PLAIN, Cell, Plan, Row
from stockenh.config.schema import RunConfig
from stockenh.errors import RunFolderError

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


@dataclass(frozen=True)
class ClaimLine:
    """One claim, what was measured of it, and the verdict."""

    claim: Claim
    measured: Interval | None
    verdict: Verdict


@dataclass(frozen=True)
class Line:
    """One recipe in figures.

    note:        what a reader must know of it
    seeds:       how many runs its figures are of
    level:       means over the seeds, by horizon and score
    differences: paired with the plain recipe, by horizon and score; accuracy and gap in points
    costs:       over the plain recipe's, by measure
    compute:     windows seen in training over those that the plain recipe sees; None where nothing is known
    chosen:      how many seeds kept averaged weights, by name
    """

    name: str
    title: str
    note: str
    seeds: int
    level: Mapping[str, Mapping[str, float | None]]
    differences: Mapping[str, Mapping[str, Interval | None]]
    costs: Mapping[str, Interval | None]
    compute: float | None
    chosen: Mapping[str, int]
    claims: tuple[ClaimLine, ...]


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
            try:
                runs[cell.recipe.name, cell.seed] = _of_run(folder, cell, state["figures"])
            except KeyError as error:
                raise RunFolderError(f"{cell.path} of {folder.path} lacks {error}") from None
    return Found(runs, cost, failed)


def _of_run(folder: AblationFolder, cell: Cell, figures: Mapping[str, Any]) -> SeedFigures:
    assert cell.recipe is not None
    if cell.recipe.kind == "search":
        return SeedFigures(figures["test"], epochs=figures["epochs"])
    run = folder.run(cell)
    summary, history = run.read_summary(), run.read_metrics()
    averaged = [line["by_weights"].get("ema", line["by_weights"]["raw"])["loss"] for line in history]
    return SeedFigures(
        test=summary["parts"]["test"],
        views=figures["views"],
        curve=tuple(loss for line in history if (loss := line["val_loss"]) is not None),
        averaged=tuple(loss for loss in averaged if loss is not None),
        weights=summary["weights"],
        epochs=summary["epochs"],
    )


def values(measure: str, row: Row, found: Found, horizon: str) -> list[float]:
    """A measure of a row, one value per seed (per round where it is of cost); empty where there is none."""
    costs = found.cost.get(measure, {})
    key = row.recipe if measure in ("train_speed", "memory") else row.name
    if measure in ("train_speed", "inference_speed"):
        return list(costs.get(key, []))
    if measure in ("memory", "weights_bytes"):
        own, plain = costs.get(key), costs.get(PLAIN)
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


DIFFERENCES = ("accuracy", "gap_closed", "log_loss", "log_loss_calibrated", "ece", "ece_calibrated")
COSTS = ("train_speed", "memory", "inference_speed")


def lines_of(
    plan: Plan, found: Found, base: RunConfig, configs: Mapping[str, Any], horizon: int
) -> list[Line]:
    """Every row of the plan; horizon: bars ahead, of the verdicts."""
    return [_line(row, plan, found, base, configs, f"h{horizon}") for row in plan.rows]


def _line(
    row: Row, plan: Plan, found: Found, base: RunConfig, configs: Mapping[str, Any], horizon: str
) -> Line:
    horizons = [f"h{bars}" for bars in base.data.horizons]
    seeds = found.seeds(row)
    own = [found.scores(row, seed) for seed in seeds]
    runs = [found.runs[row.recipe, seed] for seed in seeds]
    device = str(found.cost.get("device", "cpu"))
    majority = _mean([found.plain(seed).get(horizon, {}).get("majority") for seed in seeds])
    chosen = {name: sum(run.weights == name for run in runs) for name in ("ema", "swa")}
    unkept = bool(runs) and _averages(configs.get(row.recipe, {})) and not any(chosen.values())
    claims = []
    for measure, claim in row.claims.items():
        given = values(measure, row, found, horizon)
        verdict = assess(claim, given, device, majority)
        if unkept and measure == "accuracy":
            verdict = replace(verdict, why=f"{verdict.why}: validation never kept the average")
        claims.append(ClaimLine(claim, Interval.of(given), verdict))
    scores = ("accuracy", "majority", "limit_accuracy", "gap_closed", "log_loss", "ece", "ece_calibrated")
    return Line(
        name=row.name,
        title=row.title,
        note=row.note,
        seeds=len(seeds),
        level={h: {key: _mean([of.get(h, {}).get(key) for of in own]) for key in scores} for h in horizons},
        differences={
            h: {key: Interval.of(values(key, row, found, h)) for key in DIFFERENCES} for h in horizons
        },
        costs={key: Interval.of(values(key, row, found, horizon)) for key in COSTS},
        compute=_compute(row, plan, found, base, configs) if seeds else None,
        chosen=chosen,
        claims=tuple(claims),
    )


def _averages(config: Mapping[str, Any]) -> bool:
    """Whether a recipe keeps averaged weights beside the raw ones."""
    averaging = config.get("averaging", {})
    return averaging.get("ema_decay") is not None or averaging.get("swa_start") is not None


def _compute(row: Row, plan: Plan, found: Found, base: RunConfig, configs: Mapping[str, Any]) -> float | None:
    """Windows seen in training over the plain recipe's, with those of teachers, trials and range tests."""
    recipe = plan.recipe(row.recipe)
    plain = [found.runs[PLAIN, seed].epochs for seed in found.seeds(row)]
    own = [found.runs[row.recipe, seed].epochs for seed in found.seeds(row)]
    ratio = sum(own) / sum(plain)
    if recipe.kind == "student":
        return ratio + 1.0
    train = configs.get(row.recipe, {}).get("train", {})
    windows = found.cost.get("train_windows")
    if windows and configs.get(row.recipe, {}).get("optimizer", {}).get("lr") == "auto":
        # each loss is compared with the untouched model's on the same batch: a forward pass more
        steps = base.finder.seeds * base.finder.steps
        seen = steps * train["batch_size"] * train["accumulate"] * 4 / 3
        ratio += seen / (windows * base.train.epochs)
    return ratio


def _mean(given: list[Any]) -> float | None:
    known = [value for value in given if value is not None]
    return sum(known) / len(known) if known else None
