"""The table of an ablation as plain figures, before anything is printed or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from stockenh.ablation.figures import Found, values
from stockenh.ablation.plan import PLAIN, Plan, Row
from stockenh.analysis.claims import judge
from stockenh.analysis.paired import Interval
from stockenh.config import RunConfig
from stockenh.tables.ablation import ClaimLine, Line

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
        verdict = judge(claim, given, device, majority)
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
        seen = base.finder.steps * train["batch_size"] * train["accumulate"] * 4 / 3
        ratio += seen / (windows * base.train.epochs)
    return ratio


def _mean(given: list[Any]) -> float | None:
    known = [value for value in given if value is not None]
    return sum(known) / len(known) if known else None
