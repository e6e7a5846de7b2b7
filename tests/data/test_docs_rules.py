"""docs/data.md names every rule there is, and none that is not."""

import ast
import re
from pathlib import Path

import stockenh

PACKAGE = Path(stockenh.__file__).parent
SOURCES = [*(PACKAGE / "data").rglob("*.py"), PACKAGE / "commands" / "data_check.py"]
DOCS = Path(__file__).parents[2] / "docs" / "data.md"
LEVELS = {"error", "drop", "warning"}
MAKERS = {"Finding", "finding", "NoTableError", "Reason", "RowRule"}


def texts(nodes):
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def of_call(node):
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name not in MAKERS or not node.args or not isinstance(node.args[0], ast.Constant | ast.IfExp):
        return []
    return [text for text in texts(node.args[:2]) if text not in LEVELS][:1]


def rules_in_code():
    found = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.update(of_call(node))
            elif isinstance(node, ast.Tuple):
                words = texts(node.elts[:2])
                if LEVELS & set(words[:1]):
                    found.update(words[1:])
                elif source.name == "series_rules.py" and len(node.elts) == 4:  # rule, bars, message, fix
                    found.update(texts(node.elts[:1]))
    return {text for text in found - LEVELS if re.fullmatch(r"[a-z]+(-[a-z]+)*", text)}


def rules_in_docs():
    section = DOCS.read_text(encoding="utf-8").partition("\n## Rules\n")[2].partition("\n## ")[0]
    return set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", section)) - LEVELS


def test_the_docs_name_the_rules_of_the_code():
    code = rules_in_code()
    assert {"spike", "high-below-low", "symbol-column", "duplicate-row", "stray-quote", "error-text"} <= code
    assert rules_in_docs() == code
