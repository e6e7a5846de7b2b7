"""What the C library does with the memory that a training step frees."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Lets glibc keep freed memory for the next step; False where the C library is another.

    As it comes, it hands large blocks back to the system after every step, which must clear each page of
    them again: an eighth of a large model's step in fp32 on a CPU, a third in bf16.
    """
    return _set_thresholds(2**30, 2**31 - 1)


def hand_back_freed_memory() -> bool:
    """The other way again: the thresholds that glibc comes to by itself once large blocks were freed."""
    return _set_thresholds(2**25, 2**26)


def _set_thresholds(mmap: int, trim: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap)) and bool(mallopt(M_TRIM_THRESHOLD, trim))
