"""What an audit shows: the verdict names the leaks, and no text breaks a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from stockenh.commands.audit.show import audit_chart, audit_table, markdown, verdict
from stockenh.evaluation.leakage import Check, first_few, leaks

pytestmark = pytest.mark.usefixtures("pictures")

CHECKS = [
    Check("later bars", "FAIL", "rsi_14 [red] | moved " * 6, "find the shift"),
    Check("split", "pass", "in date order"),
    Check("random split", "info", "52% and 77%"),
    Check("calibration", "n/a", "nothing held out"),
]
SCORES = {"n": 1888, "accuracy": 0.5, "accuracy_low": None, "accuracy_high": None, "majority": 0.534}
FOUND = {"weights": "ema", "run": "/there/a run", "leaks": ["later bars"], "correlation_limits": {"h3": 0.3},
         "correlations": {"a$b": {"h3": {"spearman": -0.4, "auc": 0.5}}},
         "splits": {"gradient boosting": {"h3": {"purged": SCORES}}}}  # fmt: skip


def test_the_verdict_names_the_leaks_or_counts_the_checks_that_could_have_found_one():
    assert leaks(CHECKS) == ["later bars"]
    assert verdict(CHECKS) == "1 check found a leak: later bars"
    assert verdict(CHECKS[1:]) == "no leak found by 1 check"
    assert first_few("abcdef") == "a, b, c, d and 2 more" and first_few("ab") == "a, b"


def test_the_report_keeps_its_columns_whatever_a_check_says():
    lines = markdown(CHECKS, FOUND).splitlines()
    rows = [line.replace("\\|", "") for line in lines if line.startswith("| ")]
    assert {row.count("|") for row in rows[:5]} == {5} and {row.count("|") for row in rows[5:]} == {8}
    assert "| gradient boosting | 3 | purged | 1,888 | 50.0% | n/a | 53.4% |" in lines
    assert "**1 check found a leak: later bars.**" in lines


def test_the_table_shows_markup_as_it_stands_and_fits_a_narrow_terminal():
    out = Console(width=60, record=True, file=None)
    with out.capture() as captured:
        out.print(audit_table(CHECKS))
    text = captured.get()
    assert "[red]" in text and max(map(len, text.splitlines())) <= 60 and "find the shift" in text


def test_the_picture_shows_a_run_with_one_horizon(tmp_path: Path):
    assert audit_chart(FOUND, tmp_path / "audit.png").stat().st_size > 10_000
