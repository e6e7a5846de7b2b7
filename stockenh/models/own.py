"""A network of the user's own: its output in the form that this package uses, and a trial of it.

Legend: B windows, T bars, E embedding width, F context features, H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from stockenh.errors import ConfigError
from stockenh.models import InputSpec

NEEDED = ("ret", "up_logits")
# What else the losses know; other outputs, such as weights of an attention, are left out.
KNOWN = ("quantiles", "quantile_levels", "task_log_var")
UNUSED = "has_unused_parameters"  # whether the forward leaves layers out, as in notebooks
TRIED = 3  # windows
Outputs = Mapping[str, Tensor]
TOLERANCE = 1e-3
STORED = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool}


def adapted(net: Any, inputs: InputSpec) -> nn.Module:
    """The network itself, with a forward that returns a dict of float32 tensors with `up_prob` in it.

    Its own forward takes the inputs by position, whatever it calls them, and returns a dict with `ret` and
    `up_logits`, or the two as a tuple. Raises ConfigError where it is no network.
    """
    if not isinstance(net, nn.Module):
        raise ConfigError(f"build() returns {_a(net)}: it must return the network, an nn.Module")
    own = type(net)

    def forward(self: Any, x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> dict[str, Tensor]:
        return _outputs(own.forward(self, x_price, x_embedding, x_ctx))

    # a subclass rather than a module around it: the weights keep the names that they have in the notebook
    named = {"forward": forward, "__module__": own.__module__, "__doc__": own.__doc__}
    net.__class__ = type(own.__name__, (own,), named)
    if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        with torch.no_grad():
            own.forward(net, *_random(inputs))
    return net


def _outputs(out: Any) -> dict[str, Tensor]:
    """What a forward returned, in this package's form. Raises ConfigError where it can't be brought to it."""
    if isinstance(out, tuple | list):
        if len(out) != len(NEEDED):
            raise ConfigError(
                f"forward() returns {len(out)} values: return (ret, up_logits), or a dict of them"
            )
        out = dict(zip(NEEDED, out, strict=True))
    if not isinstance(out, Mapping):
        raise ConfigError(f'forward() returns {_a(out)}: return {{"ret": ret, "up_logits": up_logits}}')
    if lacking := [key for key in NEEDED if key not in out]:
        has = f"it has {', '.join(map(str, out))}" if out else "it is empty"
        fix = "; up_logits are the numbers before the sigmoid" if "up_prob" in out else ""
        raise ConfigError(f"forward() returns a dict without {' and '.join(lacking)}: {has}{fix}")
    for key in NEEDED:
        if not isinstance(out[key], Tensor):
            raise ConfigError(f"forward() returns {_a(out[key])} as {key}: it must be a tensor")
    ret, up_logits = (out[key].float() for key in NEEDED)
    more = {key: out[key] for key in KNOWN if key in out}
    return {"ret": ret, "up_logits": up_logits, "up_prob": torch.sigmoid(up_logits), **more}


def _a(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def try_out(net: nn.Module, inputs: InputSpec) -> tuple[str | None, bool]:
    """Runs an adapted network on a few random windows. Raises ConfigError where the output is wrong.

    Returns what is odd but can be trained, None for nothing; and whether some parameters take no part.
    """
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigError("the network has no parameters that can be trained")
    for key, value in net.state_dict().items():
        if not isinstance(value, Tensor) or value.dtype not in STORED:
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(
                f"{key} is of the type {kind}, which weights can't be stored in: take float32 or int64"
            )
    given = _random(inputs)
    with torch.no_grad():
        net.eval()
        out = net(*given)
        _require_outputs(out, inputs, TRIED)
        alone = [net(*(x[row : row + 1] for x in given)) for row in (0, TRIED - 1)]
        for one in alone:
            _require_outputs(one, inputs, 1)
        again = net(*given)
    out_in_training = net.train()(*given)
    _require_outputs(out_in_training, inputs, TRIED)
    for key in NEEDED:
        if not out_in_training[key].requires_grad:
            raise ConfigError(
                f"forward() returns a {key} that no parameter can learn from: it is detached, or was "
                f"computed under no_grad"
            )
    torch.stack([out_in_training[key].sum() for key in NEEDED]).sum().backward()
    unused = any(p.requires_grad and p.grad is None for p in net.parameters())
    return _odd(out, again, alone), unused


def _odd(out: Outputs, again: Outputs, alone: Sequence[Outputs]) -> str | None:
    """What is wrong with forecasts of the same windows: once more, and of the first and the last alone."""
    if any(not torch.equal(out[key], again[key]) for key in NEEDED):
        return "its forecasts differ from call to call: is there a dropout without training=self.training?"
    together = {key: out[key][[0, -1]] for key in NEEDED}
    apart = {key: torch.cat([one[key] for one in alone]) for key in NEEDED}
    if any(not torch.allclose(together[key], apart[key], TOLERANCE, TOLERANCE) for key in NEEDED):
        return (
            "its forecast of a window depends on the other windows of the batch: is the batch taken for the "
            "time, such as by an LSTM without batch_first=True?"
        )
    return None


def _random(inputs: InputSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs like those of windows: prices from -1 to 1, without a move in the last; others standardised."""
    draw, device = torch.Generator("cpu").manual_seed(0), torch.get_default_device()
    prices = torch.rand(TRIED, inputs.lookback, inputs.price, generator=draw, device="cpu") * 2 - 1
    prices[-1] = 0
    embedding, context = (
        torch.randn(TRIED, width, generator=draw, device="cpu")
        for width in (inputs.embedding, inputs.context)
    )
    return prices.to(device), embedding.to(device), context.to(device)


def _require_outputs(out: Mapping[str, Tensor], inputs: InputSpec, windows: int) -> None:
    wanted = (windows, inputs.horizons)
    for key in NEEDED:
        if tuple(out[key].shape) != wanted:
            raise ConfigError(
                f"forward() returns {key} of shape {tuple(out[key].shape)} for {windows} "
                f"window{'s' * (windows > 1)} and {inputs.horizons} horizon{'s' * (inputs.horizons > 1)}: it "
                f"must be {wanted}, a number per window and horizon"
            )
        if not out[key].isfinite().all():
            usual = out[key][: TRIED - 1].isfinite().all()
            flat = " for a window whose price does not move" if usual and windows == TRIED else ""
            raise ConfigError(
                f"forward() returns a {key} with NaN or infinite numbers{flat}: look for a division by 0, "
                f"or a log or root of what can be 0 or below; prices lie between -1 and 1"
            )
