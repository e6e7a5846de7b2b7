"""What the C library does with the memory that a training step frees."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
HUGE_BYTES = 2**29  # of the heap are asked for in huge pages: more than a step of timeformer_xl takes

# The part of this process's heap that was asked for so, once it was.
_huge: list[tuple[ctypes.c_void_p, ctypes.c_size_t]] = []


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step, in huge pages; False where the C library is another.

    As it comes, it hands large blocks back to the system after every step, which must clear each page of
    them again: an eighth of a large model's step in fp32 on a CPU, a third in bf16. Huge pages spare it
    looking up the address of every 4 KiB that a step reads: another 5 to 8% in bf16.
    """
    kept = _set_thresholds(2**30, 2**31 - 1)
    if kept and not _huge:
        _ask_for_huge_pages(HUGE_BYTES)
    return kept


def hand_back_freed_memory() -> bool:
    """The other way again: the thresholds that glibc comes to by itself once large blocks were freed."""
    if _huge:
        libc = ctypes.CDLL(None)
        libc.madvise(*_huge.pop(), mmap.MADV_NOHUGEPAGE)
        libc.malloc_trim(0)
    return _set_thresholds(2**25, 2**26)


def _set_thresholds(mmap: int, trim: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap)) and bool(mallopt(M_TRIM_THRESHOLD, trim))


def _ask_for_huge_pages(size: int) -> None:
    """Of the next `size` bytes that the heap gives, as far as the kernel has them (madvise(2)).

    The block is freed untouched: no memory is taken, and the heap gives it out again from its start.
    """
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = libc.malloc(ctypes.c_size_t(size))
    if block is None:
        return
    start = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (block + size - start) // mmap.PAGESIZE * mmap.PAGESIZE
    _huge.append((ctypes.c_void_p(start), ctypes.c_size_t(length)))
    libc.madvise(*_huge[0], mmap.MADV_HUGEPAGE)
    libc.free(ctypes.c_void_p(block))


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
