"""All figures of an honest evaluation from arrays alone: no run folder, no model.

Legend: n rows (one symbol at one date), H horizons, D dates of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats
from stockenh.evaluation.ic import daily_ic, ic_figures
from stockenh.evaluation.metrics import limit_metrics
from stockenh.evaluation.scores import Forecast, Scored, coverage_curve, defined, score

MODEL, CALIBRATED, BEST = "model", "calibrated", "best possible"
OWN = (MODEL, CALIBRATED)
IMPLAUSIBLE = 0.65  # of direction on real daily bars

Forecasts = Mapping[str, Sequence[Forecast]]


@dataclass(frozen=True)
class Part:
    """Rows that forecasts are judged on.

    asof: (n,) time of the window's last bar; y_ret: (n, H), NaN where there is no label; horizons: H bars
    best_prob: (n, H) where it is known, else None
    """

    asof: NDArray[np.datetime64]
    y_ret: Floats
    horizons: tuple[int, ...]
    best_prob: Floats | None = None


@dataclass(frozen=True)
class Resampling:
    """How intervals are made. block: dates; None: twice the largest horizon."""

    block: int | None = None
    resamples: int = 1000
    seed: int = 0

    def block_of(self, horizons: Sequence[int]) -> int:
        return 2 * max(horizons) if self.block is None else self.block

    def draw(self, dates: int, horizons: Sequence[int]) -> BlockBootstrap | None:
        """None where the dates don't fill two blocks."""
        return BlockBootstrap.draw(dates, self.block_of(horizons), self.resamples, self.seed)


def judge(
    part: Part,
    forecasts: Forecasts,
    resampling: Resampling,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Any]]:
    """Scores, baselines, differences and ICs per horizon, as {"h3": {...}, ...}.

    forecasts: by name, a `Forecast` of the n rows for each horizon; those called "model" and "calibrated" are
    set against every other. advance is told of every forecaster that is done.

    Each horizon has `n ties tie_share dates up_share majority` of its labelled rows; `forecasts` by name,
    see `Scored.figures`, with `ic` and `rank_ic`, see `ic_figures`; `against`, of each own forecast and every
    other the difference, see `Scored.beyond`; `p_majority`, of each own forecast, that it is no better than
    always the larger class of these very rows; and where the best forecast is known its limits.
    """
    return {
        f"h{horizon}": _judge_horizon(
            part, column, {name: of[column] for name, of in forecasts.items()}, resampling, advance
        )
        for column, horizon in enumerate(part.horizons)
    }


def _judge_horizon(
    part: Part,
    column: int,
    forecasts: dict[str, Forecast],
    resampling: Resampling,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    labelled = np.isfinite(part.y_ret[:, column])
    y_ret = part.y_ret[labelled, column].astype(np.float64)
    days, date = np.unique(part.asof[labelled], return_inverse=True)
    draws = resampling.draw(len(days), part.horizons)
    counts = None if draws is None else draws.counts()
    moved = y_ret != 0
    up_share = float((y_ret[moved] > 0).mean()) if moved.any() else np.nan
    scored: dict[str, Scored] = {}
    figures: dict[str, Any] = {}
    for name, whole in forecasts.items():
        forecast = whole.at(labelled)
        scored[name] = score(forecast, y_ret, date, len(days), draws, counts)
        figures[name] = {**scored[name].figures(), **_ics(forecast, y_ret, date, part, column, draws)}
        advance(1)
    in_hindsight = score(Forecast(np.full(len(y_ret), float(up_share > 0.5))), y_ret, date, len(days), draws)
    own = [name for name in OWN if name in scored]
    found: dict[str, Any] = {
        "n": len(y_ret),
        "ties": int((~moved).sum()),
        "tie_share": defined(float((~moved).mean())) if len(y_ret) else None,
        "dates": len(days),
        "up_share": defined(up_share),
        "majority": defined(max(up_share, 1 - up_share)),
        "mae_of_zero": float(np.abs(y_ret).mean()) if len(y_ret) else None,
        "forecasts": figures,
        "against": {
            name: {other: scored[name].beyond(of) for other, of in scored.items() if other not in OWN}
            for name in own
        },
        "p_majority": {name: scored[name].beyond(in_hindsight)["accuracy"]["p"] for name in own},
    }
    if part.best_prob is not None:
        best = part.best_prob[labelled, column]
        for name in own:
            shown = {"accuracy": figures[name]["accuracy"], "majority": found["majority"]}
            figures[name]["gap_closed"] = limit_metrics(shown, best, y_ret)["gap_closed"]
        limits = limit_metrics({"accuracy": None, "majority": None}, best, y_ret)
        found |= {key: limits[key] for key in ("limit_accuracy", "limit_log_loss")}
    return found


def _ics(
    forecast: Forecast,
    y_ret: Floats,
    date: NDArray[np.int64],
    part: Part,
    column: int,
    draws: BlockBootstrap | None,
) -> dict[str, Any]:
    days = len(np.unique(date))
    if forecast.signal is None or not np.isfinite(forecast.signal).all():
        return {"ic": None, "rank_ic": None}
    daily = daily_ic(forecast.signal, y_ret, date, days)
    horizon = part.horizons[column]
    return {
        "ic": ic_figures(daily.ic, horizon, draws),
        "rank_ic": ic_figures(daily.rank_ic, horizon, draws),
    }


def judge_coverage(
    part: Part, up_prob: Floats, uncertainty: Floats, resampling: Resampling
) -> dict[str, list[dict[str, Any]]]:
    """`coverage_curve` per horizon; up_prob and uncertainty are (n, H)."""
    found = {}
    for column, horizon in enumerate(part.horizons):
        labelled = np.isfinite(part.y_ret[:, column])
        days, date = np.unique(part.asof[labelled], return_inverse=True)
        draws = resampling.draw(len(days), part.horizons)
        said, unsure = up_prob[labelled, column], uncertainty[labelled, column]
        y_ret = part.y_ret[labelled, column].astype(np.float64)
        found[f"h{horizon}"] = coverage_curve(said, unsure, y_ret, date, len(days), draws)
    return found


def implausible(judged: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The horizons whose accuracy is above 65% and above the part's own majority class: on real daily bars
    that is a leak until it is shown to be none."""
    suspect = []
    for horizon, of in judged.items():
        reached = [of["forecasts"][name]["accuracy"] for name in OWN if name in of["forecasts"]]
        best = max((value for value in reached if value is not None), default=None)
        if best is not None and best > IMPLAUSIBLE and best > of["majority"]:
            suspect.append(horizon)
    return suspect
