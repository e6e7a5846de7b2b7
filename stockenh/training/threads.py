"""How many of a CPU's cores a step uses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

# Below this many parameters a step is a chain of operator calls of some microseconds. A second core gains a
# quarter where the machine is idle, loses half where threads sleep between calls, and is lost to neighbours.
SMALL_MODEL_PARAMETERS = 1_000_000

# Taken before any run of this process sets another: all cores, or what OMP_NUM_THREADS says.
ALL_THREADS = torch.get_num_threads()


def default_threads(net: nn.Module) -> int:
    """One thread for a small model, all for a large one."""
    small = sum(p.numel() for p in net.parameters()) < SMALL_MODEL_PARAMETERS
    return 1 if small else ALL_THREADS


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many threads for a while, then those that there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
