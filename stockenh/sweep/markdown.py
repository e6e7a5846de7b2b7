"""The report of a search as Markdown."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from stockenh.files import write_atomic
from stockenh.sweep.asked import Search
from stockenh.sweep.settings import SweepConfig
from stockenh.sweep.watch import row_of
from stockenh.tables.figures import interval, number, percent
from stockenh.tables.grid import markdown_header
from stockenh.tables.sweep import STATES, params_text


def ranked(trials: Sequence[FrozenTrial], settings: SweepConfig) -> list[FrozenTrial]:
    """Complete trials by metric, then pruned ones, then those that failed or have not ended."""
    sign = 1 if settings.direction == "minimize" else -1
    order = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]

    def key(trial: FrozenTrial) -> tuple[int, float, int]:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        return order.index(trial.state), sign * value if value is not None else 0.0, trial.number

    return sorted((t for t in trials if t.state != TrialState.WAITING), key=key)


def counts(trials: Sequence[FrozenTrial], total: int) -> str:
    """`12 trials: 8 complete, 3 pruned, 1 failed`."""
    found = collections.Counter(STATES[t.state.name] for t in trials[:total])
    said = ", ".join(f"{n} {state.replace('waits', 'waiting')}" for state, n in found.items())
    return f"{min(len(trials), total)} trials: {said}"


def write_report(
    asked: Search,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    commands: Sequence[str],
    scores: Mapping[str, Any] | None,
    looks: int,
    drawn: Sequence[str],
) -> None:
    """Writes report.md: the best trial and how to train it, its test figure, the space, every trial."""
    metric, ended = asked.settings.metric, sum(t.state.is_finished() for t in trials)
    lines = [
        "# Sweep",
        "",
        f"{counts(trials, asked.settings.n_trials)}. Trials are chosen on validation ({metric}, "
        f"{asked.settings.direction}d); none of them saw the test part.",
        "",
        f"## The best: trial {best.number}",
        "",
        f"{metric} {number(best.value, 6)} on validation with {params_text(best.params)}.",
        "",
        "```",
        *commands,
        "```",
        "",
    ]
    if scores is not None:
        lines += [
            f"Its test part, looked at {'once' if looks == 1 else f'{looks} times'}, after {ended} trials:",
            "",
            *_test_lines(scores),
            "",
            f"It is the best of {ended} on validation, so its validation figure flatters it; the test figure "
            f"does not.",
            "",
        ]
    lines += ["## Space", "", *markdown_header("parameter", "")]
    for name, node in asked.space.to_dict().items():
        told = ", ".join(f"{k} {v}" for k, v in node.items() if v is not None and v is not False)
        lines.append(f"| {name} | {told.replace('|', '/')} |")
    lines += ["", "## Trials", ""]
    lines += markdown_header("trial", "state", "epochs", metric, "s", "values")
    for trial in ranked(trials, asked.settings):
        row = row_of(trial)
        seconds = "" if row.seconds is None else f"{row.seconds:.0f}"
        said = (row.why or params_text(row.params)).replace("|", "/").replace("\n", " ")
        lines.append(
            f"| {row.number} | {row.state} | {row.epoch or ''} | {number(row.value)} | {seconds} | {said} |"
        )
    lines += ["", *(f"![{name.removesuffix('.png')}](report/{name})" for name in drawn), ""]
    write_atomic(asked.folder.report, "\n".join(lines).encode())


def _test_lines(scores: Mapping[str, Any]) -> list[str]:
    lines = markdown_header("bars", "n", "accuracy", "95% interval", "majority", "log loss", "AUC")
    for horizon, found in scores.items():
        cells = (
            horizon.removeprefix("h"),
            f"{found['n']:,}",
            percent(found["accuracy"]),
            interval(found["accuracy_low"], found["accuracy_high"]),
            percent(found["majority"]),
            number(found["log_loss"]),
            number(found["auc"], 3),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
