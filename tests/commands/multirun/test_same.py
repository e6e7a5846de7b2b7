"""What tells two multiruns from each other."""

from __future__ import annotations

from stockenh.commands.multirun.folder import differences, told


def test_what_differs_is_told_by_its_key_now_and_then() -> None:
    known = {"optimizer.lr": 0.001, "loss": "focal", "gone": 1}
    now = {"optimizer.lr": 0.0001, "loss": "focal", "new": {"low": 1}}
    assert differences(known, now) == [
        "optimizer.lr: 0.0001, was 0.001",
        "gone: nothing, was 1",
        "new: {'low': 1}, was nothing",
    ]
    assert differences(known, known) == []
    assert differences({}, {"new": [1, 2]}, lambda value: f"{len(value)} of them") == [
        "new: 2 of them, was nothing"
    ]


def test_four_differences_are_told_and_the_rest_counted() -> None:
    assert told(["a", "b", "c", "d"]) == "(a; b; c; d)"
    assert told(["a", "b", "c", "d", "e", "f"]) == "(a; b; c; d; and 2 more)"
