"""Times a training step on random windows and on whole days, without and with market inputs, in turn.

    python tools/batch_kinds.py [OVERRIDE]...  # such as model=timeformer_xl or data.symbols=300

Prints windows a second on one thread (processor time), and the time of a window over that of a random batch.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from stockenh.commands.measure import Clock
from stockenh.config import build, compose
from stockenh.config.schema import parse, plain
from stockenh.data.fitted import Fitted
from stockenh.models.cpu.memory import keep_freed_memory

BASE = (
    "data=synthetic_panel", "data.symbols=100", "data.bars=500", "target=rank", "embedding=none",
    "device=cpu", "train.precision=fp32",
)  # fmt: skip
KINDS = {
    "random": [],
    "whole days": ["train.batch=date"],
    "random, market inputs": ["data.market=true"],
    "whole days, market inputs": ["train.batch=date", "data.market=true"],
}
CPU = torch.device("cpu")
ROUNDS, STEPS = 15, 4


class Steps:
    """Optimizer steps of a recipe, one after the other."""

    def __init__(self, overrides: list[str]) -> None:
        config = parse(plain(compose.compose([*BASE, *overrides])))
        prepared = build.data(config, CPU)
        fitted = Fitted.fit(prepared.windows, prepared.rows["train"])
        place = build.placement(config, prepared, CPU).place
        ready = place(prepared.windows, prepared.embedding, fitted, CPU, None)
        net = build.model(config, prepared, CPU).train()
        self.batches = build.batches(config, prepared, ready)
        self.learner = build.learner(config, net, fitted, CPU, self.batches.steps)
        self.taken = 0

    def take(self, count: int) -> int:
        """Takes steps; returns how many windows they had."""
        windows = 0
        for _ in range(count):
            group = self.batches.group(*divmod(self.taken, self.batches.steps))
            self.learner.step(group)
            self.taken, windows = self.taken + 1, windows + group.windows
        return windows


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    recipes = {kind: Steps([*sys.argv[1:], *overrides]) for kind, overrides in KINDS.items()}
    clock, seconds = Clock(CPU), {kind: [] for kind in KINDS}
    for steps in recipes.values():
        steps.take(STEPS)
    for _ in range(ROUNDS):
        for kind, steps in recipes.items():
            began = clock.now()
            windows = steps.take(STEPS)
            seconds[kind].append((clock.now() - began) / windows)
    for kind, taken in seconds.items():
        low, middle, high = np.quantile(np.divide(taken, seconds["random"]), (0.25, 0.5, 0.75))
        print(f"{kind:26} {1 / np.median(taken):8,.0f} windows/s  {middle:.3f} ({low:.3f}-{high:.3f})")


if __name__ == "__main__":
    main()
