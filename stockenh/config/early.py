"""Settings checked by the source of their dataclass, which is read but not imported.

The classes of models, losses and optimizers lie beside networks. Importing one imports torch, which takes
seconds; a wrong value is answered before that. What a class checks itself (`__post_init__`) is left to the
class, and so is a field whose type this file can't tell.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

import stockenh.data

_PACKAGE = Path(__file__).parents[1]
_KNOWN = {**vars(typing), **vars(pydantic), **vars(stockenh.data)}


@cache
def skeleton(module: str, name: str) -> type | None:
    """A dataclass with the fields of `module.name` and of its bases in this package, all with a default.

    None where the package has no source of such a class.
    """
    found = dict(_fields(module, name))
    if not found:
        return None
    fields = [(key, kind, dataclasses.field(default=None)) for key, kind in found.items()]
    return dataclasses.make_dataclass(name, fields, frozen=True)


def _fields(module: str, name: str) -> Iterator[tuple[str, Any]]:
    """The fields of a dataclass and their types, those of its bases first."""
    tree = _source(module)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None:
        return
    imported = {
        alias.asname or alias.name: (n.module, alias.name)
        for n in tree.body
        if isinstance(n, ast.ImportFrom) and n.module is not None
        for alias in n.names
    }
    for base in node.bases:
        if isinstance(base, ast.Name):
            yield from _fields(*imported.get(base.id, (module, base.id)))
    is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
    for line in node.body if is_dataclass else ():
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = ast.unparse(line.annotation)
            has_no_key = line.value is not None and "init=False" in ast.unparse(line.value)
            if not kind.startswith("ClassVar") and not has_no_key:
                yield line.target.id, _type(kind)


def _type(annotation: str) -> Any:
    """The type that an annotation of this package's own source names; any where a name of it is unknown."""
    try:
        return eval(annotation, dict(_KNOWN))  # of installed code, as its import would
    except (NameError, TypeError, AttributeError):
        return Any


@cache
def _source(module: str) -> ast.Module:
    """A module of this package; empty where it has none of that name."""
    first, *inner = module.split(".")
    base = _PACKAGE.joinpath(*inner)
    for file in (base.with_suffix(".py"), base / "__init__.py"):
        if first == _PACKAGE.name and file.is_file():
            return ast.parse(file.read_text(encoding="utf-8"))
    return ast.Module([], [])
