"""Predictions of a model over many windows, always in float32 and in the same chunks.

Legend: k windows, H horizons.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.training.step import Objective

CHUNK = 256  # windows at a time
GPU_CHUNK = 1024  # fewer don't fill a GPU


@dataclass(frozen=True)
class Predictions:
    """ret (k, H) simple returns in raw units; up_prob and up_logits (k, H); loss: the objective, or None."""

    ret: NDArray[np.float64]
    up_prob: NDArray[np.float64]
    up_logits: NDArray[np.float64]
    loss: float | None


def chunk_on(device: torch.device) -> int:
    """Windows forecast at a time: fixed by the kind of device, so that forecasts are bit-identical."""
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
    the mean over all labels of the rows, as if they were one batch.
    """
    was_training = model.training
    model.eval()
    rets, probs, logits, losses, counts = [], [], [], [], []
    for micro in data.sweep(rows, chunk_on(data.device)):
        out = model.forward(*micro.inputs)
        rets.append(out["ret"].float())
        probs.append(out["up_prob"].float())
        logits.append(out["up_logits"].float())
        if objective is not None:
            count = micro.labelled.sum()
            losses.append(objective(out, micro, count.clamp(min=1)) * count)
            counts.append(count)
    model.train(was_training)
    total = torch.stack(losses).double().sum() / torch.stack(counts).sum() if losses else None
    unit = np.asarray(fitted.return_std)
    return Predictions(
        ret=torch.cat(rets).cpu().double().numpy() * unit,
        up_prob=torch.cat(probs).cpu().double().numpy(),
        up_logits=torch.cat(logits).cpu().double().numpy(),
        loss=None if total is None else float(total),
    )
