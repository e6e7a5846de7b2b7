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
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**30)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
