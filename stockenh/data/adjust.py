"""Split and dividend adjustment by an adjusted close.

Legend: n bars of one symbol in time order.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import CLOSE, VOLUME

_SPLIT: Final = 1.2


def adjust_bars(ohlcv: NDArray[np.float64], adj_close: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scales prices by adj_close / close and undoes splits in the volume; (n, 5) in and out, a new array.

    Where the factor jumps by more than 20% from one bar to the next, a split took place (dividends move it
    less), and volume is put into the shares of the first bar: a 2:1 split halves what comes after it, where
    the habit is to double what came before. Counted from the first bar, a bar's volume stays as it is when a
    later split becomes known. Factors beyond float64 give values that are not finite or not above 0.
    """
    adjusted = ohlcv.copy()
    with np.errstate(all="ignore"):
        factor = adj_close / ohlcv[:, CLOSE]
        jump = factor[:-1] / factor[1:]
        split = np.where(np.maximum(jump, 1 / jump) > _SPLIT, jump, 1.0)
        splits_so_far = np.concatenate([[1.0], np.cumprod(split)])
        adjusted[:, :VOLUME] *= factor[:, None]
        adjusted[:, VOLUME] *= splits_so_far
    return adjusted
