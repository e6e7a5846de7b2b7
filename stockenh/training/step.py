"""The training step: from a loss per element to an optimizer step.

Legend: B windows in a micro batch, H horizons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from stockenh.data.batches import Counts, Group, Micro
from stockenh.training.averaging import Averages
from stockenh.training.distributed import SINGLE_PROCESS, SingleProcessStep
from stockenh.training.losses import Loss
from stockenh.training.optimizers import Schedule
from stockenh.training.precision import Precision


class Objective:
    """The weighted mean of a loss over the labels of a whole accumulation group, in float32.

    Each micro batch is divided by the group's counts of labels, so that the micro batches of a group add up
    to the loss of a single big batch, also in short last groups and with missing labels. A return of exactly
    0 has no direction: it counts in the loss of returns only.
    """

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def terms(self, out: dict[str, Tensor], micro: Micro, count: Counts) -> tuple[Tensor, Tensor]:
        """This micro batch's share of the group's loss of returns and of direction, scalars.

        count: of the whole group, see `Loss.count`.
        """
        returns, direction = self.loss.elements({k: v.float() for k, v in out.items()}, micro)
        return (
            self.loss.return_weight * ((returns * self.loss.weights(micro)).sum() / count.labels),
            self.loss.direction_weight * ((direction * micro.moved).sum() / count.moves),
        )

    def __call__(self, out: dict[str, Tensor], micro: Micro, count: Counts) -> Tensor:
        """What this micro batch adds to the loss that is trained on, a scalar.

        With `task_log_var` s (2,) in the model's output each term is weighted by exp(-s) and s / 2 is
        added (homoscedastic uncertainty, Kendall et al. 2018); s = 0 is the plain sum.
        """
        terms = self.terms(out, micro, count)
        log_var = out.get("task_log_var")
        if log_var is None:
            return terms[0] + terms[1]
        share = self.loss.weights(micro).sum() / count.labels
        weighted = torch.exp(-log_var.float()) * torch.stack(terms)
        return weighted.sum() + 0.5 * share * log_var.float().sum()


class Gradients:
    """Where a step's gradients are: in memory of their own, which the next step drops."""

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Called before the first micro batch of a step."""
        optimizer.zero_grad()

    def keep(self, model: nn.Module) -> None:
        """Called after the backward pass of each micro batch."""


class KeptGradients(Gradients):
    """In the same memory at every step, where they are added up.

    A CUDA graph writes its results to where its next replay overwrites them. Autograd takes a first gradient
    as it comes, so that the next micro batch would change it.
    """

    def __init__(self) -> None:
        self._own: dict[nn.Parameter, Tensor] = {}

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)

    def keep(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad is not self._own.get(parameter):
                parameter.grad = self._own[parameter] = parameter.grad.clone()


@dataclass(frozen=True)
class Learner:
    """A model and what changes it. A technique that is off is a neutral object among these."""

    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    precision: Precision
    averages: Averages
    max_norm: float
    processes: SingleProcessStep = SINGLE_PROCESS
    gradients: Gradients = field(default_factory=Gradients)

    def step(self, group: Group) -> tuple[Tensor, bool]:
        """One optimizer step on an accumulation group: its mean loss (a scalar), and whether it was taken.

        Raises NonFiniteGradient, the weights untouched.
        """
        loss, taken = self.update(group)
        if taken:
            self.schedule.step()
            self.averages.update(self.model)
        return loss, taken

    def update(self, group: Group) -> tuple[Tensor, bool]:
        """The part of a step that computes: forward, loss, backward, clipping, optimizer."""
        self.processes.begin()
        self.gradients.clear(self.optimizer)
        losses = []
        for loss in self.losses(group):
            self.precision.backward(loss)
            self.gradients.keep(self.model)
            losses.append(loss.detach())
        total = self.processes.total(torch.stack(losses).sum())
        taken = self.precision.step(self.optimizer, self.model.parameters(), self.max_norm)
        return total, taken

    def losses(self, group: Group) -> Iterator[Tensor]:
        """What each micro batch adds to the group's mean loss, one after another."""
        count = self.objective.loss.count(group.micros, group.count)
        for micro in group.micros:
            with self.precision.autocast():
                out = self.processes.forward(self.model, micro.inputs, last=micro is group.micros[-1])
            yield self.objective(out, micro, count)

    def checkpoint(self) -> dict[str, Any]:
        """The state of everything that a step changes, as plain containers and tensors."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "precision": self.precision.state_dict(),
            "averages": self.averages.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restores what `checkpoint` gave. The schedule comes last: it sets the optimizer's rate."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.precision.load_state_dict(state["precision"])
        self.averages.load_state_dict(state["averages"])
        self.schedule.load_state_dict(state["schedule"])
