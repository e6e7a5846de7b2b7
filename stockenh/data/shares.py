"""Each of several processes' own share of every training group.

Legend: n windows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.batches import Group, TrainBatches


@dataclass(frozen=True)
class Share:
    """The part numbered `rank` of `size` parts that differ by one row at most."""

    rank: int
    size: int

    def of(self, rows: Tensor) -> Tensor:
        """This part of rows (B,); empty where there are fewer rows than parts."""
        return torch.tensor_split(rows, self.size)[self.rank]


class SharedBatches(TrainBatches):
    """This process's share of groups whose rows, order and number are those that one process would have.

    A share is cut into micro batches anew, each as large as the config allows: four processes pass once
    over what one process accumulates in four passes. `count` and `windows` stay the whole group's.
    """

    def __init__(self, whole: TrainBatches, y_ret: NDArray[np.floating], share: Share) -> None:
        """y_ret: (n, H) labels of all windows, NaN where there is none."""
        super().__init__(
            whole.data,
            whole.rows.cpu().numpy(),
            batch_size=whole.batch_size,
            accumulate=whole.group_size // whole.batch_size,
            seed=whole.seed,
            augment=whole.augment,
        )
        labels = np.isfinite(y_ret).sum(1).astype(np.float32)
        self._labels = torch.from_numpy(labels).to(self.rows.device)
        self._share = share

    def _counted(self, group: Group, epoch: int, step: int) -> Group:
        """This process's micro batches of one optimizer step, with the counts of the whole group."""
        rows = self.rows_of(epoch, step)
        count = self._labels[rows].sum().to(group.count)
        micros = group.micros
        if not len(self._share.of(rows)):
            micros = tuple(replace(m, labelled=torch.zeros_like(m.labelled)) for m in micros)
        return Group(micros, count, len(rows))

    def _parts(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        """Where the share is empty, a row without a label: every process takes part in every step."""
        rows = self.rows_of(epoch, step)
        own = self._share.of(rows)
        parts: tuple[Tensor, ...] = (own if len(own) else rows[:1]).split(self.batch_size)
        return parts
