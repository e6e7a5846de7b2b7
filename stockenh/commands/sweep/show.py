"""The trials of a search as a table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group, RenderableType
from rich.table import Table

from stockenh.commands.multirun.watch import MultirunWatch, time_left
from stockenh.commands.sweep.settings import SweepConfig
from stockenh.commands.sweep.study import SharedStudy
from stockenh.report.table import number

# What a study calls the states of its trials, and what a person does.
STATES = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waits",
}


@dataclass(frozen=True)
class TrialRow:
    """One trial in figures.

    state:  one of STATES' values
    value:  the metric of a complete trial, else that of its last epoch
    params: by name, in the order of the space
    """

    number: int
    state: str
    value: float | None
    epoch: int | None
    seconds: float | None
    params: Mapping[str, Any] = field(default_factory=dict)
    why: str | None = None


def trials_table(rows: Sequence[TrialRow], best: int | None, metric: str, title: str, caption: str) -> Table:
    """A line per trial; the best is marked."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    table.add_column("trial", justify="right")
    table.add_column("state")
    table.add_column("epochs", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("s", justify="right")
    table.add_column("values", overflow="fold", ratio=1)
    for row in rows:
        mark = " *" if row.number == best else ""
        table.add_row(
            str(row.number),
            row.state,
            "" if row.epoch is None else str(row.epoch),
            number(row.value) + mark,
            "" if row.seconds is None else f"{row.seconds:,.0f}",
            row.why or params_text(row.params),
            style="bold" if mark else "dim" if row.state in ("pruned", "failed") else None,
        )
    return table


def params_text(params: Mapping[str, Any]) -> str:
    """`d_model 128, lr 0.00031`: the last part of each name is enough where no other ends alike."""
    lasts = [name.rpartition(".")[2] for name in params]
    names = [last if lasts.count(last) == 1 else name for name, last in zip(params, lasts, strict=True)]
    return ", ".join(f"{n} {value_text(v)}" for n, v in zip(names, params.values(), strict=True))


def value_text(value: Any) -> str:
    """A drawn value as a person reads it."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


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
