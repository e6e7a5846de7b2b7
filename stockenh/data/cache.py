"""Arrays that are files mapped into memory: their pages come and go with use and crowd out nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stockenh.errors import ConfigError
from stockenh.storage.files import DiskError, expanded, write_atomic

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


Arrays = dict[str, NDArray[np.generic]]

_NAMES = "names.txt"
_PARTS = ".parts"

log = logging.getLogger(__name__)


class DiskCache:
    """Named arrays under `root/kind/key/NAME.npy`, memory-mapped when read back; None caches nothing.

    A cache never fails a run: what can't be read is computed again, what can't be written is only
    computed, which `say` is told once. Entries appear whole or not at all (written beside, then renamed).
    """

    def __init__(self, root: Path | None, say: Callable[[str], None] | None = None) -> None:
        self.root = root
        self._say = say

    def arrays(self, kind: str, key: str, compute: Callable[[], Mapping[str, NDArray[np.generic]]]) -> Arrays:
        """The arrays stored for this key; computed and stored where there are none."""
        if self.root is None:
            return dict(compute())
        folder = self.root / kind / key
        found = _read(folder)
        if found is not None:
            return found
        computed = dict(compute())
        try:
            _write(folder, computed)
        except OSError as error:
            self._tell(f"cache {self.root} can't be written ({error.strerror or error}): going on without it")
            return computed
        return _read(folder) or computed

    def parts(self, kind: str, key: str) -> Parts:
        """Where a long computation of an entry keeps what it has so far."""
        return Parts(self.root / kind / f"{key}{_PARTS}" if self.root else None)

    def scratch(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Room for a large array in the making, which need not all be in memory where there is a cache."""
        return scratch(self.root, shape, dtype)

    def _tell(self, message: str) -> None:
        log.warning(message)
        if self._say is not None:
            self._say(message)
            self._say = None


class Parts:
    """Finished stretches of an array in the making, so that a killed computation goes on where it was."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def read(self) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """(first row, rows) of every stretch that can be read."""
        for file in sorted(self.folder.glob("*.npy")) if self.folder else ():
            try:
                yield int(file.stem), np.load(file, allow_pickle=False)
            except (OSError, ValueError, EOFError) as error:
                log.warning("cache part %s can't be read (%s): computing it again", file, error)

    def write(self, first: int, rows: NDArray[np.generic]) -> None:
        """Keeps a stretch; one that can't be written is only a warning."""
        if self.folder is None:
            return
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        try:
            write_atomic(self.folder / f"{first}.npy", content.getbuffer())
        except DiskError as error:
            log.warning("cache: %s", error)

    def clear(self) -> None:
        """Forgets all stretches: the whole is done."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def default_root() -> Path | None:
    """$STOCKENH_CACHE, else $XDG_CACHE_HOME/stockenh, else ~/.cache/stockenh; None without a home folder."""
    if named := os.environ.get("STOCKENH_CACHE"):
        return expanded(named)
    try:
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "stockenh"
    except ConfigError:
        return None


def key_of(*parts: object) -> str:
    """A cache key from anything whose repr says all of it."""
    return hashlib.blake2b("\0".join(map(repr, parts)).encode(), digest_size=16).hexdigest()


def code_of(package: str) -> str:
    """Hash of the source of a sub-package (`data`), so that an entry computed by other code is not found."""
    h = hashlib.blake2b(digest_size=8)
    for source in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
        h.update(source.read_bytes())
    return h.hexdigest()


def _read(folder: Path) -> Arrays | None:
    try:
        if not folder.is_dir():
            return None
        names = (folder / _NAMES).read_text(encoding="utf-8").split()
        # mode "c": torch wants writable memory; copy-on-write never reaches the file
        return {n: np.load(folder / f"{n}.npy", mmap_mode="c", allow_pickle=False) for n in names}
    except (OSError, ValueError, EOFError) as error:
        log.warning("cache entry %s can't be read (%s): computing it again", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _write(folder: Path, arrays: Arrays) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            with (beside / f"{name}.npy").open("wb") as file:
                write_npy(file, array)
        (beside / _NAMES).write_text("\n".join(arrays), encoding="utf-8")
        try:
            beside.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first: its entry is as good
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
