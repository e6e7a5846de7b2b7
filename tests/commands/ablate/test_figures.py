"""Measures of an ablation's runs, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stockenh.commands.ablate.claims import Claim
from stockenh.commands.ablate.plan import Plan, Recipe, Row
from stockenh.commands.ablate.results import Found, SeedFigures, epochs_to_plain, lines_of, roughness, values
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain

PLAIN, EMA, TTA = Row("plain", "plain", "plain"), Row("ema", "EMA", "ema"), Row("tta", "TTA", "plain", True)


def scores(accuracy: float, ece: float = 0.1) -> dict:
    return {"h5": {"accuracy": accuracy, "ece": ece, "gap_closed": None, "majority": 0.5}}


FOUND = Found(
    runs={
        ("plain", 1): SeedFigures(scores(0.60), scores(0.61), (0.7, 0.6, 0.65), (0.7, 0.6, 0.65)),
        ("plain", 2): SeedFigures(scores(0.62), scores(0.61), (0.7, 0.5, 0.65), (0.7, 0.5, 0.65)),
        ("ema", 2): SeedFigures(scores(0.65, 0.08), None, (0.5, 0.4, 0.4), (0.7, 0.65, 0.6)),
        ("ema", 3): SeedFigures(scores(0.99)),
    },
    cost={
        "train_speed": {"plain": [1.0, 1.0, 1.0], "ema": [0.5, 1.0, 0.8]},
        "inference_speed": {"plain": [1.0], "tta": [0.2]},
        "memory": {"plain": 200, "ema": 300},
        "weights_bytes": {"plain": 100, "ema": None},
    },
    failed={},
)


@pytest.mark.parametrize(
    ("measure", "row", "expected"),
    [
        ("accuracy", EMA, [3.0]),  # only seed 2 has both
        ("accuracy", TTA, [1.0, -1.0]),
        ("accuracy", PLAIN, [0.0, 0.0]),
        ("accuracy_kept", EMA, [0.65 / 0.62]),
        ("ece", EMA, [-0.02]),
        ("gap_closed", EMA, []),
        ("train_speed", EMA, [0.5, 1.0, 0.8]),
        ("inference_speed", TTA, [0.2]),
        ("memory", EMA, [1.5]),
        ("weights_bytes", EMA, []),
        ("convergence", EMA, [2.0]),  # plain is best at epoch 2, and EMA as low at epoch 1
        ("time_to_plain", EMA, [0.5 / 0.8]),  # half the epochs at 0.8 of the speed
        ("roughness", EMA, [0.05 / 0.175]),
    ],
)
def test_a_measure(measure, row, expected):
    assert values(measure, row, FOUND, "h5") == pytest.approx(expected)


def test_the_loss_of_the_plain_recipe_may_never_be_reached():
    assert epochs_to_plain([0.7, 0.5, 0.6], [0.9, 0.8]) == (2, 3)
    assert epochs_to_plain([0.7, 0.5, 0.6], [0.9, 0.5]) == (2, 2)


def test_roughness_is_the_mean_change():
    assert roughness([1.0, 0.5, 0.75]) == pytest.approx(0.375)
    assert roughness([1.0]) is None


def test_a_verdict_says_where_validation_never_kept_the_average():
    config = parse(plain(compose(["ablate=quick"], "ablate")))
    claim = {"accuracy": Claim("accuracy", 1.0, 3.0, "+1 to 3")}
    plan = Plan((Recipe("plain"), Recipe("ema")), (replace(EMA, claims=claim),), (2,))
    kept = {key: replace(run, weights="raw", epochs=6) for key, run in FOUND.runs.items()}
    for weights, said in (("raw", True), ("ema", False)):
        runs = kept | {("ema", 2): replace(kept["ema", 2], weights=weights)}
        configs = {"ema": {"averaging": {"ema_decay": 0.9, "swa_start": None}}}
        (line,) = lines_of(plan, replace(FOUND, runs=runs), config, configs, 5)
        assert ("validation never kept the average" in line.claims[0].verdict.why) == said
        assert line.compute == 1.0 and line.chosen["ema"] == (not said)
