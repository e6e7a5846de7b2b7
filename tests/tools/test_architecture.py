"""The picture of the architecture is that of the code."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "stockenh"


@pytest.fixture
def architecture(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return importlib.import_module("architecture")


def test_it_names_every_package_and_no_other(architecture):
    names = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} | {"cli", "errors"}
    assert set(architecture.FLOORS) == names
    for text in (architecture.svg(), architecture.PICTURE.read_text(encoding="utf-8")):
        assert [name for name in names if f">{name}</text>" not in text] == []


def test_imports_go_down_only(architecture):
    rows = {name: row for row, name in enumerate(architecture.FLOORS)}
    pairs = architecture.imports()
    assert ("commands", "config") in pairs and ("storage", "errors") in pairs
    assert [(a, b) for a, b in pairs if rows[a] > rows[b]] == []


def test_an_import_that_goes_up_is_refused(architecture, monkeypatch):
    monkeypatch.setattr(architecture, "imports", lambda: {("errors", "cli")})
    with pytest.raises(ValueError, match="errors"):
        architecture.svg()


def test_an_unknown_package_is_refused(architecture, monkeypatch):
    monkeypatch.setattr(architecture, "packages", lambda: {*architecture.FLOORS, "news"})
    with pytest.raises(ValueError, match="news"):
        architecture.svg()


def test_an_arrow_that_others_imply_is_left_out(architecture):
    assert architecture.reduced({("a", "b"), ("b", "c"), ("a", "c"), ("a", "d")}) == {
        ("a", "b"),
        ("b", "c"),
        ("a", "d"),
    }


def test_arrows_in_a_lane_do_not_overlap(architecture):
    found = architecture.lanes([(0, 2), (1, 3), (2, 4), (0, 4)])
    assert found[0, 2] == found[2, 4] != found[1, 3]
    assert found[0, 4] not in (found[0, 2], found[1, 3])
