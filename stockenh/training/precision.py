"""The precision of a training step: float32, or autocast to bf16 or fp16 (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stockenh.errors import TrainingError
from stockenh.storage.machine import has_bf16

Name = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Below about so many parameters a step on a CPU is bound by operator calls: bf16 makes a model of 0.3 million
# 5% faster, one of 0.65 million 18%, one of 5.9 million 60 to 85% (docs/measurements.md).
CPU_BF16_PARAMETERS = 500_000

# A loss scale that halves this often without one step taken means that the forward pass itself overflows.
MOST_SKIPS_IN_A_ROW = 20


# With the deferred check, the device is read once in so many steps.
DEFERRED_STEPS = 50


def sum_dtype(device: torch.device) -> torch.dtype:
    """Of sums over many steps: float64, which MPS does not have."""
    return torch.float32 if device.type == "mps" else torch.float64


class NonFiniteGradient(TrainingError):
    """The gradient is not finite and no loss scale helps; the optimizer was not stepped.

    ago: how many steps were made since
    """

    def __init__(self, message: str, ago: int = 0) -> None:
        super().__init__(message)
        self.ago = ago


class Precision:
    """Autocast, loss scaling and the guarded optimizer step. In fp32 all of it does nothing.

    deferred: whether the check that a gradient is finite is deferred, so that the host need not wait for the
              device at every step; by default on CUDA. A fused optimizer leaves out a step whose gradient is
              not finite, and `require_finite` raises the error later. In fp16 every step waits, because
              schedule and averages advance only with steps taken.
    """

    def __init__(self, name: str, device: torch.device, deferred: bool | None = None) -> None:
        self.name = name
        self.device = device
        self._dtype = DTYPES[name]
        self._scaler = self._new_scaler()
        self._skipped_in_a_row = 0
        self._deferred = name != "fp16" and (device.type == "cuda" if deferred is None else deferred)
        self._steps = 0  # since the last regular check
        self._first_bad = torch.zeros((), dtype=torch.int64, device=device)  # of these, from 1; 0: none

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(self.device.type, dtype=self._dtype, enabled=self.name != "fp32")

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a micro batch, scaled in fp16."""
        self._scaler.scale(loss).backward()

    def step(
        self, optimizer: torch.optim.Optimizer, parameters: Iterable[nn.Parameter], max_norm: float
    ) -> bool:
        """Unscales, clips the gradient norm and steps. False where fp16 skipped a step that overflowed.

        Raises NonFiniteGradient, the optimizer unchanged, where the gradient is not finite and skipping does
        not help.
        """
        self._scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        if self._deferred and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._step_unchecked(optimizer, norm)
            return True
        hopeless = self.name != "fp16" or self._skipped_in_a_row >= MOST_SKIPS_IN_A_ROW
        if hopeless and not torch.isfinite(norm):
            raise NonFiniteGradient(f"the gradient norm is {float(norm)}")
        scale = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        taken = self._scaler.get_scale() >= scale  # the scale falls when, and only when, a step was skipped
        self._skipped_in_a_row = 0 if taken else self._skipped_in_a_row + 1
        return taken

    def require_finite(self, *, now: bool = False) -> None:
        """The deferred check, now or once in many steps. Does nothing where every step is checked.

        Raises NonFiniteGradient if a gradient was not finite.
        """
        is_regular = self._steps >= DEFERRED_STEPS  # at the same steps in every process
        if not self._deferred or self._steps == 0 or not (now or is_regular):
            return
        made, first = self._steps, int(self._first_bad)
        if first or is_regular:
            self._steps = 0
            self._first_bad.zero_()
        if first:
            raise NonFiniteGradient("the gradient norm is not finite", ago=made - first)

    def _step_unchecked(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        """Torch's fused optimizers leave out, on the device, a step whose `found_inf` is 1."""
        self._steps += 1
        bad = ~torch.isfinite(norm)
        self._first_bad.add_(bad * (self._first_bad == 0), alpha=self._steps)
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self._scaler.state_dict(), "skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the loss scale, in a new scaler without the state of a step that raised."""
        self._scaler = self._new_scaler()
        self._scaler.load_state_dict(state["scaler"])
        self._skipped_in_a_row = int(state["skipped_in_a_row"])

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve(setting: Name | Literal["auto"], device: torch.device, model: nn.Module) -> Name:
    """`auto` by a fixed rule, anything else as it is.

    CUDA: bf16 where the GPU has it, else fp16. CPU: bf16 where the processor multiplies bf16 natively and the
    model is large enough to be bound by arithmetic, else fp32.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if has_bf16(device) else "fp16"
    large = sum(p.numel() for p in model.parameters()) >= CPU_BF16_PARAMETERS
    return "bf16" if large and has_bf16(device) else "fp32"
