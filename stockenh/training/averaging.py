"""Averages of the weights over a run, beside the weights themselves: EMA and SWA, alone or together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from stockenh.data import ShareOrZero
from stockenh.models.layers import compacted

Inputs = tuple[Tensor, ...]


class Average:
    """One set of averaged weights, in a copy of the model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = compacted(AveragedModel(model)).requires_grad_(False)

    def step(self, model: nn.Module) -> None:
        """Called after every optimizer step that was taken."""

    def close_epoch(self, model: nn.Module, epoch: int, inputs: Callable[[], Iterable[Inputs]]) -> None:
        """Called after epoch `epoch` (from 1), before validation; inputs() gives the train inputs once."""

    def weights(self) -> nn.Module | None:
        """The averaged model; None before there is one."""
        return self._model.module if self._model.n_averaged > 0 else None

    def state_dict(self) -> dict[str, Any]:
        return dict(self._model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state)


class Averages:
    """Weights by name: `raw` and every average. Without an average, nothing here does anything."""

    def __init__(self, kept: dict[str, Average] | None = None) -> None:
        self.kept = kept or {}

    def update(self, model: nn.Module) -> None:
        """See `Average.step`."""
        for average in self.kept.values():
            average.step(model)

    def close_epoch(self, model: nn.Module, epoch: int, inputs: Callable[[], Iterable[Inputs]]) -> None:
        """See `Average.close_epoch`."""
        for average in self.kept.values():
            average.close_epoch(model, epoch, inputs)

    def named(self, model: nn.Module) -> dict[str, nn.Module]:
        """The models to validate, by the name of their weights."""
        averaged = {name: average.weights() for name, average in self.kept.items()}
        return {"raw": model, **{name: net for name, net in averaged.items() if net is not None}}

    def state_dict(self) -> dict[str, Any]:
        return {name: average.state_dict() for name, average in self.kept.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, average in self.kept.items():
            average.load_state_dict(state[name])


class Ema(Average):
    """Exponential moving average, updated at every step (Polyak and Juditsky 1992).

    It starts as a copy of the initial weights; update n = 0, 1, ... uses min(decay, (1 + n) / (10 + n)), so
    that the initial weights are soon forgotten (0.9999 without it is 74% initial weights after 3,000 steps).
    The full decay is reached at n = (10 decay - 1) / (1 - decay): 8,990 for 0.999. Buffers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model)
        self._model.n_averaged.fill_(1)  # at 0 torch would copy instead of average
        self._decay = decay
        self._updates = 0  # counted on the host: torch's own update reads the number back from the device

    @torch.no_grad()
    def step(self, model: nn.Module) -> None:
        n, averaged = self._updates, self._model.module
        rate = 1 - min(self._decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), rate)
        for kept, current in zip(averaged.buffers(), model.buffers(), strict=True):
            kept.copy_(current)
        self._updates += 1
        self._model.n_averaged.add_(1)

    def weights(self) -> nn.Module:
        averaged: nn.Module = self._model.module  # without reading a number back from the device
        return averaged

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._updates = int(self._model.n_averaged) - 1


class Swa(Average):
    """Equal mean of the weights at the end of every epoch after `first` (Izmailov et al. 2018).

    BatchNorm statistics, where the model has any, are those of the averaged weights over the train inputs.
    """

    def __init__(self, model: nn.Module, first: int) -> None:
        super().__init__(model)
        self._first = first

    def close_epoch(self, model: nn.Module, epoch: int, inputs: Callable[[], Iterable[Inputs]]) -> None:
        if epoch > self._first:
            self._model.update_parameters(model)
            refresh_batch_norm(self._model.module, inputs)

    def state_dict(self) -> dict[str, Any]:
        return {"first": self._first, **super().state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """An average that would now start later, because the run got more epochs, starts again."""
        super().load_state_dict({k: v for k, v in state.items() if k != "first"})
        if state["first"] != self._first:
            self._model.n_averaged.zero_()


@torch.no_grad()
def refresh_batch_norm(model: nn.Module, inputs: Callable[[], Iterable[Inputs]]) -> None:
    """Sets BatchNorm's running statistics to the mean over all inputs; does nothing without BatchNorm."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = {norm: norm.momentum for norm in norms}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the cumulative mean
        norm.train()
    for batch in inputs():
        model(*batch)
    for norm, momentum in momenta.items():
        norm.momentum = momentum
    for module, training in modes.items():
        module.training = training


@dataclass(frozen=True)
class Averaging:
    """The config group `averaging`: the averages beside the raw weights.

    ema_decay:     None: no EMA
    swa_start:     share of the epochs after which SWA averages; None: no SWA
    swa_lr_factor: SWA's learning rate, as a fraction of the optimizer's peak. A rate for SGD, such as 0.05,
                   destroys what AdamW has learnt
    swa_anneal:    "cosine" reaches that rate over the first SWA epoch, "constant" at once
    """

    ema_decay: ShareOrZero | None = None
    swa_start: ShareOrZero | None = None
    swa_lr_factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    swa_anneal: Literal["cosine", "constant"] = "cosine"

    def swa_first(self, epochs: int) -> int | None:
        """The number of epochs before SWA, which leaves at least one; None without SWA."""
        return None if self.swa_start is None else int(self.swa_start * epochs)

    def build(self, model: nn.Module, epochs: int) -> Averages:
        """The averages of a fresh model for a run of so many epochs."""
        kept: dict[str, Average] = {}
        if self.ema_decay is not None:
            kept["ema"] = Ema(model, self.ema_decay)
        first = self.swa_first(epochs)
        if first is not None:
            kept["swa"] = Swa(model, first)
        return Averages(kept)
