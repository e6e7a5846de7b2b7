"""docs/data.md names every rule there is, and none that is not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import stockenh

PACKAGE = Path(stockenh.__file__).parent
SOURCES = [*(PACKAGE / "data").rglob("*.py"), PACKAGE / "commands" / "data_check.py"]
DOCS = Path(__file__).parents[2] / "docs" / "data.md"
LEVELS = {"error", "drop", "warning"}
MAKERS = {"Finding", "finding", "NoTableError", "Reason", "RowRule", "_Warning"}


def texts(nodes: list[ast.expr]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def of_call(node: ast.Call) -> list[str]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    constant = isinstance(node.args[0], ast.Constant | ast.IfExp) if node.args else False
    return (
        [text for text in texts(node.args[:2]) if text not in LEVELS][:1]
        if name in MAKERS and constant
        else []
    )


def rules_in_code() -> set[str]:
    found: set[str] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.update(of_call(node))
            elif (
                isinstance(node, ast.Tuple) and len(words := texts(node.elts[:2])) == 2 and words[0] in LEVELS
            ):
                found.add(words[1])
    return {text for text in found - LEVELS if re.fullmatch(r"[a-z]+(-[a-z]+)*", text)}


def rules_in_docs() -> set[str]:
    section = DOCS.read_text(encoding="utf-8").partition("\n## Rules\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", section)) - LEVELS


def test_the_docs_name_the_rules_of_the_code() -> None:
    code = rules_in_code()
    assert {"spike", "high-below-low", "symbol-column", "duplicate-row", "stray-quote", "error-text"} <= code
    assert rules_in_docs() == code
