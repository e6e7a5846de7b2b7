"""Statistics fitted on the train part only: scales of context and returns, share of up.

Legend: F context features, H horizons.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from stockenh.data import Exact
from stockenh.data.windows import Windows
from stockenh.errors import RunFolderError
from stockenh.storage.untrusted import typed

CLIP = 5.0

Scale = Annotated[Exact, Field(gt=0)]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Fitted:
    """Statistics of the train windows, as plain numbers for a run folder.

    context_mean, context_std: F each; return_std: H, the unit of a model's `ret`;
    up_share: H, the share of train labels whose direction is up, of those that have one
    """

    context_names: list[str]
    context_mean: list[Exact]
    context_std: list[Scale]
    return_std: list[Scale]
    up_share: list[Exact]

    @classmethod
    def fit(cls, windows: Windows, train: NDArray[np.int64]) -> Fitted:
        """Statistics of the rows `train`. A constant column gets the scale 1."""
        context = windows.context[train].astype(np.float64)
        returns = windows.y_ret[train].astype(np.float64)
        direction = windows.direction[train].astype(np.float64)
        moved = np.isfinite(direction) & (direction != 0)
        return cls(
            context_names=list(windows.context_names),
            context_mean=context.mean(0).tolist(),
            context_std=_scale(context.std(0)).tolist(),
            return_std=_scale(np.nan_to_num(_nanstd(returns))).tolist(),
            up_share=((direction > 0).sum(0) / np.maximum(moved.sum(0), 1)).tolist(),
        )

    @classmethod
    def from_dict(cls, values: object) -> Fitted:
        """Raises RunFolderError where the stored statistics are not what `to_dict` wrote."""
        found = typed(cls, values, "fitted.json")
        for one, *others in (("context_names", "context_mean", "context_std"), ("return_std", "up_share")):
            for other in others:
                if len(getattr(found, one)) != len(getattr(found, other)):
                    raise RunFolderError(f"fitted.json: {one} and {other} differ in length")
        return found

    def to_dict(self) -> dict[str, list[float] | list[str]]:
        return asdict(self)

    def standardise(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, F) raw features -> standardised by train statistics and clipped to +-5."""
        mean = np.asarray(self.context_mean, np.float32)
        std = np.asarray(self.context_std, np.float32)
        scaled: NDArray[np.float32] = ((context - mean) / std).astype(np.float32, copy=False)
        return scaled.clip(-CLIP, CLIP, out=scaled)


def _nanstd(x: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(x)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0).sum(0) / count
    return np.asarray(np.sqrt(np.where(known, (x - mean) ** 2, 0).sum(0) / count))


def _scale(std: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(std > 1e-12, std, 1.0)
