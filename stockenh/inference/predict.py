"""Predictions of a model over many windows, always in float32 and in the same chunks.

Legend: k windows, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config
from torch import Tensor, nn

from stockenh.data import Exact
from stockenh.data.batches import Counts, ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, NoAugment, RawNoise
from stockenh.errors import RunFolderError, StockenhError
from stockenh.inference.calibration import Calibration
from stockenh.inference.ensemble import MEMBERS
from stockenh.storage.untrusted import typed
from stockenh.training.precision import DTYPES
from stockenh.training.step import Objective

CHUNK = 256  # windows at a time
GPU_CHUNK = 1024  # fewer don't fill a GPU


@dataclass(frozen=True)
class Predictions:
    """ret (k, H) simple returns in raw units; up_prob and up_logits (k, H); loss: see `predict`; quantiles
    (k, H, Q) in raw units, None of a model without; spread (k, H) the standard deviation of the probability
    over the members, None where it is no ensemble."""

    ret: NDArray[np.float64]
    up_prob: NDArray[np.float64]
    up_logits: NDArray[np.float64]
    loss: float | None
    quantiles: NDArray[np.float64] | None = None
    spread: NDArray[np.float64] | None = None


def chunk_on(device: torch.device) -> int:
    """Windows forecast at a time: fixed by the kind of device, so that the same rows give the same bits.

    A window among others gives the same on a CPU. A GPU has other kernels for other batch sizes: there it is
    the same up to the rounding of float32.
    """
    return CHUNK if device.type == "cpu" else GPU_CHUNK


@torch.no_grad()
def predict(
    model: nn.Module,
    data: ReadyWindows,
    rows: NDArray[np.int64],
    fitted: Fitted,
    objective: Objective | None = None,
) -> Predictions:
    """Predicts the windows `rows` in evaluation mode; the model's mode is restored afterwards.

    Eagerly, also where training steps are compiled, so that later forecasts are bit-identical. The loss is
    that of the objective over all labels of the rows, as if they were one batch, without what a model adds to
    it in training; None without an objective.
    """
    was_training = model.training
    model.eval()
    rets, probs, logits, losses, quantiles, spreads = [], [], [], [], [], []
    for micro in data.sweep(rows, chunk_on(data.device)):
        out = model.forward(*micro.inputs)
        rets.append(out["ret"].float())
        probs.append(out["up_prob"].float())
        logits.append(out["up_logits"].float())
        quantiles += [out["quantiles"].float()] if "quantiles" in out else []
        spreads += [out[MEMBERS].float().cpu().double().numpy().std(1)] if MEMBERS in out else []
        if objective is not None:
            labels, moves = micro.labelled.sum(), micro.moved.sum()
            terms = objective.terms(out, micro, Counts(labels.clamp(min=1), moves.clamp(min=1)))
            losses.append(torch.stack([*terms, labels, moves]))
    model.train(was_training)
    if objective is None:  # else the loss says so
        outputs = (torch.cat(of).cpu().flatten(1).numpy() for of in (rets, logits, quantiles) if of)
        _require_finite(data, rows, *outputs)
    total = _mean_loss(*torch.stack(losses).cpu().T) if losses else None
    unit = np.asarray(fitted.return_std)
    return Predictions(
        ret=torch.cat(rets).cpu().double().numpy() * unit,
        up_prob=torch.cat(probs).cpu().double().numpy(),
        up_logits=torch.cat(logits).cpu().double().numpy(),
        loss=None if total is None else float(total),
        quantiles=torch.cat(quantiles).cpu().double().numpy() * unit[:, None] if quantiles else None,
        spread=np.concatenate(spreads) if spreads else None,
    )


def _mean_loss(returns: Tensor, direction: Tensor, labels: Tensor, moves: Tensor) -> Tensor:
    """The mean over all labels from the means of chunks (C,), each with its numbers of labels."""
    # 1 to the last bit where no return is exactly 0
    share = moves / labels.clamp(min=1) * (labels.sum() / moves.sum().clamp(min=1))
    return ((returns + direction * share) * labels).double().sum() / labels.sum()


def _require_finite(data: ReadyWindows, rows: NDArray[np.int64], *outputs: NDArray[np.floating]) -> None:
    """Raises StockenhError where outputs (k, H) of these windows are not finite."""
    bad = ~np.logical_and.reduce([np.isfinite(output).all(1) for output in outputs])
    if bad.any():
        first = str(data.asof[rows[bad]].min())[:10]
        raise StockenhError(
            f"the forecasts of {bad.sum():,} of {len(rows):,} windows are not finite (first ending {first}): "
            f"nothing is written. Check the bars of these dates, or choose other weights with weights=NAME"
        )


LEVELS = 100
Levels = Annotated[
    tuple[Annotated[Exact, Field(ge=0, le=0.5)], ...], Field(min_length=LEVELS + 1, max_length=LEVELS + 1)
]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Views:
    """The views that are averaged: the window itself and `count` noisy ones, drawn by `seed`.

    precision: fp32, or bf16: faster, but its rounding adds to the spread of the views
    """

    count: int
    noise: RawNoise
    seed: int
    precision: str = "fp32"

    def draw(self, lookback: int, device: torch.device) -> Augment:
        """The views of windows of so many bars.

        Every window gets the same draws, so that its forecast does not depend on other windows, on the chunk
        or on the device.
        """
        if self.count == 0:
            return NoAugment()
        generator = torch.Generator().manual_seed(self.seed)
        draws = torch.randn(self.count, 1, lookback, 5, generator=generator)
        return _Stacked(self.noise, draws.to(device))


@dataclass(frozen=True)
class _Stacked(Augment):
    """(B, T, 5) -> ((1 + n) B, T, 5): the windows as they are, then each view of all of them."""

    noise: RawNoise
    draws: Tensor

    def __call__(self, ohlcv: Tensor) -> Tensor:
        return torch.cat([ohlcv[None], self.noise.apply(ohlcv, self.draws)]).flatten(0, 1)


@dataclass(frozen=True)
class Forecast:
    """Means over the views, (k, H) each: ret in raw units, up_prob calibrated; uncertainty: the standard
    deviation of up_prob over views and members, None where there is only one of each."""

    ret: NDArray[np.float64]
    up_prob: NDArray[np.float64]
    uncertainty: NDArray[np.float64] | None


class Engine(Protocol):
    """A model that forecasts windows of the device."""

    def __call__(self, rows: Tensor, augment: Augment, together: int) -> tuple[Floats, Floats, Floats]:
        """ret in raw units and calibrated up_prob, (together, B, H) each, of the windows `rows` (B,); and the
        probabilities (m, B, H) whose spread is the uncertainty: the same, or those of an ensemble's members.

        augment makes `together` views of each window: first all windows themselves.
        """


@dataclass(frozen=True)
class TorchEngine:
    """A network in evaluation mode; scaling and calibration in float64.

    precision: of the network where there are views; a window by itself is always forecast in fp32
    """

    model: nn.Module
    data: ReadyWindows
    fitted: Fitted
    calibration: Calibration
    precision: str = "fp32"

    @torch.no_grad()
    def __call__(self, rows: Tensor, augment: Augment, together: int) -> tuple[Floats, Floats, Floats]:
        x_embedding, x_ctx = (x.repeat(together, 1) for x in self.data.vectors(rows))
        low = self.precision != "fp32" and together > 1
        with torch.autocast(x_ctx.device.type, DTYPES[self.precision], enabled=low):
            out = self.model(self.data.prices.gather(rows, augment), x_embedding, x_ctx)
        ret, logits = (
            out[name].float().unflatten(0, (together, -1)).cpu().double().numpy()
            for name in ("ret", "up_logits")
        )
        up_prob = self.calibration.apply(logits)
        each = up_prob
        if MEMBERS in out:
            each = of_members(out[MEMBERS].float().cpu().double().numpy(), together)
        return ret * np.asarray(self.fitted.return_std), up_prob, each


def of_members(up_prob: Floats, together: int) -> Floats:
    """(together B, K, H) as a network gives them -> (together K, B, H)."""
    views = up_prob.reshape(together, -1, *up_prob.shape[1:])
    return views.swapaxes(1, 2).reshape(-1, views.shape[1], views.shape[3])


def forecast(
    model: nn.Module,
    data: ReadyWindows,
    rows: NDArray[np.int64],
    fitted: Fitted,
    calibration: Calibration,
    views: Views,
) -> Forecast:
    """Forecasts of the windows `rows`, in evaluation mode; the model's mode is restored afterwards.

    Without views they are those of `predict` with calibrated logits: bit-identical for the same rows.
    """
    was_training = model.training
    model.eval()
    engine = TorchEngine(model, data, fitted, calibration, views.precision)
    found = forecast_with(engine, data, rows, views)
    model.train(was_training)
    return found


def forecast_with(engine: Engine, data: ReadyWindows, rows: NDArray[np.int64], views: Views) -> Forecast:
    """An engine's forecasts of the windows `rows`, averaged over the views.

    Only prices get noise: the views share the embedding and the context of their window, as in training with
    augment=noise.
    """
    together = 1 + views.count
    augment = views.draw(data.lookback, data.device)
    chunks = data.split(rows, max(1, chunk_on(data.device) // together))
    forecasts = [engine(chunk, augment, together) for chunk in chunks]
    ret, up_prob, each = (np.concatenate(column, 1) for column in zip(*forecasts, strict=True))
    _require_finite(data, rows, ret.mean(0), up_prob.mean(0))
    return Forecast(
        ret=ret.mean(0),
        up_prob=up_prob.mean(0),
        uncertainty=each.std(0) if len(each) > 1 else None,
    )


def margin(up_prob: Floats) -> Floats:
    """How far a probability of up is from even, of the same shape."""
    return np.abs(up_prob - 0.5)


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Confidence:
    """Percentiles of the calibrated margin on the validation part, per horizon: the scale for new forecasts.

    They are stored with the run, so that a moved folder without its data has its cut-offs. The margin orders
    forecasts by how likely they are right, which the spread over noisy views does worse.
    """

    margin: tuple[Levels, ...]  # H times 101

    @classmethod
    def of(cls, up_prob: Floats) -> Confidence:
        """From the calibrated probabilities (k, H) of the validation part."""
        levels = np.quantile(margin(up_prob), np.linspace(0, 1, LEVELS + 1), axis=0)
        return cls(tuple(tuple(column) for column in levels.T.tolist()))

    def cutoff(self, coverage: float) -> Floats:
        """(H,) the margin that the share `coverage` of the validation forecasts exceeds."""
        shares = np.linspace(0, 1, LEVELS + 1)
        return np.array([np.interp(1 - coverage, shares, column) for column in self.margin])

    def to_dict(self) -> dict[str, Any]:
        return {"margin": [list(column) for column in self.margin]}


def read_confidences(values: object, horizons: int) -> dict[str, Confidence]:
    """The content of `confidence.json`, by the name of the weights. Raises RunFolderError.

    Version 0.1 kept the spread over views, under `tta` and `levels`: such entries are left out.
    """
    if isinstance(values, dict):
        values = {name: one for name, one in values.items() if not _is_spread(one)}
    found = typed(dict[str, Confidence], values, "confidence.json")
    for one in found.values():
        if len(one.margin) != horizons or any(list(column) != sorted(column) for column in one.margin):
            raise RunFolderError(f"confidence.json: margin is not {horizons} lists of rising numbers")
    return found


def _is_spread(values: object) -> bool:
    return isinstance(values, dict) and values.keys() == {"tta", "levels"}
