"""Where the windows of a run are held: on its device where they leave room there, else on the host."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.data.batches import Answers, DeviceWindows, ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.streamed import StreamedWindows
from stockenh.data.windows import Windows
from stockenh.hardware import free_memory
from stockenh.settings import AUTO

# The share of a device's free memory that windows may take; the rest is the model's and its steps'.
SHARE = 0.5


@dataclass(frozen=True)
class Holding:
    """The choice: needed and free are bytes of the device; free is None where nobody can tell."""

    resident: bool
    needed: int
    free: int | None
    setting: bool | str

    @classmethod
    def by_rule(cls, setting: bool | str, needed: int, free: int | None) -> Holding:
        """`setting` itself where it is true or false; else resident where the windows take less than half of
        the free memory, or where that is unknown."""
        fits = free is None or needed < SHARE * free
        return cls(fits if setting == AUTO else bool(setting), needed, free, setting)

    def __str__(self) -> str:
        where = "resident on the device" if self.resident else "streamed from the host"
        if self.setting != AUTO:
            return f"{where}, as train.resident={str(self.setting).lower()} says"
        if self.free is None:
            return f"{where}: {_size(self.needed)}"
        relation = "of" if self.resident else "would take half or more of"
        return f"{where}: {_size(self.needed)} {relation} {_size(self.free)} free there"

    def hold(
        self,
        windows: Windows,
        embedding: NDArray[np.floating],
        fitted: Fitted,
        device: torch.device,
        taught: Answers | None = None,
    ) -> ReadyWindows:
        """The windows, held so."""
        kind = DeviceWindows if self.resident else StreamedWindows
        return kind(windows, embedding, fitted, device, taught)


def choose_holding(
    setting: bool | str, windows: Windows, embedding: NDArray[np.floating], device: torch.device
) -> Holding:
    """The rule applied to these windows and what the device has free now."""
    return Holding.by_rule(setting, needed_bytes(windows, embedding), free_memory(device))


def needed_bytes(windows: Windows, embedding: NDArray[np.floating]) -> int:
    """What the windows take of a device that holds them all: prices, embedding, context, labels."""
    context, labels = 4 * windows.context.size, 2 * 4 * windows.y_ret.size
    return windows.price_bytes + embedding.nbytes + context + labels


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**33 else f"{count / 2**30:,.0f} GiB"
