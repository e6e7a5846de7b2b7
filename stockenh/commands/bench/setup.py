"""What all speed measurements run on: windows of a generated market, on the device.

Legend: n windows, E embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import RunConfig, parse
from stockenh.data.batches import DeviceWindows, TrainBatches
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.sources.synthetic import SyntheticData
from stockenh.training.step import Learner

SYMBOLS, BARS, EMBEDDING = 4, 700, 512
STEPS = 16  # optimizer steps in an epoch
EPOCHS = 100_000  # no measurement reaches the end of the schedule


@dataclass(frozen=True)
class Bed:
    """A model's config with windows that its times do not depend on: the embedding is random."""

    config: RunConfig
    device: torch.device
    prepared: Prepared
    fitted: Fitted
    resident: DeviceWindows

    @classmethod
    def make(cls, raw: Mapping[str, Any], model: Mapping[str, Any], device: torch.device) -> Bed:
        """raw: a composed config; model: the node that takes the place of its own."""
        config = parse({**raw, "model": model})
        windows = SyntheticData(symbols=SYMBOLS, bars=BARS).load(DiskCache(None)).windows
        rows = np.flatnonzero(windows.labelled)
        embedding = np.random.default_rng(0).normal(size=(len(windows), EMBEDDING)).astype(np.float16)
        prepared = Prepared(windows, embedding, {"train": rows}, ())
        fitted = Fitted.fit(windows, rows)
        return cls(config, device, prepared, fitted, DeviceWindows(windows, embedding, fitted, device))

    def with_train(self, **settings: Any) -> Bed:
        """The same with other training settings."""
        return replace(self, config=replace(self.config, train=replace(self.config.train, **settings)))

    def net(self) -> nn.Module:
        """The model with its initial weights, in training mode."""
        return build.model(self.config, self.prepared, self.device).train()

    def batches(self) -> TrainBatches:
        """Whole groups alone, as many as fit, so that every step takes as many windows."""
        train = self.config.train
        group = train.batch_size * train.accumulate
        rows = self.prepared.rows["train"]
        whole = np.resize(rows, max(1, min(STEPS, len(rows) // group)) * group)
        of_train = replace(self.prepared, rows={"train": whole})
        return build.batches(self.config, of_train, self.resident)

    def learner(self, net: nn.Module, steps: int) -> Learner:
        """The project's own learner; steps: in an epoch."""
        config = replace(self.config, train=replace(self.config.train, epochs=EPOCHS))
        return build.learner(config, net, self.fitted, self.device, steps)

    def tensors(self, count: int) -> tuple[Tensor, ...]:
        """x_price, x_kron, x_ctx, y_ret, y_up of the first windows, in memory: a notebook's data set."""
        rows = torch.from_numpy(np.resize(self.prepared.rows["train"], count)).to(self.device)
        micro = self.resident.gather(rows, build.AS_IT_IS)
        return tuple(x.cpu() for x in (*micro.inputs, micro.y_ret, micro.y_up))

    def inputs(self, count: int) -> tuple[Tensor, ...]:
        """What the model takes of so many windows, on the device."""
        rows = torch.from_numpy(np.resize(self.prepared.rows["train"], count)).to(self.device)
        return self.resident.gather(rows, build.AS_IT_IS).inputs
