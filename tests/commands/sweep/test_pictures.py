"""Pictures of searches that have few trials, one epoch, or no complete trial."""

from __future__ import annotations

import matplotlib
import optuna
import pytest
from matplotlib import pyplot
from optuna.trial import TrialState

from stockenh.commands.sweep.figures import draw, undrawn

ALL = ["history", "intermediate", "parallel", "importance"]
COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def study(states: list[TrialState], epochs: int, values: list[float], direction: str) -> optuna.Study:
    """Trials with a parameter that half of them lack, and after them one that runs and one that waits."""
    made = optuna.create_study(direction=direction, sampler=optuna.samplers.RandomSampler(seed=1))
    for number, state in enumerate(states):
        trial, value = made.ask(), values[number % len(values)]
        trial.suggest_float("optimizer.learning_rate_of_a_long_name", 1e-5, 1e-2, log=True)
        if number % 2:
            trial.suggest_categorical("model.conv_dilations", ["[1]", "[1, 2]"])
        for epoch in range(1, epochs + 1):
            trial.report(value / epoch, epoch)
        made.tell(trial, value if state == COMPLETE else None, state=state)
    made.enqueue_trial({})
    made.ask()
    made.enqueue_trial({})
    return made


def style() -> dict[str, object]:
    """How everything would be drawn that is drawn next."""
    return {key: value for key, value in matplotlib.rcParams.items() if not key.startswith("backend")}


@pytest.mark.parametrize(
    ("states", "epochs", "values", "drawn"),
    [
        ([FAIL], 0, [0.5], []),
        ([PRUNED, FAIL], 2, [0.5], ["intermediate"]),
        ([COMPLETE], 1, [0.5], ["history"]),
        ([COMPLETE, FAIL, COMPLETE], 2, [0.5], ["history", "intermediate", "parallel"]),
        ([COMPLETE] * 5, 1, [0.5], ["history", "parallel"]),
        ([COMPLETE, PRUNED] * 6, 3, [0.5, 0.6, 0.4, 50.0], ["history", "intermediate", "parallel"]),
        ([COMPLETE] * 20, 1, [0.5], ["history", "parallel"]),
        ([COMPLETE, PRUNED] * 20, 3, [0.5, 0.6, 0.4, 50.0], ALL),
    ],
)  # fmt: skip
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pictures_that_the_trials_allow_are_drawn(
    states, epochs, values, drawn, direction, tmp_path, pictures
):
    before = style()
    made = study(states, epochs, values, direction)
    paths = draw(made, "val_loss", tmp_path / "report")
    assert [path.stem for path in paths] == drawn
    assert undrawn(made).keys() == {"intermediate", "importance"} - set(drawn)
    assert all(path.stat().st_size > 5_000 for path in paths)
    assert pyplot.get_fignums() == []
    assert style() == before
