"""The test part of a finished run whose summary leaves it out, as that of a search's trial does."""

from __future__ import annotations

from typing import Any

import torch

from stockenh import build
from stockenh.run.result import RESAMPLES
from stockenh.run.session import Session
from stockenh.run.trained import Trained
from stockenh.runfolder import RunFolder


def test_scores(folder: RunFolder, on: torch.device) -> dict[str, Any]:
    """{"h3": {...}, ...} of the weights that the run chose on validation, on its test part."""
    trained = Trained.open(folder, None)
    prepared = build.data(trained.run, on)
    ready, fitted = trained.ready(prepared, on)
    session = Session(trained.run, folder, prepared, fitted, ready, on, trained.run.train.precision)
    return session.scores(session.forecast(trained.net(prepared, on), "test"), "test", RESAMPLES)
