"""What a search says of the luck of its best trial, and which trials count."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from stockenh.commands.sweep.luck import luck_of_best
from stockenh.commands.sweep.spec import SweepFolder

DAYS = [86_400 * day for day in range(60)]


@pytest.fixture
def search(tmp_path):
    """A search with these trials, by their state; each complete one leaves returns of noise."""

    def of(*states: TrialState):
        study = optuna.create_study()
        for number, state in enumerate(states):
            study.add_trial(create_trial(state=state, value=1.0 if state == TrialState.COMPLETE else None))
            run = tmp_path / str(number)
            run.mkdir()
            (run / "config.yaml").write_text("seed: 1\n")
            returns = np.random.default_rng(number).normal(0, 0.01, len(DAYS)).tolist()
            write(run, {"horizon": 10, "days": DAYS, "returns": returns})
        return SimpleNamespace(folder=SweepFolder(tmp_path)), study.trials

    return of


def write(run, daily):
    (run / "daily.json").write_text(json.dumps(daily))


COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL


def test_complete_trials_count_and_pruned_and_failed_ones_do_not(search):
    spec, trials = search(COMPLETE, PRUNED, COMPLETE, FAIL, COMPLETE, PRUNED)
    line = luck_of_best(spec, trials, trials[2])
    assert "trial 2 has a deflated Sharpe ratio of 0." in line and "on 60 days" in line
    assert "the best of 3 trials" in line and "probability of backtest overfitting" in line
    assert "3 of 3 complete trials counted, 2 pruned and 1 failed left out" in line


@pytest.mark.parametrize(
    "change",
    [
        lambda run: (run / "daily.json").unlink(),
        lambda run: write(run, {"horizon": 10, "days": DAYS[1:], "returns": [0.1] * 59}),  # of other days
        lambda run: write(run, {"horizon": 10, "days": DAYS, "returns": [0.1]}),
        lambda run: write(run, {"horizon": 10, "days": DAYS, "returns": [math.nan] * 60}),
        lambda run: write(run, {"horizon": 10, "days": DAYS, "returns": [1e300] * 60}),
        lambda run: write(run, {"horizon": 10, "days": "all", "returns": ["x"]}),
        lambda run: (run / "daily.json").write_text("no json"),
        lambda run: (run / "config.yaml").unlink(),
    ],
)
def test_a_trial_whose_returns_can_not_be_compared_does_not_count(search, tmp_path, change):
    spec, trials = search(COMPLETE, COMPLETE, COMPLETE)
    change(tmp_path / "1")
    line = luck_of_best(spec, trials, trials[0])
    assert "the best of 2 trials" in line and "2 of 3 complete trials counted" in line
    assert luck_of_best(spec, trials[:2], trials[0]).startswith("n/a: it takes 2 complete trials")


def test_a_link_is_not_followed(search, tmp_path):
    spec, trials = search(COMPLETE, COMPLETE)
    outside = tmp_path.parent / "outside.json"
    (tmp_path / "1" / "daily.json").rename(outside)
    (tmp_path / "1" / "daily.json").symlink_to(outside)
    assert luck_of_best(spec, trials, trials[0]).startswith("n/a")


def test_too_few_days_leave_the_probability_out(search, tmp_path):
    spec, trials = search(COMPLETE, COMPLETE)
    for number in range(2):
        returns = np.random.default_rng(number).normal(0, 0.01, 20).tolist()
        write(tmp_path / str(number), {"horizon": 10, "days": DAYS[:20], "returns": returns})
    line = luck_of_best(spec, trials, trials[0])
    assert "on 20 days" in line and "backtest overfitting n/a" in line


def test_without_returns_of_the_best_the_line_says_what_they_take(search, tmp_path):
    spec, trials = search(COMPLETE, COMPLETE)
    (tmp_path / "0" / "daily.json").unlink()
    assert "trial 0 has no daily returns on validation" in luck_of_best(spec, trials, trials[0])
