"""The pictures of an evaluation, and the series that they are drawn from besides its figures.

Legend: D dates.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stockenh.commands.evaluate.figures import baselines_chart, coverage_chart, curve_chart, ic_chart
from stockenh.commands.evaluate.panel import Tranches
from stockenh.commands.evaluate.panel_figures import panel_pictures
from stockenh.commands.evaluate.rows import PartForecasts
from stockenh.commands.evaluate.tables import EXECUTIONS, part_line
from stockenh.commands.train.figures import reliability_chart
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.breakdown import breakdown
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.portfolio import Curve
from stockenh.evaluation.reliability import ends_as_lists, ends_of_lists, reliability_intervals
from stockenh.evaluation.summary import CALIBRATED, MODEL, OWN
from stockenh.inference.calibration import curves_as_lists, curves_of_lists, reliability_curves
from stockenh.report.page import Picture

DETAILS = "evaluation_series.json"  # what the pictures show day by day
DIGITS = 6  # behind the point of a daily figure
NAMES = ("baselines", "reliability", "coverage", "ic", "curve", "quantiles", "tranches", "decay", "years")

Floats = NDArray[np.float64]
Days = NDArray[np.datetime64]


def details(forecasts: PartForecasts, curves: Mapping[str, Curve], tranches: Tranches) -> dict[str, Any]:
    """The daily series and curves of an evaluation, and its scores by year and symbol, for JSON."""
    part = forecasts.part
    labels = part.y_ret if part.y_dir is None else part.y_dir
    own = [name for name in OWN if name in forecasts.forecasts]
    up_prob = {name: np.stack([f.score for f in forecasts.forecasts[name]], 1) for name in own}
    years = part.asof.astype("datetime64[Y]").astype(str)
    traded = None
    if curves:
        assert forecasts.next_ret is not None
        days = np.unique(part.asof[np.isfinite(forecasts.next_ret)])
        traded = {"days": _texts(days), "net": {name: _rounded(curve.net) for name, curve in curves.items()}}
    days, by_horizon = tranches
    return {
        "reliability": {
            name: curves_as_lists(reliability_curves(up_prob[name], labels, part.horizons)) for name in own
        },
        "intervals": ends_as_lists(
            reliability_intervals(up_prob[own[-1]], labels, part.asof, part.horizons, Resampling())
        ),
        "rank_ic": {
            f"h{horizon}": dict(zip(("days", "values"), _rank_ics(forecasts, column), strict=True))
            for column, horizon in enumerate(part.horizons)
        },
        "curve": traded,
        "tranches": {
            "days": _texts(days),
            "net": {h: _rounded(curve.net) for h, curve in by_horizon.items()},
        },
        "by_year": breakdown(up_prob[own[-1]], labels, part.horizons, years),
        "by_symbol": breakdown(up_prob[own[-1]], labels, part.horizons, forecasts.symbol),
    }


def pictures(found: Mapping[str, Any], series: Mapping[str, Any]) -> list[Picture]:
    """What there is to draw of an evaluation. found: evaluation.json; series: see `details`."""
    about = part_line(found)
    of_tranches = series["tranches"]
    made = panel_pictures(found, (_days(of_tranches["days"]), _arrays(of_tranches["net"])), about)
    draw = partial(baselines_chart, found["horizons"], found["own"], about)
    made.append(Picture("baselines", "direction accuracy beside the baselines", draw))
    if CALIBRATED in series["reliability"]:
        raw, calibrated = (curves_of_lists(series["reliability"][name]) for name in OWN)
        draw = partial(
            reliability_chart,
            raw,
            calibrated,
            part=f"the {found['part']}",
            intervals=ends_of_lists(series["intervals"]),
        )
        made.append(Picture("reliability", "how often prices rose by the forecast probability", draw))
    draw = partial(coverage_chart, found["coverage"], about)
    made.append(Picture("coverage", "accuracy of the forecasts that a rule keeps", draw))
    daily = {h: (_days(of["days"]), np.array(of["values"], float)) for h, of in series["rank_ic"].items()}
    if all(len(values) > 1 for _, values in daily.values()):
        made.append(Picture("ic", "rank IC over time", partial(ic_chart, daily, about)))
    if traded := series["curve"]:
        of = found["curve"]
        about += (
            f"\nby the probability of {of['horizon']} bars, {EXECUTIONS[of['execution']]}; costs: "
            f"{of['cost_bps']:g} basis points of what is traded"
        )
        draw = partial(curve_chart, _days(traded["days"]), _arrays(traded["net"]), about)
        made.append(Picture("curve", "growth from bar to bar after costs", draw))
    return made


def _rank_ics(forecasts: PartForecasts, column: int) -> tuple[list[str], list[float]]:
    """Dates and rank ICs of the model's returns on the dates that have one."""
    signal = forecasts.forecasts[MODEL][column].signal
    assert signal is not None
    labelled = forecasts.part.labelled(column)
    found = daily_ic(signal[labelled.rows], labelled.raw_ret, labelled.date, len(labelled.days)).rank_ic
    known = np.isfinite(found)
    return _texts(labelled.days[known]), _rounded(found[known])


def _texts(days: Days) -> list[str]:
    return [text.removesuffix("T00:00:00") for text in days.astype("datetime64[s]").astype(str)]


def _days(texts: list[str]) -> Days:
    return np.array(texts, "datetime64[s]")


def _rounded(values: Floats) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def _arrays(net: Mapping[str, list[float]]) -> dict[str, Floats]:
    return {name: np.array(values, float) for name, values in net.items()}
