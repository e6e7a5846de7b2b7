"""The forecasts of the test part that every cell leaves, of which the table is made.

    up_prob.NAME     (n, H) the model's own probabilities with the weights NAME (raw, ema, swa), or with noisy
                     views of what validation chose (views)
    calibrated.NAME  (n, H) the same, calibrated
    y_dir            (n, H) labels whose sign is the direction, NaN where there is none
    best_prob        (n, H) of the best possible forecast, where it is known
    date             (n,) index of each row's date

Legend: n rows of the test part, H horizons, D dates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.commands.ablate.cells import FORECASTS
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.errors import RunFolderError
from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.shares import limit_shares, shares
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import forecast, predict
from stockenh.storage.run_folder import RunFolder

VIEWS = "views"
OWN, CALIBRATED = "up_prob.", "calibrated."
KINDS = (OWN, CALIBRATED)
NAMES = ("raw", "ema", "swa", VIEWS)

Shares = Mapping[str, Mapping[str, Floats]]  # by horizon and score, each (D,)


@dataclass(frozen=True)
class PartShares:
    """A cell's scores of the test part as shares of its dates, by the name of the weights.

    rows: of which dates and labels they are; only what has the same can be paired
    """

    rows: str
    shares: Mapping[str, Shares]


def forecast_test_part(
    folder: RunFolder, device: torch.device, cache_dir: str | None, viewed: bool
) -> dict[str, Tensor]:
    """The tensors of a finished run; viewed: also with noisy views. Raises RunFolderError."""
    chosen = Trained.open(folder, None)
    prepared = build.data(replace(chosen.run, cache_dir=cache_dir), device)
    windows, rows = prepared.windows, prepared.rows["test"]
    ready, fitted = chosen.ready(prepared, device)
    found: dict[str, NDArray[np.generic]] = {
        "date": np.unique(windows.asof[rows], return_inverse=True)[1],
        "y_dir": windows.direction[rows],
    }
    if windows.best_prob is not None:
        found["best_prob"] = windows.best_prob[rows]
    for name in folder.weight_names():
        trained = Trained.open(folder, name)
        given = predict(trained.net(prepared, device), ready, rows, fitted)
        found[OWN + name] = given.up_prob
        found[CALIBRATED + name] = trained.calibration.apply(given.up_logits)
    if viewed:
        net, views = chosen.net(prepared, device), build.views(chosen.run)
        fits = Calibration.identity(len(windows.horizons)), chosen.calibration
        for kind, fit in zip(KINDS, fits, strict=True):
            found[kind + VIEWS] = forecast(net, ready, rows, fitted, fit, views).up_prob
    return {
        name: torch.from_numpy(values.astype(np.int64 if name == "date" else np.float32))
        for name, values in found.items()
    }


def read_test_part(folder: RunFolder, horizons: Sequence[int]) -> PartShares:
    """The scores of what `forecast_test_part` gave. Raises RunFolderError where it is damaged."""
    path = folder.path / FORECASTS
    found = folder.read_tensors(path)
    if not _are_forecasts(found, len(horizons)):
        raise RunFolderError(f"{path} does not hold forecasts of {len(horizons)} horizons")
    tensors = {name: tensor.numpy() for name, tensor in found.items()}
    date, y_dir, best = tensors["date"], tensors["y_dir"], tensors.get("best_prob")
    names = [name for name in NAMES if OWN + name in tensors]
    by_weights = {
        name: {
            f"h{bars}": _scores(
                tensors[OWN + name][:, place], tensors[CALIBRATED + name][:, place], y_dir[:, place], date,
                None if best is None else best[:, place],
            )
            for place, bars in enumerate(horizons)
        }
        for name in names
    }  # fmt: skip
    return PartShares(hashlib.sha256(date.tobytes() + y_dir.tobytes()).hexdigest(), by_weights)


def _scores(
    own: Floats, calibrated: Floats, y_dir: Floats, date: NDArray[np.int64], best: Floats | None
) -> dict[str, Floats]:
    """`shares` of one horizon, those of the calibrated probabilities beside, and the limit where known."""
    found, after = shares(own, y_dir, date), shares(calibrated, y_dir, date)
    for name in ("log_loss", "ece") if after else ():
        found[f"{name}_calibrated"] = after[name]
    if best is not None and found:
        found["limit_accuracy"] = limit_shares(best, y_dir, date)
    return found


def _are_forecasts(tensors: Mapping[str, Tensor], horizons: int) -> bool:
    """Whether names, types, shapes and values are those that a cell writes."""
    names = {name for name in NAMES if any(kind + name in tensors for kind in KINDS)}
    probabilities = {kind + name for kind in KINDS for name in names}
    probabilities |= {"best_prob"} & tensors.keys()
    if not names or tensors.keys() != {"date", "y_dir", *probabilities}:
        return False
    date, y_dir, rows = tensors["date"], tensors["y_dir"], tensors["date"].numel()
    matrices = [tensor for name, tensor in tensors.items() if name != "date"]
    return (
        rows > 0
        and date.shape == (rows,)
        and date.dtype == torch.int64
        and int(date.min()) >= 0
        and int(date.max()) < rows
        and all(matrix.dtype == torch.float32 and matrix.shape == (rows, horizons) for matrix in matrices)
        and not bool(y_dir.isinf().any())
        and all(bool(((tensors[name] >= 0) & (tensors[name] <= 1)).all()) for name in probabilities)
    )
