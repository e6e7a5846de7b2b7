"""The precision of a training step: float32, or autocast to bf16 or fp16 (Micikevicius et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from stockenh.errors import TrainingError
from stockenh.storage.machine import has_bf16

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Below about so many parameters a step on a CPU is bound by operator calls: bf16 makes one of 0.3 million 5%
# faster, of 0.65 million 18%, of 5.9 million 60 to 85% (docs/measurements.md).
CPU_BF16_PARAMETERS = 500_000

# A loss scale that halves this often without one step taken means that the forward pass itself overflows.
MOST_SKIPS_IN_A_ROW = 20


# So many steps may be made before a device that is not waited for is asked whether all were finite.
STEPS_UNASKED = 50


class NonFiniteGradient(TrainingError):
    """The gradient is not finite and no loss scale can mend it; the optimizer was not stepped.

    ago: how many steps were made since
    """

    def __init__(self, message: str, ago: int = 0) -> None:
        super().__init__(message)
        self.ago = ago


class Precision:
    """Autocast, loss scaling and the guarded optimizer step. In fp32 all of it does nothing.

    unasked: whether steps are made without waiting for the device to say that the gradient was finite; by
             default on CUDA. A fused optimizer leaves out a step where it was not, and `require_finite`
             tells of it. In fp16 every step waits: schedule and averages advance only with steps taken.
    """

    def __init__(self, name: str, device: torch.device, unasked: bool | None = None) -> None:
        self.name = name
        self.device = device
        self._dtype = DTYPES[name]
        self._scaler = self._new_scaler()
        self._skipped_in_a_row = 0
        self._unasked = name != "fp16" and (device.type == "cuda" if unasked is None else unasked)
        self._steps = 0  # since the device was asked
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

        Raises NonFiniteGradient, the optimizer untouched, where the gradient is not finite and skipping
        is not the remedy.
        """
        self._scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        if self._unasked and getattr(optimizer, "_step_supports_amp_scaling", False):
            self._step_unasked(optimizer, norm)
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
        """Asks the device, now or once many steps were made, whether all gradients were finite.

        Raises NonFiniteGradient where one was not. Does nothing where every step has asked already.
        """
        if not self._unasked or self._steps == 0 or not (now or self._steps >= STEPS_UNASKED):
            return
        made, self._steps = self._steps, 0
        first = int(self._first_bad)
        self._first_bad.zero_()
        if first:
            raise NonFiniteGradient("the gradient norm is not finite", ago=made - first)

    def _step_unasked(self, optimizer: torch.optim.Optimizer, norm: Tensor) -> None:
        """Torch's fused optimizers leave out, on the device, a step of which `found_inf` is 1."""
        self._steps += 1
        bad = ~torch.isfinite(norm)
        self._first_bad.add_(bad * (self._first_bad == 0), alpha=self._steps)
        optimizer.found_inf = bad.float()  # type: ignore[attr-defined]
        optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        return {"scaler": self._scaler.state_dict(), "skipped_in_a_row": self._skipped_in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the loss scale, in a scaler that knows of no step that was refused halfway."""
        self._scaler = self._new_scaler()
        self._scaler.load_state_dict(state["scaler"])
        self._skipped_in_a_row = int(state["skipped_in_a_row"])

    def _new_scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "fp16")


def resolve(setting: str, device: torch.device, model: nn.Module) -> str:
    """`auto` by a fixed rule, anything else as it is.

    CUDA: bf16 where the card has it, else fp16. CPU: bf16 where the processor multiplies bf16 natively
    and the model is large enough to be bound by arithmetic, else fp32.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return "bf16" if has_bf16(device) else "fp16"
    large = sum(p.numel() for p in model.parameters()) >= CPU_BF16_PARAMETERS
    return "bf16" if large and has_bf16(device) else "fp32"
