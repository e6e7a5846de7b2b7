"""What is fitted on validation once a run is trained: calibration, and which uncertainty is usual."""

from __future__ import annotations

import numpy as np
from torch import nn

from stockenh import build
from stockenh.analysis.calibration import Calibration
from stockenh.run.session import Session
from stockenh.tta import Confidence, Views, forecast

MOST_WINDOWS = 4096  # of the validation part, evenly spread: more do not move a percentile


def calibrate(session: Session, names: list[str], confident: bool = True) -> dict[str, Calibration]:
    """Fits and writes calibration and confidence of all named weights, any of which a forecast may take.

    Where the split holds no validation part, there is nothing to fit on: none has any. confident=False
    leaves the cut-offs of uncertainty to the forecast that asks for them: they cost more than the rest.
    """
    calibrations, confidences = {}, {}
    for name in names if "val" in session.prepared.rows else ():
        net = build.trained_model(session.config, session.prepared, session.folder, name, session.device)
        of_val = session.forecast(net, "val")
        calibrations[name] = Calibration.fit(of_val.up_logits, session.labels("val"))
        views = build.views(session.config)
        confidence = confidence_of(session, net, calibrations[name], views) if confident else None
        if confidence is not None:
            confidences[name] = confidence
    stored = {name: calibration.to_dict() for name, calibration in calibrations.items()}
    session.folder.write_json(session.folder.calibration, stored)
    session.folder.write_json(
        session.folder.confidence, {name: confidence.to_dict() for name, confidence in confidences.items()}
    )
    return calibrations


def confidence_of(
    session: Session, net: nn.Module, calibration: Calibration, views: Views
) -> Confidence | None:
    """The uncertainties of the validation part; None where there is none, or no views, or no raw bars."""
    rows = session.prepared.rows.get("val")
    if rows is None or views.count == 0 or not session.config.data.brings_bars:
        return None
    spread = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_WINDOWS)).astype(np.int64))
    found = forecast(net, session.ready, rows[spread], session.fitted, calibration, views)
    assert found.uncertainty is not None
    return Confidence.of(found.uncertainty, views)
