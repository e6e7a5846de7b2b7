"""Where a data set's windows are stored: on the device, or on the host with batches prefetched.

Legend: B windows in a batch, T bars, E embedding width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.batches import DeviceWindows, Micro, ReadyWindows, TeacherOutput, labels
from stockenh.data.cache import release_pages
from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, Prices
from stockenh.data.windows import BarWindows, Windows
from stockenh.storage.machine import free_memory

AUTO: Final = "auto"
SHARE: Final = 0.5  # of a device's free memory that windows may take; the rest is for the model

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Placement:
    """Whether windows are resident on the device; needed and free are bytes of it.

    setting: true, false, or auto: resident below half of the free memory
    """

    setting: bool | str
    needed: int
    free: int

    @property
    def resident(self) -> bool:
        return self.needed < SHARE * self.free if self.setting == AUTO else bool(self.setting)

    def __str__(self) -> str:
        where = "resident on the device" if self.resident else "streamed from the host"
        if self.setting != AUTO:
            return f"{where}, as train.resident={str(self.setting).lower()} says"
        relation = "of" if self.resident else "would take half or more of"
        return f"{where}: {_size(self.needed)} {relation} {_size(self.free)} free there"

    def place(
        self,
        windows: Windows,
        embedding: NDArray[np.floating],
        fitted: Fitted,
        device: torch.device,
        teacher: TeacherOutput | None = None,
    ) -> ReadyWindows:
        """The windows, stored accordingly."""
        kind = DeviceWindows if self.resident else StreamedWindows
        return kind(windows, embedding, fitted, device, teacher)


def choose_placement(
    setting: bool | str, windows: Windows, embedding: NDArray[np.floating], device: torch.device
) -> Placement:
    """The rule applied to these windows and the device's free memory."""
    return Placement(setting, needed_bytes(windows, embedding), free_memory(device))


def needed_bytes(windows: Windows, embedding: NDArray[np.floating]) -> int:
    """Bytes of all windows on a device: prices, embedding, context, labels."""
    width: int = windows.context.shape[1] + len(windows.static_names)
    context, labels = 4 * len(windows) * width, 3 * 4 * windows.y_ret.size
    return windows.price_bytes + embedding.nbytes + context + labels


def _size(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count < 2**33 else f"{count / 2**30:,.0f} GiB"


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Generator[Result]:
    """work(item) of each item, in order, by one thread that runs up to `ahead` items ahead.

    An error in `work` is raised here at its item's turn, with its own traceback. The thread ends with the
    items, with an error, or when the generator is closed.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="stockenh-prefetch") as thread:
        try:
            for item in items:
                pending.append(thread.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


class StreamedWindows(ReadyWindows):
    """All windows of a data set on the host, in memory or mapped from the cache's files."""

    resident = False

    def __init__(
        self,
        windows: Windows,
        embedding: NDArray[np.floating],
        fitted: Fitted,
        device: torch.device,
        teacher: TeacherOutput | None = None,
    ) -> None:
        self._prices = HostPrices(windows, device)
        super().__init__(windows, self._prices, device, torch.device("cpu"))
        self.windows = windows
        self._embedding = embedding
        self._fitted = fitted
        self._teacher = None if teacher is None else TeacherOutput(teacher.ret.cpu(), teacher.up_logits.cpu())
        self._link = HostToDevice(device)

    def gather(self, rows: Tensor, augment: Augment) -> Micro:
        return self._finish(self._send(rows), augment)

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        x_embedding, x_ctx = self._link.send(self._vectors(rows.numpy())).wait()
        return x_embedding.float(), x_ctx

    def micros(self, parts: Iterable[Tensor], augment: Augment, ahead: int) -> Generator[Micro]:
        with closing(prefetch(self._send, parts, ahead)) as transfers:
            for transfer in transfers:
                yield self._finish(transfer, augment)

    def _send(self, rows: Tensor) -> Transfer:
        """Gathers on the host and starts the copy; safe in a thread of its own."""
        index = rows.numpy()
        weight = None if self.windows.weight is None else self.windows.weight[index]
        tensors = [
            self._prices.fetch_on_host(index),
            *self._vectors(index),
            *labels(self.windows.y_ret[index], self.windows.direction[index], self._fitted, weight),
        ]
        if self._teacher is not None:
            teacher = self._teacher.take(rows)
            tensors += [teacher.ret, teacher.up_logits]
        return self._link.send(tensors)

    def _vectors(self, index: NDArray[np.int64]) -> list[Tensor]:
        dtype = torch.from_numpy(self._embedding[:0]).dtype
        x_embedding = self._link.buffer((len(index), self._embedding.shape[1]), dtype)
        np.take(
            self._embedding, index, axis=0, out=x_embedding.numpy(), mode="clip"
        )  # "raise" would buffer a copy
        release_pages(self._embedding)  # Linux maps up to 2 MiB of a file around every row
        return [x_embedding, torch.from_numpy(self._fitted.inputs(self.windows, index))]

    def _finish(self, transfer: Transfer, augment: Augment) -> Micro:
        """The work that is left for the device, on the stream that computes."""
        prices, x_embedding, x_ctx, y_ret, y_up, labelled, *teacher = transfer.wait()
        return Micro(
            x_price=self.prices.normalised(self.prices.augmented(prices, augment)),
            x_embedding=x_embedding.float(),
            x_ctx=x_ctx,
            y_ret=y_ret,
            y_up=y_up,
            labelled=labelled,
            teacher=TeacherOutput(*teacher) if teacher else None,
        )


class HostPrices(Prices):
    """Prices on the host; a batch is gathered there and normalised on the device."""

    def __init__(self, windows: Windows, device: torch.device) -> None:
        self.is_raw = isinstance(windows, BarWindows)
        self.windows = windows
        self._link = HostToDevice(device)

    def fetch(self, rows: Tensor) -> Tensor:
        (prices,) = self._link.send([self.fetch_on_host(rows.numpy())]).wait()
        return prices

    def fetch_on_host(self, index: NDArray[np.int64]) -> Tensor:
        """(B, T, 5) float32 on the host."""
        prices = self._link.buffer((len(index), self.windows.lookback, 5), torch.float32)
        self.windows.gather_prices(index, prices.numpy())
        return prices


@dataclass(frozen=True)
class Transfer:
    """Tensors that are being copied to the device, and the event of the copy's end."""

    tensors: list[Tensor]
    done: torch.cuda.Event | None

    def wait(self) -> list[Tensor]:
        """The tensors, once the current stream may use them."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.done)
            for tensor in self.tensors:
                tensor.record_stream(stream)  # keeps the copying stream from reusing their memory
        return self.tensors


class HostToDevice:
    """Copies host arrays to a GPU through pinned memory and a second stream; on a CPU a no-op."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory that is copied to the device without a copy in between."""
        return torch.empty(shape, dtype=dtype, pin_memory=self._stream is not None)

    def send(self, tensors: list[Tensor]) -> Transfer:
        """Starts the copies. torch reuses pinned memory only once its copy is done."""
        if self._stream is None:
            return Transfer([tensor.to(self.device) for tensor in tensors], None)
        with torch.cuda.stream(self._stream):
            pinned = [t if t.is_pinned() else t.pin_memory() for t in tensors]
            copies = [t.to(self.device, non_blocking=True) for t in pinned]
            return Transfer(copies, self._stream.record_event())
