"""`stockenh ablate`: a multirun of train whose sweeper runs a fixed list of recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from stockenh import compose
from stockenh.ablation.folder import AblationFolder
from stockenh.config import parse
from stockenh.errors import ConfigError
from stockenh.files import expanded
from stockenh.overrides import quote_paths, split_override, suggest
from stockenh.runfolder import RunFolder
from stockenh.sweep.assignment import current
from stockenh.tasks.job import exit_with, refuse_run, run_job, unquoted, value_of
from stockenh.tasks.sweeping import MULTIRUN, absolute, require_harmless
from stockenh.tasks.training import INTERRUPTED, train_assigned

DEFAULT = "ablate=quick"
# What may be other when an ablation goes on; more seeds and other techniques are more cells.
RESUME_KEYS = ("ablate.seeds", "ablate.n_workers", "ablate.only", "ablate.rounds", "device", "threads")
JUDGED = ("val", "test")


def ablate(arguments: list[str]) -> None:
    """A new ablation, or with resume=DIR one that was stopped or is to have more seeds."""
    given = [parts for a in arguments if (parts := split_override(a))]
    taken_up = any(key == "resume" and value != "null" for key, value in given)
    arguments = _taken_up(arguments) if taken_up else _begun(arguments)
    try:
        compose.run(ablate_composed, arguments)
    except KeyboardInterrupt:
        exit_with(_stopped(arguments), INTERRUPTED)


def ablate_composed(cfg: DictConfig) -> None:
    """One cell: what a worker calls with the composed config."""
    run_job(cfg, _cell)


def _cell(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh import build
    from stockenh.ablation.perform import costs, search, with_views
    from stockenh.ablation.source import CellAssignment

    assignment = current()
    if not isinstance(assignment, CellAssignment):
        raise ConfigError("hydra/sweeper must be stockenh_ablate: leave it to stockenh ablate")
    refuse_run(raw)
    config, cell, source = parse(raw), assignment.cell, assignment.source
    on = build.device(config.device)
    if cell.recipe is None:
        assignment.end(costs(config, source, on))
    elif cell.recipe.kind == "search":
        assignment.end(search(cell, source, folder.path))
    else:
        train_assigned(folder, config, assignment, JUDGED)
        if assignment.stopped:
            return
        viewed = cell.recipe.name in source.plan.viewed
        assignment.end({"views": with_views(folder, on) if viewed else None})


def _begun(arguments: list[str]) -> list[str]:
    """The arguments with the default ablation where they name none, and the multirun that it is."""
    named = any(parts[0] == "ablate" for a in arguments if (parts := split_override(a)))
    flag = [] if set(MULTIRUN) & set(arguments) else ["--multirun"]
    return [*flag, *([] if named else [DEFAULT]), *absolute(arguments)]


def _taken_up(arguments: list[str]) -> list[str]:
    """The command that an ablation's folder was made by, with what may be other now."""
    changed: list[str] = []
    folder: AblationFolder | None = None
    for argument, quoted in zip(arguments, quote_paths(arguments), strict=True):
        key = (split_override(argument) or ("", ""))[0]
        if key == "resume":
            folder = AblationFolder(expanded(str(value_of(argument, quoted))).absolute())
        elif key in RESUME_KEYS:
            changed.append(argument)
        elif argument not in MULTIRUN:
            raise ConfigError(
                f"{key or argument} can't be given with resume: an ablation goes on as it began; only "
                f"{', '.join(RESUME_KEYS)} may change. {suggest(key or argument, RESUME_KEYS)}"
            )
    assert folder is not None
    replaced = {(split_override(a) or ("", ""))[0] for a in changed}
    stored = [str(a) for a in folder.read()["arguments"]]
    flags = stored[:2] if stored[:1] == ["--config-dir"] else []
    if flags and Path(flags[1]).absolute().is_relative_to(folder.path):
        raise ConfigError(f"{folder.path} keeps {flags[1]}, which lies in itself: it is not followed")
    began = [*flags, *require_harmless(stored[len(flags) :], [], folder.path)]
    kept = [a for a in began if (split_override(a) or ("", ""))[0] not in replaced]
    return ["--multirun", *kept, *changed, f"hydra.sweep.dir={folder.path}"]


def _stopped(arguments: list[str]) -> str:
    where = [p[1] for a in arguments if (p := split_override(a)) and p[0] == "hydra.sweep.dir"]
    again = AblationFolder(unquoted(where[-1]).absolute()).resume_command() if where else None
    return (
        f"stopped; running cells saved where they are. Continue with: "
        f"{again or 'stockenh ablate resume=DIR, the folder named above'}"
    )
