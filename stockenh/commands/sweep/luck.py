"""Whether the best trial of a search is more than the luckiest of many."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from stockenh.commands.sweep.spec import SearchSpec, SweepFolder
from stockenh.commands.sweep.study import attribute
from stockenh.errors import StockenhError
from stockenh.evaluation.overfitting import FEWEST_TRIALS, overfitting_figures
from stockenh.report.table import number, percent
from stockenh.storage.run_folder import Daily, RunFolder


def luck_of_best(spec: SearchSpec, trials: Sequence[FrozenTrial], best: FrozenTrial) -> str:
    """Deflated Sharpe ratio and probability of backtest overfitting in a sentence, or why there are none.

    Complete trials count whose daily returns on validation are there and of the same days as those of the
    best; pruned and failed ones don't.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    found = {trial.number: daily for trial in complete if (daily := _daily(spec, trial)) is not None}
    if best.number not in found:
        return f"n/a: trial {best.number} has no daily returns on validation, which need bars of 2 symbols"
    days = found[best.number]["days"]
    counted = {number: daily["returns"] for number, daily in found.items() if daily["days"] == days}
    others = [
        f"{sum(trial.state == state for trial in trials)} {word}"
        for state, word in ((TrialState.PRUNED, "pruned"), (TrialState.FAIL, "failed"))
    ]
    about = f"{len(counted)} of {len(complete)} complete trials counted, {' and '.join(others)} left out"
    if len(counted) < FEWEST_TRIALS or len(days) < 2:
        return f"n/a: it takes {FEWEST_TRIALS} complete trials with daily returns of the same days; {about}"
    figures = overfitting_figures(np.array([*counted.values()]).T, [*counted].index(best.number))
    deflated, sharpe, chance = (number(figures[key], 3) for key in ("deflated", "sharpe", "chance"))
    return (
        f"trial {best.number} has a deflated Sharpe ratio of {deflated} (significant from 0.95 on): {sharpe} "
        f"a day on {figures['dates']} days of validation, where chance gives the best of {figures['trials']} "
        f"trials {chance}; probability of backtest overfitting {percent(figures['pbo'], 0)}; {about}"
    )


def _daily(spec: SearchSpec, trial: FrozenTrial) -> Daily | None:
    """The daily returns that a trial left, None where there are none to be read."""
    sweep = SweepFolder(Path(attribute(trial, "sweep") or spec.folder.path))
    with suppress(StockenhError):
        folder = RunFolder.open(sweep.trial(trial.number).path)
        daily = folder.read_json(folder.daily, Daily)
        return daily if len(daily["days"]) == len(daily["returns"]) else None
    return None
