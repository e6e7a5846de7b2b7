"""Batches on the device: what the model and the loss see of a set of windows.

Legend: B windows in a micro batch, T bars, E embedding width, F context features, H horizons.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.data.fitted import Fitted
from stockenh.data.prices import Augment, NoAugment, Prices
from stockenh.data.windows import Windows

# How many groups (in a sweep: micro batches) are prefetched for a device that does not store the windows.
AHEAD = 2


@dataclass(frozen=True)
class TeacherOutput:
    """A teacher's outputs: ret (n, H) in train standard deviations, up_logits (n, H); float32, NaN where
    it made none."""

    ret: Tensor
    up_logits: Tensor

    def take(self, rows: Tensor) -> TeacherOutput:
        """The outputs for the windows `rows` (B,)."""
        return TeacherOutput(self.ret[rows], self.up_logits[rows])


@dataclass(frozen=True)
class Micro:
    """One micro batch.

    x_price (B, T, 5), x_embedding (B, E), x_ctx (B, F) float32; behind its features x_ctx has the index of
        each category of the user's own columns
    y_ret (B, H) in train standard deviations; y_up (B, H) 1 up, 0 down, 0.5 where there is no direction
    labelled (B, H) the weight of the label, 1 without weights; 0 where there is none (and y_ret is 0 there)
    moved (B, H) the same where a direction is labelled: a return of exactly 0 is neither up nor down
    teacher: a teacher's outputs for these windows without augmentation, where there is one
    day: (B,) from 0, which of the batch's days each window ends on; None where a batch has no whole days
    """

    x_price: Tensor
    x_embedding: Tensor
    x_ctx: Tensor
    y_ret: Tensor
    y_up: Tensor
    labelled: Tensor
    teacher: TeacherOutput | None = None
    day: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """The arguments of a model's forward."""
        return self.x_price, self.x_embedding, self.x_ctx

    @property
    def moved(self) -> Tensor:
        return self.labelled * (self.y_up != 0.5)


class Counts(NamedTuple):
    """How many returns and how many directions are labelled, by weight; scalars, the latter at least 1, to
    divide by."""

    labels: Tensor
    moves: Tensor

    @classmethod
    def of(cls, micros: Iterable[Micro]) -> Counts:
        of_each = [(micro.labelled.sum(), micro.moved.sum()) for micro in micros]
        labels, moves = (torch.stack(column).sum() for column in zip(*of_each, strict=True))
        return cls(labels, moves.clamp(min=1))


@dataclass(frozen=True)
class Group:
    """The micro batches of one optimizer step, and the numbers of labels in all of them."""

    micros: tuple[Micro, ...]
    count: Counts
    windows: int


class ReadyWindows(ABC):
    """All windows of a data set, ready for one device; subclasses differ in where they are stored.

    resident: whether the windows are on the device
    """

    resident: ClassVar[bool]

    def __init__(self, windows: Windows, prices: Prices, device: torch.device, index: torch.device) -> None:
        """index: the device of window numbers."""
        self.prices = prices
        self.device = device
        self.index = index
        self.asof = windows.asof
        self.lookback = windows.lookback

    @abstractmethod
    def gather(self, rows: Tensor, augment: Augment) -> Micro:
        """The micro batch of these window numbers (B,), on the device."""

    @abstractmethod
    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """x_embedding (B, E) and x_ctx (B, F) of these window numbers, on the device."""

    @abstractmethod
    def micros(self, parts: Iterable[Tensor], augment: Augment, ahead: int) -> Generator[Micro]:
        """The micro batch of each part in turn; up to `ahead` may be prefetched.

        Random numbers are drawn only at a micro batch's turn, wherever the windows are stored.
        """

    def split(self, rows: NDArray[np.int64], size: int) -> tuple[Tensor, ...]:
        """Window numbers in portions, on the device that `gather` needs them on."""
        return tuple(torch.from_numpy(rows).to(self.index).split(size))

    def sweep(self, rows: NDArray[np.int64], size: int) -> Generator[Micro]:
        """All given windows once, in their order, without augmentation."""
        return self.micros(self.split(rows, size), NoAugment(), AHEAD)


class DeviceWindows(ReadyWindows):
    """All windows of a data set, resident on one device and gathered there."""

    resident = True

    def __init__(
        self,
        windows: Windows,
        embedding: NDArray[np.floating],
        fitted: Fitted,
        device: torch.device,
        teacher: TeacherOutput | None = None,
    ) -> None:
        super().__init__(windows, windows.prices(device), device, device)
        self.context = torch.from_numpy(fitted.inputs(windows)).to(device)
        self.embedding = torch.from_numpy(embedding).to(device)
        made = labels(windows.y_ret, windows.direction, fitted, windows.weight)
        self.y_ret, self.y_up, self.labelled = (t.to(device) for t in made)
        self.teacher = teacher

    def gather(self, rows: Tensor, augment: Augment) -> Micro:
        x_embedding, x_ctx = self.vectors(rows)
        return Micro(
            x_price=self.prices.gather(rows, augment),
            x_embedding=x_embedding,
            x_ctx=x_ctx,
            y_ret=self.y_ret[rows],
            y_up=self.y_up[rows],
            labelled=self.labelled[rows],
            teacher=None if self.teacher is None else self.teacher.take(rows),
        )

    def vectors(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return self.embedding[rows].float(), self.context[rows]

    def micros(self, parts: Iterable[Tensor], augment: Augment, ahead: int) -> Generator[Micro]:
        return (self.gather(part, augment) for part in parts)


def labels(
    y_ret: NDArray[np.float32],
    direction: NDArray[np.float32],
    fitted: Fitted,
    weight: NDArray[np.float32] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`y_ret`, `y_up` and `labelled` as in `Micro`; y_ret is in raw units, the arrays are (n, H)."""
    labelled = np.isfinite(y_ret)
    scaled = np.where(labelled, y_ret / np.asarray(fitted.return_std, np.float32), 0)
    up = np.where(labelled, 0.5 + 0.5 * np.sign(direction), 0.5)
    weighted = labelled if weight is None else labelled * weight
    made = (torch.from_numpy(array.astype(np.float32)) for array in (scaled, up, weighted))
    return next(made), next(made), next(made)


class TrainBatches:
    """The train windows in a fresh order each epoch, in groups of micro batches.

    The order depends on seed and epoch alone, so any step of any epoch can be reproduced.
    """

    def __init__(
        self,
        data: ReadyWindows,
        rows: NDArray[np.int64],
        *,
        batch_size: int,
        accumulate: int,
        seed: int,
        augment: Augment,
    ) -> None:
        self.data = data
        self.rows = torch.from_numpy(rows).to(data.index)
        self.batch_size = batch_size
        self.group_size = batch_size * accumulate
        self.seed = seed
        self.augment = augment
        self._order: tuple[int, Tensor] | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch; the last group may be short."""
        return -(-len(self.rows) // self.group_size)

    def rows_of(self, epoch: int, step: int) -> Tensor:
        """The window numbers of one group."""
        order = self._epoch_order(epoch)
        return order[step * self.group_size : (step + 1) * self.group_size]

    def group(self, epoch: int, step: int) -> Group:
        """The micro batches of one optimizer step."""
        parts = self._parts(epoch, step)
        return self._counted(_group(self.data.gather(part, self.augment) for part in parts), epoch, step)

    def groups(self, epoch: int, first: int) -> Generator[Group]:
        """The groups of an epoch from step `first` on; closing the generator stops the prefetch."""
        steps = range(first, self.steps)
        parts = (part for step in steps for part in self._parts(epoch, step))
        ahead = AHEAD * self.group_size // self.batch_size
        micros = self.data.micros(parts, self.augment, ahead)
        with closing(micros):
            for step in steps:
                group = _group(islice(micros, len(self._parts(epoch, step))))
                yield self._counted(group, epoch, step)

    def inputs(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The model's inputs for all train windows, once, without augmentation."""
        rows = self.rows.cpu().numpy()
        return (micro.inputs for micro in self.data.sweep(rows, self.batch_size))

    def _parts(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        return tuple(self.rows_of(epoch, step).split(self.batch_size))

    def _counted(self, group: Group, epoch: int, step: int) -> Group:
        """The group with the counts of its whole step."""
        return group

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            order = _shuffled(len(self.rows), self.seed, epoch).to(self.rows.device)
            self._order = (epoch, self.rows[order])
        return self._order[1]


class DateBatches(TrainBatches):
    """Micro batches of whole days, which come in a fresh order each epoch.

    A micro batch has as many days as hold `batch_size` windows on the mean, rounded up: where all days are as
    wide, it takes days until `batch_size` is reached. So the number of steps is the same in every epoch. A
    day is a calendar date and is never divided.
    """

    @cached_property
    def _days(self) -> tuple[Tensor, ...]:
        """The windows of each day, in the order of the dates."""
        rows = self.rows.cpu().numpy()
        day = self.data.asof[rows].astype("datetime64[D]")
        order = np.argsort(day, kind="stable")
        first = np.flatnonzero(np.append(True, np.diff(day[order]) > np.timedelta64(0, "D")))
        return torch.from_numpy(rows[order]).to(self.rows.device).tensor_split(first[1:].tolist())

    @cached_property
    def _per_micro(self) -> int:
        """How many days are a micro batch."""
        return min(-(-self.batch_size * len(self._days) // len(self.rows)), len(self._days))

    @property
    def _per_step(self) -> int:
        """How many days are an optimizer step."""
        return self._per_micro * (self.group_size // self.batch_size)

    @property
    def steps(self) -> int:
        return -(-len(self._days) // self._per_step)

    def rows_of(self, epoch: int, step: int) -> Tensor:
        return torch.cat(self._parts(epoch, step))

    def _parts(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        return tuple(torch.cat(days) for days in self._days_of(epoch, step))

    def _counted(self, group: Group, epoch: int, step: int) -> Group:
        micros = []
        for micro, days in zip(group.micros, self._days_of(epoch, step), strict=True):
            widths = torch.tensor([len(day) for day in days])
            day = torch.repeat_interleave(torch.arange(len(days)), widths)
            micros.append(replace(micro, day=sent(day, micro.y_ret.device)))
        return replace(group, micros=tuple(micros))

    def _days_of(self, epoch: int, step: int) -> list[list[Tensor]]:
        """The rows of each day of each micro batch of a step."""
        order, group = self._epoch_order(epoch), self._per_step
        numbers = order[step * group : (step + 1) * group].split(self._per_micro)
        return [[self._days[day] for day in micro.tolist()] for micro in numbers]

    def _epoch_order(self, epoch: int) -> Tensor:
        """Days in the order of an epoch."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, _shuffled(len(self._days), self.seed, epoch))
        return self._order[1]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on the device; a GPU copies it from pinned memory, so that the host does not wait."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _shuffled(count: int, seed: int, epoch: int) -> Tensor:
    """The numbers below `count` in the order of an epoch."""
    return torch.randperm(count, generator=torch.Generator().manual_seed((seed << 24) + epoch))


def _group(parts: Iterable[Micro]) -> Group:
    micros = tuple(parts)
    return Group(micros, Counts.of(micros), sum(len(m.x_ctx) for m in micros))
