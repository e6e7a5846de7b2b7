"""Opens the files of run, sweep and ablation folders, which may come from somebody else.

A file is opened only where it is a regular file of a bounded size and no link. JSON and YAML become plain
containers of bounded depth, without aliases, and with numbers and texts that any later step can handle. Every
reader of such a folder goes through this module; every writer calls `require_plain_folder` first.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Hashable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar, cast

import psutil
import yaml
from pydantic import TypeAdapter, ValidationError

from stockenh.errors import RunFolderError

if TYPE_CHECKING:
    from torch import Tensor  # only weights need torch

T = TypeVar("T")

MIB: Final = 2**20
MOST_JSON: Final = 16 * MIB
MOST_YAML: Final = MIB // 4  # without libyaml, the parser reads about 100 KB a second
MOST_LINES: Final = 64 * MIB  # of a log or metrics.jsonl
MOST_PARTS: Final = 4_000_000  # values of a file: a container takes 30 times its text in memory
MOST_TEXT_LINES: Final = 500_000
MOST_DEPTH: Final = 24  # of nested containers
MOST_DIGITS_BITS: Final = 63  # of a whole number
MOST_ENTRIES: Final = 200_000  # of a folder, all its subfolders together


def open_file(path: Path, most_bytes: int) -> BinaryIO:
    """Opens a regular file for reading; the caller closes it.

    Raises FileNotFoundError where there is none, RunFolderError where it is a link, a device, a FIFO or
    larger than `most_bytes`, or can't be read.
    """
    # without O_NONBLOCK, opening a FIFO would wait for a writer
    flags = os.O_RDONLY | sum(getattr(os, f"O_{name}", 0) for name in ("NOFOLLOW", "NONBLOCK", "BINARY"))
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from None
    except IsADirectoryError:
        raise RunFolderError(f"{path} is a folder, and should be a file") from None
    except (OSError, ValueError) as error:
        what = "is a link, which is not followed" if path.is_symlink() else f"can't be read: {error}"
        raise RunFolderError(f"{path} {what}") from None
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
        file.close()
        if stat.S_ISREG(status.st_mode):
            raise RunFolderError(
                f"{path} has {status.st_size:,} bytes, more than the {most_bytes:,} allowed here"
            )
        raise RunFolderError(f"{path} is no regular file")
    return file


def is_file(path: Path) -> bool:
    """Whether a regular file is there; a link is none."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(path.lstat().st_mode)
    return False


def most_tensor_bytes() -> int:
    """How large a file of tensors may be here: reading and converting it takes about three times its size."""
    return int(psutil.virtual_memory().available // 3)


def read_bytes(path: Path, most_bytes: int | None = None) -> bytes:
    """The content of a file; None: as much as tensors may have. Raises as `open_file` does."""
    most = most_tensor_bytes() if most_bytes is None else most_bytes
    with open_file(path, most) as file:
        return file.read(most)


def read_lines(path: Path, most_bytes: int = MOST_LINES) -> list[str]:
    """The lines of a text file, empty where there is none; characters that are not UTF-8 are replaced.

    Raises RunFolderError for more lines or values than any run writes.
    """
    try:
        content = read_bytes(path, most_bytes)
    except FileNotFoundError:
        return []
    if content.count(b"\n") > MOST_TEXT_LINES:
        raise RunFolderError(f"{path} has more than {MOST_TEXT_LINES:,} lines")
    try:
        require_few_parts(content)
    except ValueError as error:
        raise RunFolderError(f"{path}: {error}") from None
    return content.decode(errors="replace").split("\n")


def require_few_parts(content: bytes, most: int = MOST_PARTS) -> None:
    """Raises ValueError where a text of JSON or YAML has more values than are read."""
    if sum(map(content.count, (b",", b"[", b"{"))) > most:
        raise ValueError(f"it holds more than {most:,} values")


def read_json(path: Path, kind: type[T]) -> T:
    """A JSON file, its types checked. Raises as `open_file` does, and RunFolderError for its content."""
    try:
        content = read_bytes(path, MOST_JSON)
        require_few_parts(content)
        return typed(kind, parse_json(content), str(path))
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} is not readable JSON: {_reason(error)}") from None


def parse_json(text: bytes | str) -> Any:
    """Plain containers; NaN and infinity, which JSON does not have, are None. Raises ValueError or
    RecursionError."""
    return bounded(json.loads(text, parse_constant=lambda name: None), finite=True)


def read_yaml(path: Path) -> Any:
    """A YAML file as plain containers. Raises as `open_file` does, and RunFolderError for its content."""
    try:
        text = read_bytes(path, MOST_YAML)
        _require_bounded_yaml(text)
        return bounded(yaml.load(text, _Loader))
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise RunFolderError(f"{path} is not readable YAML: {_reason(error)}") from None


def parse_tensors(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError where it is damaged or has numbers of another type
    than runs write, with which torch can hardly compute."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except (SafetensorError, KeyError, RuntimeError, OSError) as error:
        raise ValueError(_reason(error)) from None
    known = {torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool}
    for name, tensor in tensors.items():
        if tensor.dtype not in known:
            raise ValueError(f"{name} is of type {tensor.dtype}")
    return tensors


def typed(kind: type[T], values: object, source: str) -> T:
    """The values, their types and bounds checked. Raises RunFolderError naming the source and the place."""
    try:
        found: T = _adapter(cast(Hashable, kind)).validate_python(values)
        return found
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = " ".join([".".join(map(str, first["loc"])), first["msg"]]).strip()
        raise RunFolderError(f"{source} does not hold what stockenh writes: {place}") from None


def bounded(value: Any, finite: bool = False) -> Any:
    """The value itself, if it has only plain containers of bounded depth and printable scalars.

    finite: whether infinity and NaN are refused too. Raises ValueError with what it has besides.
    """
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [part for container in level for part in _parts(container, finite)]
        if not level:
            return value
    raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")


def _parts(value: Any, finite: bool) -> Iterator[Any]:
    """What a container holds; nothing where it is a scalar. Raises ValueError for anything else."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"a key is no text but {type(key).__name__}")
            key.encode()
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, str):
        value.encode()  # half a surrogate pair can't be printed or written
    elif isinstance(value, int):
        if value.bit_length() > MOST_DIGITS_BITS:
            raise ValueError("a whole number is too large")
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError("a number is not finite")
    elif value is not None:
        raise ValueError(f"a value is of the type {type(value).__name__}")


def require_plain_folder(folder: Path, to_write: bool = False) -> None:
    """Raises RunFolderError where a link leads out of a folder, or something in it is no file or folder.

    to_write: also where a file has another name elsewhere (a hard link), which writing would change.
    """
    inside = os.path.realpath(folder)
    left, pending = MOST_ENTRIES, [inside] if os.path.isdir(inside) else []
    while pending:
        with suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    raise RunFolderError(f"{folder} holds more than {MOST_ENTRIES:,} files")
                if (problem := _problem(entry, inside, to_write)) is not None:
                    name = os.path.relpath(entry.path, inside)
                    raise RunFolderError(f"{folder}: {name} is {problem}; remove it to use the folder")
                if entry.is_dir(follow_symlinks=False) and (entry.name[0] != "." or entry.name == ".hydra"):
                    pending.append(entry.path)


def _problem(entry: os.DirEntry[str], inside: str, to_write: bool) -> str | None:
    """Why an entry can't be in a folder that is used, or None. One that another process removes is none."""
    if not entry.name.isprintable() and entry.name.encode(errors="replace").decode() != entry.name:
        return "no name in UTF-8, which no report can show"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        return None if os.path.commonpath([inside, target]) == inside else "a link out of the folder"
    if entry.is_dir(follow_symlinks=False):
        return None
    with suppress(FileNotFoundError):
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return "no regular file"
        if to_write and status.st_nlink > 1:
            return "a hard link to a file elsewhere"
    return None


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Plain YAML, dates as text."""


_Loader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def _require_bounded_yaml(text: bytes) -> None:
    """Raises ValueError for aliases, which make gigabytes of a few lines, and for deep nesting."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it has an alias, which no run writes")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast(Any, kind))


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    return (str(error).splitlines() or [type(error).__name__])[0]
