"""What all speed measurements run on: windows of a generated market, and a training step of both loops.

The plain recipe is training as a notebook writes it, the yardstick of every speed ratio: a DataLoader over
five tensors in memory, float32, eager, AdamW as it comes, batch by batch to the device, and the loss read at
every step; on a GPU without TF32. Legend: B batch, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import RunConfig, parse
from stockenh.data.batches import DeviceWindows, TrainBatches
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.sources.synthetic import SyntheticData
from stockenh.models.cpu.memory import hand_back_freed_memory, keep_freed_memory
from stockenh.models.layers import CausalConv, CrossAttention, Dropout, SelfAttention, in_other_forms
from stockenh.training.precision import DTYPES, resolve, sum_dtype
from stockenh.training.step import Learner

SYMBOLS, BARS, EMBEDDING = 4, 700, 512
STEPS = 16  # optimizer steps in an epoch
EPOCHS = 100_000  # no measurement reaches the end of the schedule
PLAIN_WINDOWS = 1024  # in the plain recipe's data set
WARM = 2  # steps until memory lies as it would if the recipe had not begun after another one
LR, MAX_NORM = 1e-4, 1.0


@dataclass(frozen=True)
class Setup:
    """A model's config with windows that its times do not depend on: the embedding is random."""

    config: RunConfig
    device: torch.device
    prepared: Prepared
    fitted: Fitted
    resident: DeviceWindows

    @classmethod
    def make(cls, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device) -> Setup:
        """raw: a composed config; model: the node that takes the place of its own."""
        config = parse({**raw, "model": model})
        windows = SyntheticData(symbols=SYMBOLS, bars=BARS).load(DiskCache(None)).windows
        rows = np.flatnonzero(windows.labelled)
        embedding = np.random.default_rng(0).normal(size=(len(windows), EMBEDDING)).astype(np.float16)
        prepared = Prepared(windows, embedding, {"train": rows}, ())
        fitted = Fitted.fit(windows, rows)
        return cls(config, device, prepared, fitted, DeviceWindows(windows, embedding, fitted, device))

    @property
    def batch_size(self) -> int:
        return self.config.train.batch_size

    def with_train(self, **settings: Any) -> Setup:
        """The same with other training settings."""
        return replace(self, config=replace(self.config, train=replace(self.config.train, **settings)))

    def with_fixed_precision(self) -> Setup:
        """With the precision that `auto` takes, and one micro batch a step."""
        precision = resolve(self.config.train.precision, self.device, self.net())
        return self.with_train(precision=precision, accumulate=1)

    def net(self) -> nn.Module:
        """The model with its initial weights, in training mode."""
        return build.model(self.config, self.prepared, self.device).train()

    def batches(self) -> TrainBatches:
        """Whole groups alone, as many as fit, so that every step takes as many windows."""
        group = self.batch_size * self.config.train.accumulate
        rows = self.prepared.rows["train"]
        whole = np.resize(rows, max(1, min(STEPS, len(rows) // group)) * group)
        return build.batches(self.config, replace(self.prepared, rows={"train": whole}), self.resident)

    def learner(self, steps: int) -> Learner:
        """The project's own learner; steps: in an epoch."""
        config = replace(self.config, train=replace(self.config.train, epochs=EPOCHS))
        return build.learner(config, self.net(), self.fitted, self.device, steps)

    def inputs(self, count: int) -> tuple[Tensor, ...]:
        """The model's inputs for so many windows, on the device."""
        return self.tensors(count)[:3]

    def tensors(self, count: int) -> tuple[Tensor, ...]:
        """x_price, x_embedding, x_ctx, y_ret, y_up of the first windows, on the device."""
        rows = torch.from_numpy(np.resize(self.prepared.rows["train"], count)).to(self.device)
        micro = self.resident.gather(rows, build.AS_IT_IS)
        return (*micro.inputs, micro.y_ret, micro.y_up)

    def plain_step(
        self,
        net: nn.Module,
        memory_policy: Callable[[], bool] = hand_back_freed_memory,
        **technique: Any,
    ) -> Callable[[], None]:
        """A step of the plain recipe on these windows, with memory handled as the C library does by default.

        technique: settings of `PlainRecipe`, or other `batches`.
        """
        batches = technique.pop("batches", None)
        if batches is None:  # in memory, as a notebook's data set
            tensors = self.tensors(max(PLAIN_WINDOWS, self.batch_size))
            batches = loaded([x.cpu() for x in tensors], self.batch_size)
        step = PlainRecipe(net, batches, self.device, **technique)

        def call() -> None:
            memory_policy()
            step()

        return call


class ProjectLoop:
    """One optimizer step per call, by the project's own batches and learner, as its loop takes it."""

    def __init__(self, setup: Setup) -> None:
        self.batches = setup.batches()
        self.learner = setup.learner(self.batches.steps)
        self.done = 0
        self.loss_sum = torch.zeros((), dtype=sum_dtype(setup.device), device=setup.device)
        self.windows = self.batches.group_size

    def __call__(self) -> None:
        keep_freed_memory()
        group = self.batches.group(*divmod(self.done, self.batches.steps))
        loss, _ = self.learner.step(group)
        self.loss_sum += loss * group.count.labels
        self.done += 1


class PlainRecipe:
    """One optimizer step per call; every argument besides the first three is one technique alone."""

    def __init__(
        self,
        net: nn.Module,
        batches: Iterator[Sequence[Tensor]],
        device: torch.device,
        *,
        fused: bool | None = None,
        precision: str = "fp32",
        accumulate: int = 1,
        tf32: bool = False,
    ) -> None:
        self.net, self.batches, self.device = net.to(device).train(), batches, device
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=LR, fused=fused)
        self.dtype, self.accumulate, self.tf32 = DTYPES[precision], accumulate, tf32
        self.total = 0.0

    def __call__(self) -> None:
        with float32_products(self.device, self.tf32):
            self._step()

    def _step(self) -> None:
        self.optimizer.zero_grad()
        for _ in range(self.accumulate):
            x_price, x_embedding, x_ctx, y_ret, y_up = (x.to(self.device) for x in next(self.batches))
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                out = self.net(x_price, x_embedding, x_ctx)
            direction = F.binary_cross_entropy_with_logits(out["up_logits"].float(), y_up)
            loss = 0.6 * F.huber_loss(out["ret"].float(), y_ret) + 0.4 * direction
            (loss / self.accumulate).backward()
            self.total += loss.item()
        nn.utils.clip_grad_norm_(self.net.parameters(), MAX_NORM)
        self.optimizer.step()


@contextmanager
def float32_products(device: torch.device, tf32: bool) -> Iterator[None]:
    """Within, a GPU computes float32 products exactly or in TF32. By default torch has exact matrix products,
    and convolutions in TF32."""
    if device.type != "cuda":
        yield
        return
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matrices)
        torch.backends.cudnn.allow_tf32 = convolutions


def loaded(tensors: Sequence[Tensor], batch_size: int) -> Iterator[Sequence[Tensor]]:
    """Epoch after epoch of a shuffling DataLoader."""
    loader = DataLoader(TensorDataset(*tensors), batch_size=batch_size, shuffle=True, drop_last=True)
    while True:
        yield from loader


def torch_layers(net: nn.Module) -> nn.Module:
    """A copy with torch's own dropout, attention and convolution: the same function and the same weights."""
    return in_other_forms(
        net,
        {
            Dropout: lambda plain: nn.Dropout(plain.p),
            SelfAttention: _SelfAttention,
            CrossAttention: _CrossAttention,
            CausalConv: _CausalConv,
        },
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, p: float) -> Tensor:
    """Heads (B, heads, L, D / heads) of queries, keys and values to (B, L, D)."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=p).transpose(1, 2).flatten(2)


class _SelfAttention(nn.Module):
    """(B, L, D) to (B, L, D)."""

    def __init__(self, own: SelfAttention) -> None:
        super().__init__()
        self.heads, self.p = own.heads, own.dropout_p
        self.qkv, self.rotary, self.out = own.qkv, own.rotary, own.out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        mixed: Tensor = self.out(_attend(self.rotary(q), self.rotary(k), v, self.p if self.training else 0.0))
        return mixed


class _CrossAttention(nn.Module):
    """(B, L, D) and a memory (B, M, D) to (B, L, D)."""

    def __init__(self, own: CrossAttention) -> None:
        super().__init__()
        self.heads, self.p = own.heads, own.dropout_p
        self.q, self.kv, self.out = own.q, own.kv, own.out

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        projected = (self.q(x), *self.kv(memory).chunk(2, -1))
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        mixed: Tensor = self.out(_attend(q, k, v, self.p if self.training else 0.0))
        return mixed


class _CausalConv(nn.Module):
    """(B, L, D) to (B, L, D)."""

    def __init__(self, own: CausalConv) -> None:
        super().__init__()
        width = own.taps.out_features
        self.norm, self.reach = own.norm, (own.kernel - 1) * own.dilation
        self.conv = nn.Conv1d(width, width, own.kernel, dilation=own.dilation)
        self.conv.weight.data = (
            own.taps.weight.data.view(width, own.kernel, width).transpose(1, 2).contiguous()
        )
        self.conv.bias = own.taps.bias
        self.dropout = nn.Dropout(own.dropout.p)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(self.norm(x).transpose(1, 2), (self.reach, 0))
        y: Tensor = x + self.dropout(F.gelu(self.conv(padded).transpose(1, 2)))
        return y
