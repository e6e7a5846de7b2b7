"""The result table: 80 columns, with the limit where it is known."""

from __future__ import annotations

import io

from rich.console import Console

from stockenh.terminal import result_table

SCORES = {
    "n": 39120, "ties": 0, "tie_share": 0.0, "accuracy": 0.774, "accuracy_low": 0.763, "accuracy_high": 0.785,
    "majority": 0.519, "log_loss": 0.5045, "brier": 0.164, "auc": 0.832, "mae": 0.0257,
}  # fmt: skip
LIMITS = {"limit_accuracy": 0.8021, "limit_log_loss": 0.44, "gap_closed": 0.9007}


def shown(*scores: dict) -> list[str]:
    """The table's lines on a terminal of 80 columns."""
    out = io.StringIO()
    parts = {part: {"h10": scores[i]} for i, part in enumerate(("train", "val")[: len(scores)])}
    Console(file=out, width=80).print(result_table(parts, "a run"))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_without_a_limit_nothing_is_said_of_one():
    title, head, _, row, *rest = shown(SCORES)
    assert title == "a run"
    assert head.split("  ")[0] == "part" and "Brier" in head and "ties" in head
    assert row.split() == [
        "train", "10", "39120", "0.0%", "77.4%", "76.3-78.5", "51.9%", "0.5045", "0.164", "0.832", "0.0257",
    ]  # fmt: skip
    assert "limit" not in " ".join([head, *rest])


def test_the_limit_and_the_share_of_the_gap_stand_beside_the_score():
    _, head, _, row, *rest = shown({**SCORES, **LIMITS})
    assert head.replace("log loss", "loss").split() == [
        "part", "bars", "n", "accuracy", "95%", "majority", "limit", "closed", "loss", "AUC", "MAE",
    ]  # fmt: skip
    assert row.split() == [
        "train", "10", "39120", "77.4%", "76.3-78.5", "51.9%", "80.2%", "90%", "0.5045", "0.832", "0.0257",
    ]  # fmt: skip
    assert max(map(len, [head, row])) <= 80
    assert "closed: share of the way from majority to limit" in " ".join(line.strip() for line in rest)


def test_a_gap_that_is_undefined_is_not_available():
    row = shown({**SCORES, **LIMITS, "gap_closed": None})[3]
    assert "n/a" in row
