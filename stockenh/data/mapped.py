"""Arrays that are files mapped into memory: their pages come and go with use and crowd out nothing."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Bytes from which an array is worth a file: less is no burden to any machine that trains.
LARGE = 2**28

# Bytes that are written at a time.
PORTION = 2**24


def scratch(folder: Path | None, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Room for an array: memory, or where it is large an unnamed file in `folder`, gone with the array.

    The file's whole extent is allocated at once. Where there is no folder or no room in it, memory it is.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if folder is None or size < LARGE:
        return np.empty(shape, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would end the process
            return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
    except OSError:
        return np.empty(shape, dtype)


def give_back(array: NDArray[Any]) -> None:
    """Lets the pages of a mapped array leave this process; the file keeps their content.

    Nothing may have been written into a copy-on-write mapping, as which the cache opens its files.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def write_npy(file: BinaryIO, array: NDArray[Any]) -> None:
    """`numpy.save` in portions, after each of which the pages of a mapped array are given back."""
    descr = np.lib.format.dtype_to_descr(array.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    rows = array if array.ndim else array[None]
    portion = max(1, PORTION // max(1, rows[:1].nbytes))
    for begin in range(0, len(rows), portion):
        file.write(np.ascontiguousarray(rows[begin : begin + portion]).data)
        give_back(array)
