"""Statistics fitted on the train part only: scales of context and returns, share of up, known categories.

Legend: F context features, K categories of a symbol, H horizons.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, with_config

from stockenh.data import Exact
from stockenh.data.extra import MISSING, MOST_CATEGORIES
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
    categories: of each static column the K names that train has; the first has the index 1, and 0 is unknown
    """

    context_names: list[str]
    context_mean: list[Exact]
    context_std: list[Scale]
    return_std: list[Scale]
    up_share: list[Exact]
    categories: dict[str, Annotated[list[str], Field(max_length=MOST_CATEGORIES)]] = field(
        default_factory=dict
    )

    @classmethod
    def fit(cls, windows: Windows, train: NDArray[np.int64]) -> Fitted:
        """Statistics of the rows `train`. A constant column gets the scale 1; missing values don't count."""
        context = windows.context[train].astype(np.float64)
        mean, std = moments(context)
        returns = windows.y_ret[train].astype(np.float64)
        direction = windows.direction[train].astype(np.float64)
        moved = np.isfinite(direction) & (direction != 0)
        return cls(
            context_names=list(windows.context_names),
            context_mean=mean.tolist(),
            context_std=std.tolist(),
            return_std=_scale(np.nan_to_num(_nanstd(returns))).tolist(),
            up_share=((direction > 0).sum(0) / np.maximum(moved.sum(0), 1)).tolist(),
            categories=categories(windows, train),
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
        return {key: value for key, value in asdict(self).items() if value or key != "categories"}

    @property
    def scale(self) -> NDArray[np.float32]:
        """(F,) what features are divided by: their deviation, infinite for a mask that never varied on train.

        Its weights learn nothing there, and would answer at random where it varies later.
        """
        never = [
            name.endswith(MISSING) and mean in (0, 1)
            for name, mean in zip(self.context_names, self.context_mean, strict=True)
        ]
        return np.where(never, np.inf, self.context_std).astype(np.float32)

    @property
    def has_missing(self) -> bool:
        """Whether a value may be missing: only the user's own columns have masks."""
        return any(name.endswith(MISSING) for name in self.context_names)

    def fill(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, F) raw features with the train mean in place of missing values."""
        if not self.has_missing:
            return context
        return np.where(np.isnan(context), np.asarray(self.context_mean, np.float32), context)

    def standardise(self, context: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, F) raw features -> standardised by train statistics and clipped to +-5; 0 where missing."""
        mean = np.asarray(self.context_mean, np.float32)
        scaled: NDArray[np.float32] = ((context - mean) / self.scale).astype(np.float32, copy=False)
        scaled = scaled.clip(-CLIP, CLIP, out=scaled)
        return np.nan_to_num(scaled, copy=False) if self.has_missing else scaled

    def inputs(self, windows: Windows, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.float32]:
        """(n, F + K) x_ctx of these windows: standardised features, then the index of each category."""
        context = self.standardise(windows.context[rows])
        if not self.categories:
            return context
        return np.concatenate([context, self.indices(windows, rows)], axis=1, dtype=np.float32)

    def indices(self, windows: Windows, rows: NDArray[np.int64] | slice = slice(None)) -> NDArray[np.int64]:
        """(n, K) the index of each window's categories; 0 for one that train does not have."""
        of_symbol = np.zeros((len(windows.symbols), len(self.categories)), np.int64)
        for column, (known, of) in enumerate(zip(self.categories.values(), windows.static, strict=True)):
            index = {name: i for i, name in enumerate(known, 1)}
            of_symbol[:, column] = [index.get(name, 0) for name in of]
        return of_symbol[windows.symbol[rows]]


def categories(windows: Windows, train: NDArray[np.int64]) -> dict[str, list[str]]:
    """Of each static column the names that the symbols of these rows have, in order."""
    symbols = np.unique(windows.symbol[train]).tolist()
    return {
        name: sorted({of[symbol] for symbol in symbols} - {""})
        for name, of in zip(windows.static_names, windows.static, strict=True)
    }


def moments(context: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and scale (F,) of features (n, F) where they are known; 0 and 1 without any."""
    mean, std = context.mean(0), context.std(0)
    for column in np.flatnonzero(np.isnan(mean)):
        known = context[~np.isnan(context[:, column]), column]
        mean[column], std[column] = (known.mean(), known.std()) if len(known) else (0.0, 1.0)
    return mean, _scale(std)


def _nanstd(x: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(x)
    count = np.maximum(known.sum(0), 1)
    mean = np.where(known, x, 0).sum(0) / count
    return np.asarray(np.sqrt(np.where(known, (x - mean) ** 2, 0).sum(0) / count))


def _scale(std: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(std > 1e-12, std, 1.0)
