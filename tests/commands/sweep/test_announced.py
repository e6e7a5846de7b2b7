"""What a search says before its first trial: its cost, and what of the given values it does not follow."""

from types import SimpleNamespace

import optuna
import pytest
from omegaconf import OmegaConf

from stockenh.commands.sweep.search import cost_line, overridden
from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.spec import SweepConfig

PARAMS = {
    "model.d_model": {"type": "categorical", "choices": [8, 16]},
    "model.layers": {"type": "int", "low": 1, "high": 4},
}


def spec(*arguments, trials=10, workers=1):
    fixed = {argument.partition("=")[0] for argument in arguments}
    return SimpleNamespace(
        arguments=list(arguments), choices={"model": "student", "loss": "focal"},
        raw={"train": {"epochs": 3}},
        space=Space.of({name: node for name, node in PARAMS.items() if name not in fixed}),
        settings=SweepConfig(n_trials=trials, n_workers=workers, max_hours=2.0),
        config=OmegaConf.create({"sweep": {"params": PARAMS}}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), []),
        (("model=student",), ["replaces values of model=student: model.d_model, model.layers"]),
        (("model.layers=2",), ["does not search what is given: model.layers=2"]),
        (("loss=focal", "train.epochs=3"), []),
    ],
)
def test_the_values_that_a_space_replaces_or_leaves_out_are_named(arguments, expected):
    assert [text for _, text in overridden(spec(*arguments))] == expected


@pytest.mark.parametrize(
    ("trials", "seconds", "workers", "expected"),
    [
        (10, [], 1, "10 trials of at most 3 epochs, 30 in all; the first trial shows"),
        (10, [(30.0, 3), (20.0, 2)], 1, "8 trials of at most 3 epochs, 24 in all, about 4 min"),
        (10, [(30.0, 3), (20.0, 2)], 2, "about 2 min"),
        (1, [], 1, "1 trial of at most 3 epochs"),
    ],
)
def test_the_cost_is_trials_epochs_and_time(trials, seconds, workers, expected):
    study = optuna.create_study()
    for taken, epochs in seconds:
        trial = study.ask()
        trial.set_user_attr("seconds", taken)
        trial.set_user_attr("epochs", epochs)
        study.tell(trial, 0.5)
    shared = SimpleNamespace(trials=study.get_trials, count_ended=lambda: len(study.trials))
    label, text = cost_line(spec(trials=trials, workers=workers), shared)
    assert label == "cost" and expected in text and "sweep.max_hours=2 ends it earlier" in text
