"""How many of a CPU's cores a step uses."""

from __future__ import annotations

import torch
from torch import nn

# Below this many parameters a step is a chain of operator calls of some microseconds. A second core gains a
# quarter where the machine is idle, loses half where threads sleep between calls, and is lost to neighbours.
SMALL_MODEL_PARAMETERS = 1_000_000


def default_threads(net: nn.Module) -> int:
    """One thread for a small model, torch's own number for a large one."""
    small = sum(p.numel() for p in net.parameters()) < SMALL_MODEL_PARAMETERS
    return 1 if small else torch.get_num_threads()
