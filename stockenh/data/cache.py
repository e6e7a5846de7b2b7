"""The disk cache: arrays in files that are mapped into memory, so they crowd out nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stockenh.errors import ConfigError
from stockenh.storage.files import (
    LOCK,
    DiskError,
    expanded,
    is_locked,
    remove_parts,
    temporary_folder,
    write_atomic,
)

LARGE = 2**28  # bytes from which a scratch array goes into a file
PORTION = 2**24  # bytes that are written at a time


def release_pages(array: NDArray[Any]) -> None:
    """Releases the memory pages of a mapped array; the file keeps their content.

    Changes in a copy-on-write mapping, as which the cache opens its files, would be lost.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap):
        base.madvise(mmap.MADV_DONTNEED)


def write_npy(file: BinaryIO, array: NDArray[Any]) -> None:
    """`numpy.save` in portions; the pages of a mapped array are released after each."""
    descr = np.lib.format.dtype_to_descr(array.dtype)
    header = {"descr": descr, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    rows = array if array.ndim else array[None]
    portion = max(1, PORTION // max(1, rows[:1].nbytes))
    for begin in range(0, len(rows), portion):
        file.write(np.ascontiguousarray(rows[begin : begin + portion]).data)
        release_pages(array)


Arrays = dict[str, NDArray[np.generic]]

_NAMES = "names.txt"
# The ends of the names of folders with parts of an entry, and the beginnings of those of a download's.
PARTS = ".parts"
DAY_SECONDS = 86_400.0  # after which a download does not continue from its parts
KEPT_SECONDS = 7 * DAY_SECONDS  # for a killed computation to continue from its parts

log = logging.getLogger(__name__)


class DiskCache:
    """Named arrays under `root/kind/key/NAME.npy`, memory-mapped when read back; root None caches nothing.

    A cache never fails a run: entries that can't be read are computed again, and `say` gets one line when
    entries can't be written. Entries are atomic (written under a temporary name, then renamed).
    """

    def __init__(self, root: Path | None, say: Callable[[str], None] | None = None) -> None:
        self.root = root
        self._say = say

    def arrays(self, kind: str, key: str, compute: Callable[[], Mapping[str, NDArray[np.generic]]]) -> Arrays:
        """The arrays stored for this key; computed and stored if there are none."""
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
            self._warn(
                f"cache {self.root} can't be written ({error.strerror or error}): continuing without it"
            )
            return computed
        return _read(folder) or computed

    def parts(self, kind: str, key: str) -> Parts:
        """The finished parts of an entry whose computation takes long."""
        return Parts(self.root / kind / f"{key}{PARTS}" if self.root else None)

    def clean(self) -> None:
        """Removes what killed processes left half-written, and finished parts that nothing has continued.

        What living processes are writing stays.
        """
        if self.root is None:
            return
        for kind in _folders(self.root):
            remove_parts(kind)
            for folder in _folders(kind):
                remove_parts(folder)
                if folder.name.endswith(PARTS) and _age(folder) > KEPT_SECONDS:
                    shutil.rmtree(folder, ignore_errors=True)
                for download in folder.glob(f"{PARTS}-*"):
                    remove_parts(download)
                    if _age(download) > DAY_SECONDS and not is_locked(folder / LOCK):
                        shutil.rmtree(download, ignore_errors=True)

    def scratch(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised array: in memory, or if it is large in an unnamed file beside the entries.

        The file is allocated in full and vanishes with the array. Without a root, or with too little space in
        it, the array is in memory.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if self.root is None or size < LARGE:
            return np.empty(shape, dtype)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # else a full disk would kill the process later
                return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
        except OSError:
            return np.empty(shape, dtype)

    def note(self, message: str) -> None:
        """Says that something begins that takes a while."""
        if self._say is not None:
            self._say(message)

    def _warn(self, message: str) -> None:
        log.warning(message)
        if self._say is not None:
            self._say(message)
            self._say = None


class Parts:
    """Finished stretches of an array, from which a killed computation continues."""

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
        """Stores a stretch; a failure is only a warning."""
        if self.folder is None:
            return
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        try:
            write_atomic(self.folder / f"{first}.npy", content.getbuffer())
        except DiskError as error:
            log.warning("cache: %s", error)

    def clear(self) -> None:
        """Removes all stretches once the whole is done."""
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
    """A cache key from values whose repr is complete."""
    return hashlib.blake2b("\0".join(map(repr, parts)).encode(), digest_size=16).hexdigest()


def code_of(package: str) -> str:
    """Hash of the source of a sub-package (`data`): entries computed by other code are not found."""
    h = hashlib.blake2b(digest_size=8)
    for source in sorted((Path(__file__).parents[1] / package).rglob("*.py")):
        h.update(source.read_bytes())
    return h.hexdigest()


def _folders(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:
        return []


def _age(folder: Path) -> float:
    """Seconds since a file was last made in a folder."""
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


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
    with temporary_folder(folder.parent) as temporary:
        for name, array in arrays.items():
            with (temporary / f"{name}.npy").open("wb") as file:
                write_npy(file, array)
        (temporary / _NAMES).write_text("\n".join(arrays), encoding="utf-8")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first, and its entry is as good
                raise
