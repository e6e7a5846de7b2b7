"""What a search leaves: its report and pictures, and the best trial as a config, judged on the test part."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from optuna.trial import FixedTrial, FrozenTrial
from rich.console import Console

from stockenh.commands.multirun.folder import OF_MANY
from stockenh.commands.multirun.launch import show_line
from stockenh.commands.report.sweep import sweep_page
from stockenh.commands.sweep.figures import draw, undrawn
from stockenh.commands.sweep.luck import luck_of_best
from stockenh.commands.sweep.show import (
    best_of,
    count_states,
    params_text,
    ranked,
    trial_cells,
    trials_table,
)
from stockenh.commands.sweep.spec import SearchSpec, SweepFolder
from stockenh.commands.sweep.study import SharedStudy, attribute
from stockenh.commands.train.result import result_table
from stockenh.commands.train.session import Session
from stockenh.commands.trained import Trained
from stockenh.config import build, plugins
from stockenh.config.schema import OF_MACHINE, config_of, parse, to_dict
from stockenh.errors import StockenhError
from stockenh.report.page import PAGE, write_page
from stockenh.report.table import interval, markdown_table, number, of_target, percent
from stockenh.storage.files import write_atomic, write_json
from stockenh.storage.run_folder import RunFolder

SHOWN = 20  # trials of the table on the terminal
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
    luck = luck_of_best(spec, trials, best)
    show_line(console, "overfit", luck)
    lines = _report(spec, trials, best, ended, commands, scores, luck)
    lines += [f"![{path.stem}](report/{path.name})" for path in drawn]
    missing = [f"{name}.png is not drawn: {why}" for name, why in undrawn(study.study).items()]
    lines += ["", *(f"{line}." for line in missing)]
    report = folder.path / "report.md"
    write_atomic(report, ("\n".join(lines) + "\n").encode())
    shown = {
        "metric": settings.metric,
        "target": parse(spec.raw).target.name,
        "title": title,
        "best": {"trial": best.number, "value": best.value, "values": params_text(best.params)},
        "commands": commands,
        "test": scores,
        "looks": len(folder.read().get("test", [])),
        "overfitting": luck,
        "space": _space_rows(spec),
        "trials": [trial_cells(trial) for trial in ranked(trials, settings)],
    }
    write_json(folder.path / "report" / "sweep.json", shown)
    for name, found in (*(("picture", path) for path in drawn), ("report", report), ("best", commands[0])):
        show_line(console, name, found)
    for line in missing:
        show_line(console, "n/a", line)
    page = write_page(sweep_page(folder.path, study.study), folder.path / PAGE)
    show_line(console, "page", page)
    return best.value


def _write_best(spec: SearchSpec, best: FrozenTrial, ended: int) -> list[str]:
    """Writes the best trial's config as best.yaml; returns the commands that train it.

    The second command needs no file: it has the search's own overrides and those of the trial.
    """
    # from the values drawn, which the space checks: what else a study holds may be somebody else's
    overrides = spec.space.overrides(FixedTrial(best.params), spec.values.__getitem__)
    raw, command = spec.raw_of(overrides), spec.command
    of_teacher = {group for group, option in spec.choices.items() if option == OF_TEACHER}
    node = {key: value for key, value in to_dict(parse(raw)).items() if key not in (*OF_MACHINE, *of_teacher)}
    path = spec.folder.path / "best.yaml"
    teacher = [f"teacher={raw['teacher']}"] if raw.get("teacher") else []
    short = shlex.join(["stockenh", command, *plugins.flags(), *teacher, f"run_config={path}"])
    lines = [
        f"# Trial {best.number} of {ended}: {spec.settings.metric} {number(best.value, 6)} on validation.",
        f"# Override: {short.removeprefix('stockenh ')}",
        yaml.safe_dump(node, sort_keys=False, allow_unicode=True),
    ]
    write_atomic(path, "\n".join(lines).encode())
    return [short, _full_command(command, spec.arguments, overrides, raw["train"]["epochs"])]


def _full_command(command: str, arguments: Sequence[str], overrides: Sequence[str], epochs: int) -> str:
    """The same without the sweep's folder: its own overrides and those of the trial."""
    own = [a for a in arguments if re.split("[=./]", a.lstrip("+~"), maxsplit=1)[0] not in OF_MANY]
    if not any(a.startswith("train.epochs=") for a in [*own, *overrides]):
        own.append(f"train.epochs={epochs}")
    return shlex.join(["stockenh", command, *plugins.flags(), *own, *overrides])


def _judge_on_test(
    spec: SearchSpec, best: FrozenTrial, ended: int, console: Console
) -> dict[str, Any] | None:
    """The best trial's scores on the test part, looked at once for each trial that ever was the best."""
    about = spec.folder.read()
    looks: list[dict[str, Any]] = about.get("test", [])
    look = next((look for look in looks if look["trial"] == best.number), None)
    if look is None:
        # a study in a database has trials of other folders too
        sweep = SweepFolder(Path(attribute(best, "sweep") or spec.folder.path))
        try:
            folder = RunFolder.open(sweep.trial(best.number).path)
            if "test" not in config_of(folder).split.parts:
                return None
            scores = score_test_part(folder, build.device(spec.raw["device"]), spec.raw.get("cache_dir"))
        except StockenhError as error:
            show_line(console, "test", f"not judged: {error}")
            return None
        look = {"trial": best.number, "after_trials": ended, "scores": scores}
        looks = [*looks, look]
        spec.folder.write({**about, "test": looks})
    times = "once" if len(looks) == 1 else f"{len(looks)} times, for every trial that was the best"
    title = f"trial {best.number}, the best of {ended} on validation; the test part was looked at {times}"
    target = parse(spec.raw).target.name
    console.print(result_table({"test": look["scores"]}, title, console.width, target))
    return dict(look["scores"])


def score_test_part(folder: RunFolder, device: torch.device, cache_dir: str | None) -> dict[str, Any]:
    """{"h3": {...}, ...} of the weights that a finished run chose on validation, on its test part."""
    trained = Trained.open(folder, None)
    prepared = build.data(replace(trained.run, cache_dir=cache_dir), device)
    ready, fitted = trained.ready(prepared, device)
    session = Session(trained.run, folder, prepared, fitted, ready, device, trained.run.train.precision)
    return session.scores(session.forecast(trained.net(prepared, device), "test"), "test")


def _report(
    spec: SearchSpec,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    ended: int,
    commands: Sequence[str],
    scores: Mapping[str, Any] | None,
    luck: str,
) -> list[str]:
    """The lines of report.md: the best trial and how to train it, its test figure, the space, every trial."""
    settings = spec.settings
    lines = [
        f"# Sweep{of_target(parse(spec.raw).target.name)}",
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
    lines += ["## Overfitting", "", f"{luck[0].upper()}{luck[1:]}.", ""]
    lines += ["## Space", "", *markdown_table(("parameter", ""), _space_rows(spec)), "", "## Trials", ""]
    lines += markdown_table(
        ("trial", "state", "epochs", settings.metric, "s", "values"),
        [trial_cells(trial) for trial in ranked(trials, settings)],
    )
    return [*lines, ""]


def _space_rows(spec: SearchSpec) -> list[tuple[str, str]]:
    """Every parameter of the space beside what it may be."""
    return [
        (name, ", ".join(f"{k} {v}" for k, v in node.items() if v is not None and v is not False))
        for name, node in spec.space.to_dict().items()
    ]


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
