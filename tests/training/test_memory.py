"""A step finds the memory that the last one freed."""

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import resource, sys, torch
from stockenh.models.cpu.memory import hand_back_freed_memory, keep_freed_memory
kept = keep_freed_memory() if "keep" in sys.argv[1] else False
if sys.argv[1] == "keep, then hand back":
    hand_back_freed_memory()
def step():
    [torch.ones(10_000_000) for _ in range(3)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = [step() for _ in range(6)][-1]  # the heap has grown to what a step needs
print(int(kept), step() - before)
"""


def faults(mode):
    """Whether the setting was taken, and the page faults of a late step of 120 MB."""
    done = subprocess.run([sys.executable, "-c", STEPS, mode], capture_output=True, text=True, check=True)
    kept, count = map(int, done.stdout.split())
    return kept, count


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_kept_memory_is_not_cleared_again():
    kept, count = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    assert count < 1000 < faults("as it comes")[1]  # 120 MB are 29,297 pages
    assert faults("keep, then hand back")[1] > 1000


HUGE = """
import torch
from stockenh.models.cpu.memory import keep_freed_memory
def mib(of):
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(of)) // 1024
before = mib("AnonHugePages:"), mib("Rss:")
keep_freed_memory()
empty = mib("Rss:") - before[1]
blocks = [torch.ones(256, 1024) for _ in range(200)]  # a MiB each, as activations are
print(mib("AnonHugePages:") - before[0], empty)
"""
SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not SETTING.exists() or "[never]" in SETTING.read_text(), reason="the kernel gives no huge pages"
)
def test_the_memory_of_a_step_lies_in_huge_pages_and_none_is_taken_before_it_is_needed():
    done = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)
    huge, empty = map(int, done.stdout.split())
    assert huge > 100  # of 200 MiB
    assert empty < 10  # though half a GiB was asked for
