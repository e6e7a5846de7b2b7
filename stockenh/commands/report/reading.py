"""How a page reads the files of a folder that may be somebody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stockenh.errors import RunFolderError
from stockenh.storage.untrusted import is_file, read_json


@contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Within, content of an unexpected shape raises RunFolderError. path: of what is read."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise RunFolderError(f"{path} holds a file that is not what stockenh writes: {error}") from None


def optional(path: Path) -> dict[str, Any]:
    """A JSON file's content; empty where there is none. Raises RunFolderError where it is another kind."""
    if not is_file(path):
        return {}
    found: dict[str, Any] = read_json(path, dict[str, Any])
    return found
