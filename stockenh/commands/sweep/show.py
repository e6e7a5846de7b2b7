"""What the terminal shows of a search: the trials as a table, and their progress."""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from stockenh.commands.multirun.launch import MultirunWatch, time_left
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.commands.sweep.study import SharedStudy, attribute
from stockenh.errors import counted
from stockenh.report.table import number

SHOWN = 12  # rows of the live table
ORDER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING)


def ranked(trials: Iterable[FrozenTrial], settings: SweepConfig) -> list[FrozenTrial]:
    """Complete trials by metric, then pruned ones, then those that failed or have not ended."""
    sign = 1 if settings.direction == "minimize" else -1

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        return ORDER.index(trial.state), sign * value if value is not None else 0.0, trial.number

    return sorted((t for t in trials if t.state != TrialState.WAITING), key=key)


def best_of(trials: Iterable[FrozenTrial], settings: SweepConfig) -> FrozenTrial | None:
    """The complete trial of the best metric, the earlier of two equal ones; None where none is complete."""
    return next((t for t in ranked(trials, settings) if t.state == TrialState.COMPLETE), None)


def count_states(trials: Sequence[FrozenTrial], total: int) -> str:
    """`12 trials: 8 complete, 3 pruned, 1 failed`."""
    counts = collections.Counter(state_of(trial) for trial in trials[:total])
    each = ", ".join(f"{n} {state}" for state, n in counts.items())
    return f"{counted(min(len(trials), total), 'trial')}: {each}"


def state_of(trial: FrozenTrial) -> str:
    """The state of a trial in a word."""
    return {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower())


def value_of(trial: FrozenTrial) -> float | None:
    """The metric of a complete trial, else that of its last epoch."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]


def reason_or_params(trial: FrozenTrial) -> str:
    """Why a trial failed, or the values drawn for it."""
    why = attribute(trial, "why") if trial.state == TrialState.FAIL else None
    return why or params_text(trial.params)


def params_text(params: Mapping[str, Any]) -> str:
    """`d_model 128, lr 0.00031`: the last part of each name is enough where no other ends alike."""
    lasts = [name.rpartition(".")[2] for name in params]
    names = [last if lasts.count(last) == 1 else name for name, last in zip(params, lasts, strict=True)]
    texts = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in params.values()]
    return ", ".join(f"{name} {text}" for name, text in zip(names, texts, strict=True))


def trial_cells(trial: FrozenTrial) -> tuple[str, ...]:
    """A trial as a row: number, state, epochs, metric, seconds, values."""
    seconds = attribute(trial, "seconds")
    return (
        str(trial.number),
        state_of(trial),
        str(trial.last_step or ""),
        number(value_of(trial)),
        "" if seconds is None else f"{seconds:,.0f}",
        reason_or_params(trial),
    )


def trials_table(
    trials: Sequence[FrozenTrial], best: FrozenTrial | None, metric: str, title: str, caption: str = ""
) -> Table:
    """A line per trial; the best is marked."""
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for name in ("trial", "state", "epochs", metric, "s"):
        table.add_column(name, justify="left" if name == "state" else "right")
    table.add_column("values", overflow="fold", ratio=1)
    for trial in trials:
        cells = [*trial_cells(trial)]
        style = "dim" if state_of(trial) in ("pruned", "failed") else None
        if best is not None and trial.number == best.number:
            cells[3], style = f"{cells[3]} *", "bold"
        table.add_row(*cells, style=style)
    return table


class Watch(MultirunWatch):
    """Shows the trials of a study, and closes those whose worker is gone."""

    def __init__(self, study: SharedStudy, workers: int, deadline: float, console: Console) -> None:
        super().__init__(console)
        self.study = study
        self.workers = workers
        self.deadline = deadline
        self.printed = {t.number for t in study.trials() if t.state.is_finished()}

    def look(self) -> None:
        self.study.close_dead()
        self.show()

    def show(self) -> None:
        trials, settings = self.study.trials(), self.study.settings
        best = best_of(trials, settings)
        if self.live is not None:
            started = [t for t in trials if t.state != TrialState.WAITING or t.intermediate_values]
            caption = "* the best on validation" if best is not None else ""
            table = trials_table(started[-SHOWN:], best, settings.metric, self._progress(trials), caption)
            self.live.update(table, refresh=True)
            return
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self.printed:
                self.printed.add(trial.number)
                value = value_of(trial)
                metric = f"{settings.metric} {number(value)}" if value is not None else ""
                line = f"trial {trial.number:>4}  {state_of(trial):<8} {metric}"
                if best is not None:
                    line += f"  best {number(best.value)} (trial {best.number})"
                self.console.print(f"{line}  {reason_or_params(trial)}", soft_wrap=True)

    def _progress(self, trials: Sequence[FrozenTrial]) -> str:
        """`7 of 12 trials, 2 workers, about 4 min left`."""
        ended, total = self.study.count_ended(), self.study.settings.n_trials
        text = f"{ended} of {counted(total, 'trial')}, {counted(self.workers, 'worker')}"
        left = seconds_left(trials, total, self.workers)
        return text if left is None else f"{text}, {time_left(min(left, self.deadline - time.time()))}"


def seconds_left(trials: Iterable[FrozenTrial], total: int, workers: int) -> float | None:
    """What the rest of the trials will take, by the mean of those that ended; None before one has."""
    taken = [t.duration.total_seconds() for t in trials if t.state.is_finished() and t.duration is not None]
    return statistics.fmean(taken) * max(total - len(taken), 0) / max(workers, 1) if taken else None
