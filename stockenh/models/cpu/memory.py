"""Memory and threads of a training step on a CPU."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
HUGE_BYTES = 2**29  # of the heap in huge pages: more than a step of timeformer_xl uses

# The part of this process's heap that is in huge pages, once there is one.
_huge: list[tuple[ctypes.c_void_p, ctypes.c_size_t]] = []


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step, in huge pages; False with another C library.

    By default glibc returns large blocks to the system after every step, which must clear each page of
    them again: an eighth of a large model's step in fp32, a third in bf16. Huge pages save looking up the
    address of every 4 KiB that a step reads: another 5 to 8% in bf16.
    """
    kept = _set_thresholds(2**30, 2**31 - 1)
    if kept and not _huge:
        _request_huge_pages(HUGE_BYTES)
    return kept


def hand_back_freed_memory() -> bool:
    """Undoes `keep_freed_memory`: sets the thresholds that glibc reaches after freeing large blocks."""
    if _huge:
        libc = ctypes.CDLL(None)
        libc.madvise(*_huge.pop(), mmap.MADV_NOHUGEPAGE)
        libc.malloc_trim(0)
    return _set_thresholds(2**25, 2**26)


def _set_thresholds(mmap_bytes: int, trim_bytes: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap_bytes)) and bool(mallopt(M_TRIM_THRESHOLD, trim_bytes))


def _request_huge_pages(size: int) -> None:
    """Requests huge pages for the next `size` bytes of the heap (madvise(2)); the kernel may have fewer.

    The block is freed untouched: no memory is used yet, and the heap gives it out again from its start.
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
# quarter on an idle machine, but loses half where threads sleep between calls or other processes are busy.
SMALL_MODEL_PARAMETERS = 1_000_000

# Read before any run of this process sets another number: all cores, or OMP_NUM_THREADS.
ALL_THREADS = torch.get_num_threads()


def default_threads(net: nn.Module) -> int:
    """One thread for a small model, all for a large one."""
    small = sum(p.numel() for p in net.parameters()) < SMALL_MODEL_PARAMETERS
    return 1 if small else ALL_THREADS


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Uses so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
