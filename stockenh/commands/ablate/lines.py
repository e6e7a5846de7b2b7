"""The lines of an ablation's tables: every recipe in figures, and the verdicts on what is claimed of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockenh.commands.ablate.claims import ClaimLine, judge
from stockenh.commands.ablate.measures import difference, gap_of, measured
from stockenh.commands.ablate.plan import PLAIN, Plan, Row
from stockenh.commands.ablate.results import Found
from stockenh.config.schema import RunConfig
from stockenh.evaluation.metrics import defined
from stockenh.evaluation.paired import Interval

DIFFERENCES = ("accuracy", "gap_closed", "log_loss", "log_loss_calibrated", "auc", "ece", "ece_calibrated")
LEVELS = ("accuracy", "majority", "limit_accuracy", "log_loss", "auc", "ece", "ece_calibrated")
COSTS = ("train_speed", "memory", "inference_speed")


@dataclass(frozen=True)
class Line:
    """One recipe in figures.

    note:        what a reader must know of it
    seeds:       how many runs its figures are of
    level:       means over the seeds, by horizon and score
    differences: paired with the plain recipe, by horizon and score; accuracy and gap in points
    costs:       over the plain recipe's, by measure
    compute:     windows seen in training over those that the plain recipe sees; None where nothing is known
    weights:     the weights that are judged; empty: those that validation chose
    chosen:      how many seeds' validation chose which weights
    """

    name: str
    title: str
    note: str
    seeds: int
    level: Mapping[str, Mapping[str, float | None]]
    differences: Mapping[str, Mapping[str, Interval | None]]
    costs: Mapping[str, Interval | None]
    compute: float | None
    weights: str
    chosen: Mapping[str, int]
    claims: tuple[ClaimLine, ...]

    @property
    def judged(self) -> str:
        """`swa; validation kept raw in 3 of 3`, or the weights that validation chose."""
        others = [f"{name} in {n} of {self.seeds}" for name, n in self.chosen.items() if name != self.weights]
        if self.weights:
            return f"{self.weights}; validation kept {', '.join(others)}" if others else self.weights
        return ", ".join(others) if len(others) > 1 else next(iter(self.chosen), "")


def lines_of(
    plan: Plan, found: Found, base: RunConfig, configs: Mapping[str, Any], horizon: int
) -> list[Line]:
    """Every row of the plan; horizon: bars ahead, of the verdicts."""
    given = [
        (claim, measured(measure, row, found, f"h{horizon}"))
        for row in plan.rows
        for measure, claim in row.claims.items()
    ]
    shares = [
        run.test.shares[run.weights].get(f"h{horizon}", {})
        for (recipe, _), run in found.runs.items()
        if recipe == PLAIN
    ]
    majority = _mean([_total(of, "majority") for of in shares])
    judged = iter(judge(given, str(found.cost.get("device", "cpu")), majority))
    return [
        _line(row, plan, found, base, configs, tuple(next(judged) for _ in row.claims)) for row in plan.rows
    ]


def _line(
    row: Row,
    plan: Plan,
    found: Found,
    base: RunConfig,
    configs: Mapping[str, Any],
    claims: tuple[ClaimLine, ...],
) -> Line:
    horizons = [f"h{bars}" for bars in base.data.horizons]
    seeds = found.seeds(row)
    own = [found.shares(row, seed) for seed in seeds]
    costs = {key: measured(key, row, found, horizons[0]) for key in COSTS}
    return Line(
        name=row.name,
        title=row.title,
        note=row.note,
        seeds=len(seeds),
        level={h: _levels([of.get(h, {}) for of in own]) for h in horizons},
        differences={h: {key: difference(key, row, found, h) for key in DIFFERENCES} for h in horizons},
        costs={key: None if of is None else of.shown for key, of in costs.items()},
        compute=_compute(row, plan, found, base, configs) if seeds else None,
        weights=row.weights or "",
        chosen=dict(Counter(found.runs[row.recipe, seed].weights for seed in seeds).most_common()),
        claims=claims,
    )


def _levels(seeds: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Means over the seeds of one horizon's scores."""
    level = {key: _mean([_total(of, key) for of in seeds]) for key in LEVELS}
    gap = gap_of(seeds[0]) if seeds else None
    accuracy, majority = level["accuracy"], level["majority"]
    if gap is None or accuracy is None or majority is None:
        return {**level, "gap_closed": None}
    return {**level, "gap_closed": (accuracy - majority) / gap}


def _total(scores: Mapping[str, Any], name: str) -> float | None:
    return defined(scores[name].sum()) if name in scores else None


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
