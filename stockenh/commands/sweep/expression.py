"""Conditions and derived values of a search space: arithmetic and comparisons, and nothing that could act.

A search space may come from a stranger, so its expressions are read as a syntax tree of a few kinds of node
and never handed to Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stockenh.errors import ConfigError

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_UNARY: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.Not: operator.not_}
_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "round": round, "int": int}


class Expression:
    """`model.d_model // head_width`, `loss == 'focal' and train.batch_size > 64`.

    Raises ConfigError where the text is anything but names, numbers, words, lists, + - * / // %,
    comparisons, and, or, not, min, max, round and int.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(
                f"'{text}' is no expression of a search space: names, numbers, + - * / // %, comparisons, "
                f"and, or, not, min, max, round, int"
            ) from None

    def __str__(self) -> str:
        return self.text

    def value(self, of: Mapping[str, Any]) -> Any:
        """The expression's value where the names have these values. Raises ConfigError."""
        try:
            return _value(self._tree, of)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ConfigError(f"'{self.text}': {error}") from None


def _names(node: ast.expr) -> Iterator[str]:
    """The dotted names of an expression. Raises ValueError at a node of another kind."""
    if (name := _dotted(node)) is not None:
        yield name
        return
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None):
            inner: list[ast.expr] = []
        case ast.BinOp(op=op) if type(op) in _BINARY:
            inner = [node.left, node.right]
        case ast.UnaryOp(op=op) if type(op) in _UNARY:
            inner = [node.operand]
        case ast.BoolOp():
            inner = node.values
        case ast.Compare(ops=ops) if all(type(op) in _COMPARE for op in ops):
            inner = [node.left, *node.comparators]
        case ast.List() | ast.Tuple():
            inner = node.elts
        case ast.Call(func=ast.Name(id=name), keywords=[]) if name in _CALLS:
            inner = node.args
        case _:
            raise ValueError
    for part in inner:
        yield from _names(part)


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)) is not None:
        return f"{before}.{node.attr}"
    return None


def _value(node: ast.expr, of: Mapping[str, Any]) -> Any:
    if (name := _dotted(node)) is not None:
        return of[name]
    match node:
        case ast.Constant():
            return node.value
        case ast.BinOp():
            return _BINARY[type(node.op)](_value(node.left, of), _value(node.right, of))
        case ast.UnaryOp():
            return _UNARY[type(node.op)](_value(node.operand, of))
        case ast.BoolOp():
            found = (_value(part, of) for part in node.values)
            return all(found) if isinstance(node.op, ast.And) else any(found)
        case ast.Compare():
            sides = [_value(side, of) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return all(_COMPARE[type(op)](left, right) for op, left, right in pairs)
        case ast.List() | ast.Tuple():
            return [_value(part, of) for part in node.elts]
        case ast.Call(func=ast.Name(id=called)):
            return _CALLS[called](*(_value(part, of) for part in node.args))
    raise ValueError(f"{ast.unparse(node)} can't be evaluated")
