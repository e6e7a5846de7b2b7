"""What the report of a run shows beside its summary: reliability, scores by part, the newest forecasts.

All of it is written as data, so that the report can be drawn again from the folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from stockenh.commands.forecasts import (
    confident_margin,
    current,
    forecast_frame,
    newest_forecasts,
    quantile_interval,
)
from stockenh.commands.train.figures import reliability_chart
from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.data.windows import BarWindows, Windows
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.breakdown import breakdown
from stockenh.evaluation.reliability import ends_as_lists, reliability_intervals
from stockenh.inference.calibration import curves_as_lists, reliability_curves
from stockenh.inference.predict import Forecast, Predictions, predict
from stockenh.report.table import of_target

NAME = "details.json"


def write_details(session: Session, trained: Trained, net: nn.Module, test: Predictions | None) -> None:
    """Leaves report/details.json of a finished run; trained: the run opened, net: with its chosen weights,
    test: its predictions of the test part."""
    found: dict[str, Any] = {"newest": _newest(session, trained, net)}
    if test is not None:
        windows, rows = session.prepared.windows, session.prepared.rows["test"]
        labels = session.directions("test")
        up_prob = trained.calibration.apply(test.up_logits)
        before, after = (reliability_curves(p, labels, windows.horizons) for p in (test.up_prob, up_prob))
        resampling = Resampling(seed=session.config.seed)
        ends = reliability_intervals(up_prob, labels, windows.asof[rows], windows.horizons, resampling)
        curves = {"before": curves_as_lists(before), "after": curves_as_lists(after)}
        found |= {"reliability": curves, "intervals": ends_as_lists(ends), **by_part(windows, rows, up_prob)}
        if trained.held_out:
            title = f"the test part{of_target(session.config.target.name)}"
            reliability_chart(before, after, session.folder.report / "reliability.png", title, ends)
    session.folder.write_json(session.folder.report / NAME, found)


def by_part(windows: Windows, rows: NDArray[np.int64], up_prob: NDArray[np.floating]) -> dict[str, Any]:
    """`by_year` at every horizon and `by_symbol`, see `breakdown`; up_prob: (k, H) of the windows `rows`."""
    labels = windows.direction[rows]
    years = windows.asof[rows].astype("datetime64[Y]").astype(str)
    names = np.array(windows.symbols)[windows.symbol[rows]]
    return {
        "by_year": breakdown(up_prob, labels, windows.horizons, years),
        "by_symbol": breakdown(up_prob, labels, windows.horizons, names),
    }


def _newest(session: Session, trained: Trained, net: nn.Module) -> dict[str, Any] | None:
    """The newest forecasts with their bars; None without bars."""
    windows, config = session.prepared.windows, session.config
    if not isinstance(windows, BarWindows):
        return None
    rows = current(windows)
    if not len(rows):
        return None
    found = predict(net, session.ready, rows, session.fitted)
    quiet = Console(quiet=True)
    cutoff = confident_margin(trained, config.tta.coverage, quiet)
    is_return = config.target.name == "absolute" and config.loss.gives_returns
    interval = quantile_interval(trained, net, session.ready, rows, session.fitted, quiet)
    forecast = Forecast(found.ret.astype(np.float64), trained.calibration.apply(found.up_logits), None)
    wanted = windows.take(rows)
    frame = forecast_frame(wanted, forecast, cutoff, is_return, interval)
    seen = {windows.symbols[number] for number in np.unique(windows.symbol[session.prepared.rows["train"]])}
    return newest_forecasts(wanted, frame, is_return, seen)
