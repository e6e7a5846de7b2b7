"""All figures of an evaluation from arrays alone: no run folder, no model.

Legend: n rows (one symbol at one date), H horizons, D dates of the part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.evaluation.bootstrap import BlockBootstrap, Floats, Resampling
from stockenh.evaluation.ic import DailyIC, best_rank_ic, daily_ic, ic_figures
from stockenh.evaluation.metrics import (
    Forecast,
    Metrics,
    Scored,
    class_shares,
    coverage_curve,
    gap_closed,
    limits,
    score,
)

MODEL, CALIBRATED, BEST = "model", "calibrated", "best possible"
OWN = (MODEL, CALIBRATED)
MARGIN, SPREAD = "margin", "spread"  # rules that tell which forecasts to trust
IMPLAUSIBLE = 0.65  # of direction on real daily bars

Forecasts = Mapping[str, Sequence[Forecast]]


@dataclass(frozen=True)
class Part:
    """Rows that forecasts are scored on.

    asof: (n,) time of the window's last bar; y_ret: (n, H), NaN where there is no label; horizons: H bars
    best_prob, best_score: (n, H) where they are known, else None, see `Windows`
    y_dir, raw_ret: (n, H) direction and simple return, see `Windows`; None: the same as y_ret
    """

    asof: NDArray[np.datetime64]
    y_ret: Floats
    horizons: tuple[int, ...]
    best_prob: Floats | None = None
    y_dir: Floats | None = None
    raw_ret: Floats | None = None
    best_score: Floats | None = None

    def take(self, rows: NDArray[np.int64]) -> Part:
        """These rows only."""
        names = ("asof", "y_ret", "best_prob", "y_dir", "raw_ret", "best_score")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: array[rows] for name, array in given.items() if array is not None})

    def labelled(self, column: int) -> LabelledRows:
        """The rows that have a label at the horizon of this column."""
        rows = np.isfinite(self.y_ret[:, column])
        days, date = np.unique(self.asof[rows], return_inverse=True)
        y_ret, y_dir, raw_ret = (
            (self.y_ret if array is None else array)[rows, column].astype(np.float64)
            for array in (self.y_ret, self.y_dir, self.raw_ret)
        )
        return LabelledRows(rows, y_ret, y_dir, raw_ret, days, date)


@dataclass(frozen=True)
class LabelledRows:
    """rows: (n,) which rows of the part these m are; y_ret, y_dir, raw_ret: (m,); days: (D,); date: (m,)
    index into days."""

    rows: NDArray[np.bool_]
    y_ret: Floats
    y_dir: Floats
    raw_ret: Floats
    days: NDArray[np.datetime64]
    date: NDArray[np.int64]


def evaluate_part(
    part: Part,
    forecasts: Forecasts,
    resampling: Resampling,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, dict[str, Any]]:
    """Scores, baselines, differences and ICs per horizon, as {"h3": {...}, ...}.

    forecasts: by name, a `Forecast` of the n rows for each horizon; those named "model" and "calibrated" are
    compared with every other. advance is called with 1 after every forecaster.

    Each horizon has `n ties tie_share dates up_share majority` of its labelled rows; `forecasts` by name,
    see `Scored.figures`, with `ic` and `rank_ic` of simple returns, see `ic_figures`;
    `against`, of each own forecast and every other the difference, see `Scored.minus`; `rank_ic_against`, of
    the model's rank IC and every other's; `p_majority`, of each
    own forecast, that it is no better than always the larger class of the same rows; and where the best
    forecast is known its limits, `limit_rank_ic` with the same figures as `rank_ic`.
    """
    return {
        f"h{horizon}": _evaluate_horizon(
            part, column, {name: given[column] for name, given in forecasts.items()}, resampling, advance
        )
        for column, horizon in enumerate(part.horizons)
    }


def _evaluate_horizon(
    part: Part,
    column: int,
    forecasts: dict[str, Forecast],
    resampling: Resampling,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    labelled = part.labelled(column)
    y_ret, y_dir, date, dates = labelled.y_ret, labelled.y_dir, labelled.date, len(labelled.days)
    draws = resampling.draw(dates, part.horizons)
    counts = None if draws is None else draws.counts()
    scored: dict[str, Scored] = {}
    rank_ics: dict[str, Floats] = {}
    figures: dict[str, dict[str, Any]] = {}
    for name, whole in forecasts.items():
        forecast = whole.take(labelled.rows)
        scored[name] = score(forecast, y_ret, date, dates, draws, counts, y_dir)
        figures[name] = {**scored[name].figures(), "ic": None, "rank_ic": None}
        if (daily := _daily_ic(forecast, labelled)) is not None:
            rank_ics[name] = daily.rank_ic
            figures[name]["ic"] = ic_figures(daily.ic, part.horizons[column], draws)
            figures[name]["rank_ic"] = ic_figures(daily.rank_ic, part.horizons[column], draws)
        advance(1)
    about = class_shares(y_dir)
    larger_class = Forecast(np.full(len(y_ret), float((about["up_share"] or 0) > 0.5)))
    in_hindsight = score(larger_class, y_ret, date, dates, draws, counts, y_dir)
    own = [name for name in OWN if name in scored]
    found: dict[str, Any] = {
        **about,
        "dates": dates,
        "mae_of_zero": float(np.abs(y_ret).mean()) if len(y_ret) else None,
        "forecasts": figures,
        "against": {
            name: {other: scored[name].minus(its) for other, its in scored.items() if other not in OWN}
            for name in own
        },
        "rank_ic_against": _rank_ic_against(rank_ics, part.horizons[column], draws),
        "p_majority": {name: scored[name].minus(in_hindsight)["accuracy"]["p"] for name in own},
    }
    if part.best_prob is not None:
        best = limits(part.best_prob[labelled.rows, column], y_ret)
        for name in own:
            accuracy, majority = figures[name]["accuracy"], about["majority"]
            figures[name]["gap_closed"] = gap_closed(accuracy, majority, best["limit_accuracy"])
        found |= best
    if part.best_score is not None:
        best_ic = best_rank_ic(part.best_score[labelled.rows, column], labelled.raw_ret, date, dates)
        found["limit_rank_ic"] = ic_figures(best_ic, part.horizons[column], draws)
    return found


def _daily_ic(forecast: Forecast, labelled: LabelledRows) -> DailyIC | None:
    if forecast.signal is None or not np.isfinite(forecast.signal).all():
        return None
    return daily_ic(forecast.signal, labelled.raw_ret, labelled.date, len(labelled.days))


def _rank_ic_against(
    rank_ics: Mapping[str, Floats], horizon: int, draws: BlockBootstrap | None
) -> dict[str, dict[str, float | None]]:
    """`mean low high` of the model's daily rank IC minus that of every other, on dates that both have."""
    if MODEL not in rank_ics:
        return {}
    found = {}
    for name, other in rank_ics.items():
        difference = ic_figures(rank_ics[MODEL] - other, horizon, draws)
        if name != MODEL and difference["mean"] is not None:
            found[name] = {key: difference[key] for key in ("mean", "low", "high")}
    return found


def coverage_by_rule(
    part: Part, up_prob: Floats, spread: Floats | None, resampling: Resampling
) -> dict[str, dict[str, list[Metrics]]]:
    """`coverage_curve` per rule and horizon; up_prob and spread are (n, H).

    The rules keep the forecasts of the largest margin abs(p - 0.5), and those of the least spread over views,
    where there are views.
    """
    unsure = {MARGIN: -np.abs(up_prob - 0.5)} | ({} if spread is None else {SPREAD: spread})
    found: dict[str, dict[str, list[Metrics]]] = {rule: {} for rule in unsure}
    for column, horizon in enumerate(part.horizons):
        labelled = part.labelled(column)
        y_dir, date, dates = labelled.y_dir, labelled.date, len(labelled.days)
        draws = resampling.draw(dates, part.horizons)
        for rule, values in unsure.items():
            prob, least = (x[labelled.rows, column] for x in (up_prob, values))
            found[rule][f"h{horizon}"] = coverage_curve(prob, least, y_dir, date, dates, draws)
    return found


def implausible(horizons: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The horizons whose accuracy is above 65% and above the part's own majority class: on real daily bars
    that is a leak until it is shown to be none."""
    suspect = []
    for horizon, figures in horizons.items():
        reached = [figures["forecasts"][name]["accuracy"] for name in OWN if name in figures["forecasts"]]
        best = max((value for value in reached if value is not None), default=None)
        if best is not None and best > IMPLAUSIBLE and best > figures["majority"]:
            suspect.append(horizon)
    return suspect
