"""What came of a search: its trials, pictures, the best trial and its test figure, seen once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from stockenh import build
from stockenh.config import config_of
from stockenh.errors import StockenhError
from stockenh.plots import sweep as pictures
from stockenh.run.unseen import test_scores
from stockenh.sweep.asked import Search
from stockenh.sweep.best import full_command, short_command, write_best
from stockenh.sweep.folder import SweepFolder
from stockenh.sweep.markdown import counts, ranked, write_report
from stockenh.sweep.study import SharedStudy
from stockenh.sweep.watch import best_of, row_of
from stockenh.tables.figures import number
from stockenh.tables.result import result_table
from stockenh.tables.sweep import STATES, trials_table

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
