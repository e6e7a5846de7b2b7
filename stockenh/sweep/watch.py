"""What a person sees while a search goes on: a live table on a terminal, elsewhere a line per ended trial."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType

from stockenh.multirun.watch import MultirunWatch, time_left
from stockenh.sweep.settings import SweepConfig
from stockenh.sweep.study import SharedStudy
from stockenh.tables.figures import number
from stockenh.tables.sweep import STATES, TrialRow, params_text, trials_table

SHOWN = 12  # rows of the live table


class Watch(MultirunWatch):
    """Shows the trials of a study, and closes those whose worker is gone."""

    def __init__(self, study: SharedStudy, workers: int, deadline: float, out: Console) -> None:
        super().__init__(out)
        self.study = study
        self.workers = workers
        self.deadline = deadline
        self.told = {t.number for t in study.trials() if t.state.is_finished()}

    def look(self) -> None:
        self.study.close_dead()
        self.show()

    def show(self) -> None:
        trials = self.study.trials()
        if self.live is not None:
            self.live.update(self._table(trials), refresh=True)
            return
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self.told:
                self.told.add(trial.number)
                self.out.print(self._line(trial, trials), markup=False, soft_wrap=True)

    def _line(self, trial: FrozenTrial, trials: Sequence[FrozenTrial]) -> str:
        row, best = row_of(trial), best_of(trials, self.study.settings)
        found = f"{self.study.settings.metric} {number(row.value)}" if row.value is not None else ""
        line = f"trial {row.number:>4}  {row.state:<8} {found}"
        if best is not None:
            line += f"  best {number(best.value)} (trial {best.number})"
        return f"{line}  {row.why or params_text(row.params)}"

    def _table(self, trials: Sequence[FrozenTrial]) -> RenderableType:
        begun = [t for t in trials if t.state != TrialState.WAITING or t.intermediate_values]
        best = best_of(trials, self.study.settings)
        rows = [row_of(t) for t in begun[-SHOWN:]]
        title = self._progress(trials)
        caption = "* the best on validation" if best is not None else ""
        return Group(
            trials_table(rows, best.number if best else None, self.study.settings.metric, title, caption)
        )

    def _progress(self, trials: Sequence[FrozenTrial]) -> str:
        """`7 of 12 trials, 2 workers, about 4 min left`."""
        ended = sum(t.state.is_finished() for t in trials)
        total = self.study.settings.n_trials
        said = f"{ended} of {total} trials, {self.workers} worker{'s' if self.workers > 1 else ''}"
        left = seconds_left(trials, total, self.workers)
        if left is None:
            return said
        return f"{said}, {time_left(min(left, self.deadline - time.time()))}"


def seconds_left(trials: Iterable[FrozenTrial], total: int, workers: int) -> float | None:
    """What the rest of the trials will take, by the mean of those that ended; None before one has."""
    trials = list(trials)
    took = [
        (t.datetime_complete - t.datetime_start).total_seconds()
        for t in trials
        if t.state.is_finished() and t.datetime_start and t.datetime_complete
    ]
    if not took:
        return None
    return statistics.fmean(took) * max(total - len(took), 0) / max(workers, 1)


def best_of(trials: Iterable[FrozenTrial], settings: SweepConfig) -> FrozenTrial | None:
    """The complete trial of the best metric, the earlier of two equal ones; None where none is complete."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    sign = 1 if settings.direction == "minimize" else -1
    return min(complete, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def row_of(trial: FrozenTrial) -> TrialRow:
    """A trial as a line of the table."""
    last = trial.last_step
    value = trial.value if trial.state == TrialState.COMPLETE else None
    if value is None and last is not None:
        value = trial.intermediate_values[last]
    seconds: Any = trial.user_attrs.get("seconds")
    return TrialRow(
        number=trial.number,
        state=STATES[trial.state.name],
        value=value,
        epoch=last,
        seconds=seconds,
        params=trial.params,
        why=trial.user_attrs.get("why") if trial.state == TrialState.FAIL else None,
    )
