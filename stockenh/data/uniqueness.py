"""How unique a label is: what weight it has beside the labels that overlap with it.

Legend: n windows, k of them, H horizons.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stockenh.data.windows import Windows


def uniqueness(windows: Windows, train: NDArray[np.int64]) -> NDArray[np.float32]:
    """(n, H) average uniqueness of the labels of the rows `train`, with mean 1 per horizon; 1 for other rows.

    A label of h bars spans the h returns after its window. Its uniqueness is the mean over these of one over
    the number of train labels of the same symbol and horizon that span them (Lopez de Prado 2018, chapter 4).
    """
    weight = np.ones(windows.y_ret.shape, np.float32)
    position = windows.positions()
    size = int(position.max()) + max(windows.horizons) + 2
    for column, horizon in enumerate(windows.horizons):
        own = train[np.isfinite(windows.y_ret[train, column])]
        if not len(own):
            continue
        begin = position[own] + 1
        changes = np.bincount(begin, minlength=size) - np.bincount(begin + horizon, minlength=size)
        spanning = np.cumsum(changes)
        inverse = np.where(spanning > 0, 1 / np.maximum(spanning, 1), 0)
        until = np.concatenate([[0.0], np.cumsum(inverse)])
        unique = (until[begin + horizon] - until[begin]) / horizon
        weight[own, column] = unique / unique.mean()
    return weight
