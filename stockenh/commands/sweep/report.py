"""The test part of a finished run whose summary leaves it out, as that of a search's trial does."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from stockenh.commands.sweep import figures as pictures
from stockenh.commands.sweep.best import full_command, short_command, write_best
from stockenh.commands.sweep.folder import SweepFolder
from stockenh.commands.sweep.settings import SweepConfig
from stockenh.commands.sweep.show import STATES, best_of, params_text, row_of, trials_table
from stockenh.commands.sweep.spec import Search
from stockenh.commands.sweep.study import SharedStudy
from stockenh.commands.train.result import RESAMPLES, result_table
from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.schema import config_of
from stockenh.errors import StockenhError
from stockenh.report.table import interval, markdown_header, number, percent
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder


def test_scores(folder: RunFolder, on: torch.device) -> dict[str, Any]:
    """{"h3": {...}, ...} of the weights that the run chose on validation, on its test part."""
    trained = Trained.open(folder, None)
    prepared = build.data(trained.run, on)
    ready, fitted = trained.ready(prepared, on)
    session = Session(trained.run, folder, prepared, fitted, ready, on, trained.run.train.precision)
    return session.scores(session.forecast(trained.net(prepared, on), "test"), "test", RESAMPLES)


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


SHOWN = 20  # trials of the table on the terminal
FEWEST_FOR_IMPORTANCE = 4  # complete trials


def conclude(asked: Search, study: SharedStudy, out: Console) -> float | None:
    """Draws, writes and shows the state of a search; returns the best metric, None without a best trial."""
    trials, settings = study.trials(), asked.settings
    best = best_of(trials, settings)
    drawn = _pictures(asked, study, trials, best)
    shown = ranked(trials, asked.settings)[:SHOWN]
    rows = [row_of(t) for t in shown]
    title = f"{counts(trials, settings.n_trials)}, ranked by {settings.metric} on validation"
    out.print(trials_table(rows, best.number if best else None, settings.metric, title, ""))
    if best is None:
        return None
    commands, scores = _keep_best(asked, best, trials, out)
    looks = len(asked.folder.read().get("test", []))
    write_report(asked, trials, best, commands, scores, looks, [p.name for p in drawn])
    for picture in drawn:
        out.print(f"picture  {picture}", soft_wrap=True, markup=False)
    out.print(f"report   {asked.folder.report}", soft_wrap=True, markup=False)
    out.print(f"best     {commands[0]}", soft_wrap=True, markup=False)
    assert best.value is not None
    return best.value


def _keep_best(
    asked: Search, best: FrozenTrial, trials: Sequence[FrozenTrial], out: Console
) -> tuple[list[str], dict[str, Any] | None]:
    """Writes best.yaml and judges its trial on the test part; the commands that train it, and the scores."""
    overrides = list(best.user_attrs.get("overrides", []))
    config = asked.context.config_loader.load_sweep_config(asked.config, [*asked.arguments, *overrides])
    chosen = OmegaConf.to_container(config.hydra.runtime.choices)
    assert isinstance(chosen, dict)
    choices = {str(k): str(v) for k, v in chosen.items() if v is not None and "/" not in str(k)}
    ended = sum(t.state.is_finished() for t in trials)
    raw = asked.raw_of(overrides)
    teacher, command = raw.get("teacher"), "distill" if raw.get("teacher") else "train"
    commands = [
        short_command(asked.folder, command, teacher),
        full_command(command, asked.arguments, overrides, raw["train"]["epochs"]),
    ]
    head = [
        f"Trial {best.number} of {ended}: {asked.settings.metric} {number(best.value, 6)} on validation.",
        f"Override: {commands[0].removeprefix('stockenh ')}",
    ]
    write_best(asked.folder, raw, choices, asked.plainly, head)
    return commands, _test_of(asked, best, ended, out)


def _test_of(asked: Search, best: FrozenTrial, ended: int, out: Console) -> dict[str, Any] | None:
    """The best trial's scores on the test part; looked at once for each trial that ever was the best."""
    about = asked.folder.read()
    looked: list[dict[str, Any]] = about.get("test", [])
    known = next((look for look in looked if look["trial"] == best.number), None)
    if known is None:
        # a study in a database has trials of other folders too
        folder = SweepFolder(Path(best.user_attrs.get("sweep", asked.folder.path))).trial(best.number)
        try:
            config = config_of(folder)
            if "test" not in config.split.parts:
                return None
            scores = test_scores(folder, build.device(asked.raw["device"]))
        except StockenhError as error:
            out.print(f"test     not judged: {error}", soft_wrap=True, markup=False)
            return None
        known = {"trial": best.number, "after_trials": ended, "scores": scores}
        looked = [*looked, known]
        asked.folder.write({**about, "test": looked})
    times = "once" if len(looked) == 1 else f"{len(looked)} times, for every trial that was the best"
    title = f"trial {best.number}, the best of {ended} on validation; the test part was looked at {times}"
    out.print(result_table({"test": known["scores"]}, title, out.width))
    return dict(known["scores"])


def _pictures(
    asked: Search, study: SharedStudy, trials: Sequence[FrozenTrial], best: FrozenTrial | None
) -> list[Any]:
    folder, metric = asked.folder.pictures, asked.settings.metric
    rows = [row_of(t) for t in trials]
    number_of_best = best.number if best else None
    if not any(row.value is not None for row in rows):
        return []
    smaller = asked.settings.direction == "minimize"
    begun = [t for t in trials if t.intermediate_values]
    drawn = [
        pictures.history(rows, metric, smaller, folder / "history.png"),
        pictures.intermediate(
            {t.number: (STATES[t.state.name], dict(t.intermediate_values)) for t in begun},
            number_of_best,
            metric,
            folder / "intermediate.png",
        ),
    ]
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    drawn_params = [p for p in asked.space.parameters if p.kind != "derived"]
    if len(complete) > 1:
        logs = {p.name for p in drawn_params if p.log}
        drawn.append(pictures.parallel(rows, logs, metric, smaller, folder / "parallel.png"))
    if len(complete) >= FEWEST_FOR_IMPORTANCE and (found := _importance(study)):
        drawn.append(pictures.importance(found, metric, len(complete), folder / "importance.png"))
    return drawn


def _importance(study: SharedStudy) -> dict[str, float]:
    """Shares of the metric's variance among complete trials (functional ANOVA, Hutter et al. 2014)."""
    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study.study, evaluator=evaluator)
    except (ValueError, RuntimeError, ZeroDivisionError):  # all values equal, or nothing shared by the trials
        return {}
    return {name: float(share) for name, share in found.items()}
