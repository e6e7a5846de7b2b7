"""What an experiment changes of the recipe that it builds on."""

from __future__ import annotations

from typing import Any

import pytest

from stockenh.commands.runs.listing import flatten
from stockenh.config.compose import compose
from stockenh.config.schema import plain


def changes(one: str, other: str) -> dict[str, Any]:
    """The values of `other` that `one` does not have."""
    before, after = (flatten(plain(compose([f"experiment={name}"]))) for name in (one, other))
    return {key: value for key, value in after.items() if before.get(key) != value and "." in key}


@pytest.mark.parametrize(
    ("one", "other", "changed"),
    [
        (
            "plain",
            "phase1",
            {
                "train.precision": "auto",
                "loss.smoothing": 0.1,
                "averaging.ema_decay": 0.999,
                "optimizer.lr": "auto",
            },
        ),
        (
            "phase1",
            "phase2",
            {
                "train.accumulate": 4,
                "loss.gamma": 2.0,
                "averaging.swa_start": 0.75,
                "augment.price": 0.002,
                "augment.volume": 0.05,
            },
        ),
    ],
)
def test_an_experiment_adds_its_techniques_and_nothing_else(one, other, changed):
    assert changes(one, other) == changed


def test_a_choice_on_the_command_line_wins_over_the_experiment():
    config = plain(compose(["experiment=phase2", "loss=huber_bce", "averaging=none", "train.accumulate=1"]))
    assert config["loss"]["gamma"] == config["loss"]["smoothing"] == 0.0
    assert config["averaging"]["ema_decay"] is None and config["train"]["accumulate"] == 1
