"""The disk cache: arrays that cost time to compute, found again by the hash of what they came from."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from stockenh.data.mapped import scratch, write_npy
from stockenh.errors import ConfigError
from stockenh.files import DiskError, expanded, write_atomic

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
    for source in sorted((Path(__file__).parents[1] / package).glob("*.py")):
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
