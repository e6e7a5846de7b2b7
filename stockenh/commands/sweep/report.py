"""What a search leaves: its report and pictures, and the best trial as a config, judged on the test part."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from optuna.trial import FrozenTrial
from rich.console import Console

from stockenh.commands.multirun.folder import OF_MANY
from stockenh.commands.multirun.launch import show_line
from stockenh.commands.sweep.figures import draw
from stockenh.commands.sweep.show import (
    best_of,
    count_states,
    params_text,
    ranked,
    trial_cells,
    trials_table,
)
from stockenh.commands.sweep.spec import SearchSpec, SweepFolder, choices_of
from stockenh.commands.sweep.study import SharedStudy
from stockenh.commands.train.result import RESAMPLES, result_table
from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.catalog import groups
from stockenh.config.schema import config_of
from stockenh.errors import StockenhError
from stockenh.report.table import interval, markdown_table, number, percent
from stockenh.storage.files import write_atomic
from stockenh.storage.run_folder import RunFolder

SHOWN = 20  # trials of the table on the terminal
# The values of the config that the command line of one training run does not need.
LEFT_OUT = (
    "device", "threads", "cache_dir", "init_from", "teacher", "weights", "resume", "run", "experiment",
)  # fmt: skip
# The option of the groups of a distilled student that come from its teacher's run.
OF_TEACHER = "of_run"


def conclude(spec: SearchSpec, study: SharedStudy, console: Console) -> float | None:
    """Draws, writes and shows the state of a search; returns the best metric, None without a best trial."""
    trials, settings, folder = study.trials(), spec.settings, spec.folder
    best = best_of(trials, settings)
    drawn = draw(study.study, settings.metric, folder.path / "report")
    title = f"{count_states(trials, settings.n_trials)}, ranked by {settings.metric} on validation"
    console.print(trials_table(ranked(trials, settings)[:SHOWN], best, settings.metric, title))
    if best is None:
        return None
    ended = study.count_ended()
    commands = _write_best(spec, best, ended)
    scores = _judge_on_test(spec, best, ended, console)
    lines = _report(spec, trials, best, ended, commands, scores)
    lines += [f"![{path.stem}](report/{path.name})" for path in drawn]
    report = folder.path / "report.md"
    write_atomic(report, ("\n".join(lines) + "\n").encode())
    for name, found in (*(("picture", path) for path in drawn), ("report", report), ("best", commands[0])):
        show_line(console, name, found)
    return best.value


def _write_best(spec: SearchSpec, best: FrozenTrial, ended: int) -> list[str]:
    """Writes the best trial's config as best.yaml; returns the commands that train it.

    It holds its options, and every value that these alone don't give. An option that is not shipped is
    written beside it, so that the folder holds all that --config-dir needs.
    """
    overrides, command = list(best.user_attrs.get("overrides", [])), spec.command
    raw, choices = spec.raw_of(overrides), choices_of(spec.compose(overrides))
    shipped = groups()
    options = {
        group: option
        for group, option in choices.items()
        if group in shipped and group not in ("experiment", *OF_MANY) and option != OF_TEACHER
    }
    for group, option in options.items():
        if option not in shipped[group]:
            text = yaml.safe_dump(raw[group], sort_keys=False, allow_unicode=True)
            write_atomic(spec.folder.path / group / f"{option}.yaml", text.encode())
    base = spec.compose_alone([f"{g}={option}" for g, option in options.items() if option in shipped[g]])
    skipped = {*LEFT_OUT, *OF_MANY, *(group for group, option in choices.items() if option == OF_TEACHER)}
    node = _difference({key: value for key, value in raw.items() if key not in skipped}, base)

    teacher = [f"teacher={raw['teacher']}"] if raw.get("teacher") else []
    short = shlex.join(
        ["stockenh", command, *teacher, "--config-dir", str(spec.folder.path), "experiment=best"]
    )
    defaults = yaml.safe_dump([{f"override /{group}": option} for group, option in options.items()])
    lines = [
        "# @package _global_",
        f"# Trial {best.number} of {ended}: {spec.settings.metric} {number(best.value, 6)} on validation.",
        f"# Override: {short.removeprefix('stockenh ')}",
        "defaults:",
        *(f"  {line}" for line in defaults.splitlines()),
        "",
        yaml.safe_dump(node, sort_keys=False, allow_unicode=True) if node else "",
    ]
    # the second is where Hydra finds it as experiment=best
    for name in ("best.yaml", "experiment/best.yaml"):
        write_atomic(spec.folder.path / name, ("\n".join(lines).rstrip() + "\n").encode())
    return [short, _full_command(command, spec.arguments, overrides, raw["train"]["epochs"])]


def _full_command(command: str, arguments: Sequence[str], overrides: Sequence[str], epochs: int) -> str:
    """The same without the sweep's folder: its own overrides and those of the trial."""
    own = [a for a in arguments if re.split("[=./]", a.lstrip("+~"), maxsplit=1)[0] not in OF_MANY]
    if not any(a.startswith("train.epochs=") for a in [*own, *overrides]):
        own.append(f"train.epochs={epochs}")
    return shlex.join(["stockenh", command, *own, *overrides])


def _difference(values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The nested values that differ from the base."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "_target_":
            continue
        other = base.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            if inner := _difference(value, other):
                found[key] = inner
        elif key not in base or value != other:
            found[key] = value
    return found


def _judge_on_test(
    spec: SearchSpec, best: FrozenTrial, ended: int, console: Console
) -> dict[str, Any] | None:
    """The best trial's scores on the test part, looked at once for each trial that ever was the best."""
    about = spec.folder.read()
    looks: list[dict[str, Any]] = about.get("test", [])
    look = next((look for look in looks if look["trial"] == best.number), None)
    if look is None:
        # a study in a database has trials of other folders too
        folder = SweepFolder(Path(best.user_attrs.get("sweep", spec.folder.path))).trial(best.number)
        try:
            if "test" not in config_of(folder).split.parts:
                return None
            scores = score_test_part(folder, build.device(spec.raw["device"]))
        except StockenhError as error:
            show_line(console, "test", f"not judged: {error}")
            return None
        look = {"trial": best.number, "after_trials": ended, "scores": scores}
        looks = [*looks, look]
        spec.folder.write({**about, "test": looks})
    times = "once" if len(looks) == 1 else f"{len(looks)} times, for every trial that was the best"
    title = f"trial {best.number}, the best of {ended} on validation; the test part was looked at {times}"
    console.print(result_table({"test": look["scores"]}, title, console.width))
    return dict(look["scores"])


def score_test_part(folder: RunFolder, device: torch.device) -> dict[str, Any]:
    """{"h3": {...}, ...} of the weights that a finished run chose on validation, on its test part."""
    trained = Trained.open(folder, None)
    prepared = build.data(trained.run, device)
    ready, fitted = trained.ready(prepared, device)
    session = Session(trained.run, folder, prepared, fitted, ready, device, trained.run.train.precision)
    return session.scores(session.forecast(trained.net(prepared, device), "test"), "test", RESAMPLES)


def _report(
    spec: SearchSpec,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    ended: int,
    commands: Sequence[str],
    scores: Mapping[str, Any] | None,
) -> list[str]:
    """The lines of report.md: the best trial and how to train it, its test figure, the space, every trial."""
    settings = spec.settings
    lines = [
        "# Sweep",
        "",
        f"{count_states(trials, settings.n_trials)}. Trials are chosen on validation ({settings.metric}, "
        f"{settings.direction}d); none of them saw the test part.",
        "",
        f"## The best: trial {best.number}",
        "",
        f"{settings.metric} {number(best.value, 6)} on validation with {params_text(best.params)}.",
        "",
        "```",
        *commands,
        "```",
        "",
    ]
    if scores is not None:
        looks = len(spec.folder.read().get("test", []))
        lines += [
            f"Its test part, looked at {'once' if looks == 1 else f'{looks} times'}, after {ended} trials:",
            "",
            *_test_lines(scores),
            "",
            f"It is the best of {ended} on validation, so its validation figure flatters it; the test figure "
            f"does not.",
            "",
        ]
    space = [
        (name, ", ".join(f"{k} {v}" for k, v in node.items() if v is not None and v is not False))
        for name, node in spec.space.to_dict().items()
    ]
    lines += ["## Space", "", *markdown_table(("parameter", ""), space), "", "## Trials", ""]
    lines += markdown_table(
        ("trial", "state", "epochs", settings.metric, "s", "values"),
        [trial_cells(trial) for trial in ranked(trials, settings)],
    )
    return [*lines, ""]


def _test_lines(scores: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            horizon.removeprefix("h"), f"{found['n']:,}", percent(found["accuracy"]),
            interval(found["accuracy_low"], found["accuracy_high"]), percent(found["majority"]),
            number(found["log_loss"]), number(found["auc"], 3),
        )
        for horizon, found in scores.items()
    ]  # fmt: skip
    return markdown_table(("bars", "n", "accuracy", "95% interval", "majority", "log loss", "AUC"), rows)
