"""Work done ahead of whoever asks for it, in order, by one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.batches import Answers, DeviceWindows, Micro, ReadyWindows, labels
from stockenh.data.cache import give_back
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, Prices
from stockenh.data.windows import Windows
from stockenh.storage.machine import free_memory

Item = TypeVar("Item")
Result = TypeVar("Result")


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """work(item) of each item, in order; up to `ahead` results are made before they are asked for.

    What `work` raises is raised here, with its own traceback, when the item's turn has come. The thread ends
    with the items, with an error, and when the generator is closed.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="stockenh-ahead") as thread:
        try:
            for item in items:
                pending.append(thread.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()


class StreamedWindows(ReadyWindows):
    """All windows of a data set, on the host: in memory, or mapped where they are files of the cache."""

    resident = False

    def __init__(
        self,
        windows: Windows,
        embedding: NDArray[np.floating],
        fitted: Fitted,
        device: torch.device,
        taught: Answers | None = None,
    ) -> None:
        self._prices = HostPrices(windows, device)
        super().__init__(windows, self._prices, device, torch.device("cpu"))
        self.windows = windows
        self._embedding = embedding
        self._fitted = fitted
        self._taught = None if taught is None else Answers(taught.ret.cpu(), taught.up_logits.cpu())
        self._way = _Way(device)

    def gather(self, rows: Tensor, augment: Augment) -> Micro:
        return self._finish(self._send(rows), augment)

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x_kron, x_ctx = self._way.send(self._vectors(rows.numpy())).taken()
        return x_kron.float(), x_ctx

    def micros(self, parts: Iterable[Tensor], augment: Augment, ahead: int) -> Generator[Micro, None, None]:
        with closing(done_ahead(self._send, parts, ahead)) as sent:
            for one in sent:
                yield self._finish(one, augment)

    def _send(self, rows: Tensor) -> _Sent:
        """Gathers on the host and starts the copy; a thread of its own may do so."""
        at = rows.numpy()
        tensors = [
            self._prices.gathered(at),
            *self._vectors(at),
            *labels(self.windows.y_ret[at], self._fitted),
        ]
        if self._taught is not None:
            taught = self._taught.at(rows)
            tensors += [taught.ret, taught.up_logits]
        return self._way.send(tensors)

    def _vectors(self, at: NDArray[np.int64]) -> list[Tensor]:
        dtype = torch.from_numpy(self._embedding[:0]).dtype
        x_kron = self._way.room((len(at), self._embedding.shape[1]), dtype)
        np.take(self._embedding, at, axis=0, out=x_kron.numpy(), mode="clip")  # "raise" would buffer it all
        give_back(self._embedding)  # Linux maps up to 2 MiB of a file around every row
        context = self._fitted.standardise(np.take(self.windows.context, at, axis=0))
        return [x_kron, torch.from_numpy(context)]

    def _finish(self, sent: _Sent, augment: Augment) -> Micro:
        """What is left to do on the device, on the stream that computes."""
        raw, x_kron, x_ctx, y_ret, labelled, *taught = sent.taken()
        return Micro(
            x_price=self.windows.normalised(self.windows.augmented(raw, augment)),
            x_kron=x_kron.float(),
            x_ctx=x_ctx,
            y_ret=y_ret,
            y_up=(y_ret > 0).float(),
            labelled=labelled,
            taught=Answers(*taught) if taught else None,
        )


class HostPrices(Prices):
    """Prices that stay on the host; a batch is gathered there and normalised on the device."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.windows = windows
        self._way = _Way(device)

    def gather(self, rows: Tensor, augment: Augment) -> Tensor:
        return self.windows.normalised(self.raw(rows, augment))

    def raw(self, rows: Tensor, augment: Augment) -> Tensor:
        (raw,) = self._way.send([self.gathered(rows.numpy())]).taken()
        return self.windows.augmented(raw, augment)

    def gathered(self, at: NDArray[np.int64]) -> Tensor:
        """(B, T, 5) float32 on the host."""
        out = self._way.room((len(at), self.windows.lookback, 5), torch.float32)
        self.windows.raw_into(at, out.numpy())
        return out


@dataclass(frozen=True)
class _Sent:
    """Tensors on their way to the device, and the event that says they are there."""

    tensors: list[Tensor]
    there: torch.cuda.Event | None

    def taken(self) -> list[Tensor]:
        """The tensors, for the stream that asks for them."""
        if self.there is not None:
            here = torch.cuda.current_stream(self.tensors[0].device)
            here.wait_event(self.there)
            for tensor in self.tensors:
                tensor.record_stream(here)  # their memory is not the copying stream's to give away
        return self.tensors


class _Way:
    """How host arrays reach the device: through pinned memory and a second stream, or not at all."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory that can be sent without another copy."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._stream is not None)

    def send(self, tensors: list[Tensor]) -> _Sent:
        """Starts the copies. Pinned memory is reused only once its copy is done: torch sees to that."""
        if self._stream is None:
            return _Sent(tensors, None)
        with torch.cuda.stream(self._stream):
            there = [
                (t if t.is_pinned() else t.pin_memory()).to(self.device, non_blocking=True) for t in tensors
            ]
            return _Sent(there, self._stream.record_event())


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
        return cls(fits if setting == "auto" else bool(setting), needed, free, setting)

    def __str__(self) -> str:
        where = "resident on the device" if self.resident else "streamed from the host"
        if self.setting != "auto":
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
