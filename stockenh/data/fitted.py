"""Statistics fitted on the train part only: scales of context and returns, share of up.

Legend: F context features, H horizons.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from stockenh.data.windows import Windows
from stockenh.errors import RunFolderError

CLIP = 5.0


@dataclass(frozen=True)
class Fitted:
    """Statistics of the train windows, as plain numbers for a run folder.

    context_mean, context_std: F each; return_std: H, the unit of a model's `ret`;
    up_share: H, the share of train labels above 0 (a return of exactly 0 counts as neither)
    """

    context_names: list[str]
    context_mean: list[float]
    context_std: list[float]
    return_std: list[float]
    up_share: list[float]

    @classmethod
    def fit(cls, windows: Windows, train: NDArray[np.int64]) -> Fitted:
        """Statistics of the rows `train`. A constant column gets the scale 1."""
        context = windows.context[train].astype(np.float64)
        returns = windows.y_ret[train].astype(np.float64)
        moved = np.isfinite(returns) & (returns != 0)
        return cls(
            context_names=list(windows.context_names),
            context_mean=context.mean(0).tolist(),
            context_std=_scale(context.std(0)).tolist(),
            return_std=_scale(np.nan_to_num(_nanstd(returns))).tolist(),
            up_share=((returns > 0).sum(0) / np.maximum(moved.sum(0), 1)).tolist(),
        )

    @classmethod
    def from_dict(cls, values: object) -> Fitted:
        """Raises RunFolderError where the stored statistics are not what `to_dict` wrote."""
        if not isinstance(values, dict) or set(values) != set(cls.__dataclass_fields__):
            raise RunFolderError("fitted.json does not hold the statistics of a run")
        for name, column in values.items():
            is_valid = _is_name if name == "context_names" else _is_number
            if not isinstance(column, list) or not all(map(is_valid, column)):
                raise RunFolderError(f"fitted.json: {name} is not a list of the right kind")
        if any(v <= 0 for v in values["context_std"] + values["return_std"]):
            raise RunFolderError("fitted.json: context_std and return_std must be above 0")
        for one, *others in (("context_names", "context_mean", "context_std"), ("return_std", "up_share")):
            for other in others:
                if len(values[one]) != len(values[other]):
                    raise RunFolderError(f"fitted.json: {one} and {other} differ in length")
        return cls(**values)

    def to_dict(self) -> dict[str, list[float] | list[str]]:
        return asdict(self)

    def standardise(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, F) raw features -> standardised by train statistics and clipped to +-5."""
        mean = np.asarray(self.context_mean, np.float32)
        std = np.asarray(self.context_std, np.float32)
        scaled: NDArray[np.float32] = ((context - mean) / std).astype(np.float32, copy=False)
        return scaled.clip(-CLIP, CLIP, out=scaled)


def _is_name(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _nanstd(x: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(x)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0).sum(0) / count
    return np.asarray(np.sqrt(np.where(known, (x - mean) ** 2, 0).sum(0) / count))


def _scale(std: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(std > 1e-12, std, 1.0)
