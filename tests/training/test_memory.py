"""A step finds the memory that the last one freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

STEPS = """
import resource, sys, torch
from stockenh.training.memory import hand_back_freed_memory, keep_freed_memory
kept = keep_freed_memory() if "keep" in sys.argv[1] else False
if sys.argv[1] == "keep, then hand back":
    hand_back_freed_memory()
def step():
    [torch.ones(10_000_000) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [step() for _ in range(6)][-1]  # the heap has grown to what a step needs
print(int(kept), step() - before)
"""


def faults(mode: str) -> tuple[int, int]:
    """Whether the setting was taken, and the page faults of a late step of 120 MB."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True, timeout=60
    )
    kept, count = map(int, done.stdout.split())
    return kept, count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_kept_memory_is_not_cleared_again():
    kept, count = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert count < 1000 < faults("as it comes")[1]  # 120 MB are 29,297 pages
    assert faults("keep, then hand back")[1] > 1000
