"""`stockenh runs`."""

from __future__ import annotations

import os
from pathlib import Path

from stockenh.config.overrides import split_override, unquoted
from stockenh.errors import ConfigError, counted


def runs(arguments: list[str], to: str | None = None) -> None:
    """Lists the runs below folders, newest first, or sets run folders side by side.

    to: a tracker, to which they are sent instead; its settings are among the arguments, as tracker.KEY=VALUE
    """
    from stockenh.commands.runs import listing as reading
    from stockenh.commands.runs import show as tables
    from stockenh.report.terminal import console, print_line

    words = [a for a in arguments if to is not None and a.startswith("tracker.")]
    paths, wanted = _paths_and_values([a for a in arguments if a not in words])
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder; give folders of runs, or KEY=VALUE of their configs")
    folders = paths or [Path("outputs")]
    found = [reading.read(run) for run in dict.fromkeys(run for f in folders for run in reading.find(f))]
    where = " and ".join(str(folder) for folder in folders)
    out = console()
    if not found:
        print_line(out, f"no runs in {where}; stockenh train makes one")
        return
    if to is not None:
        from stockenh.commands.runs.send import send, tracker_of

        send(reading.matching(found, wanted), tracker_of(to, words), out)
        return
    if len(paths) > 1 and all(map(reading.is_run, paths)):
        side_by_side = reading.matching(map(reading.read, paths), wanted)
        for table in tables.comparison(side_by_side):
            out.print(table)
        if why := tables.incomparable(side_by_side):
            out.print(why)
        return
    kept = sorted(reading.matching(found, wanted), key=lambda run: (run.written, run.path), reverse=True)
    if kept:
        root = tables.common_root(folders)
        out.print(tables.listing(kept, root, out.width))
        for line in tables.remarks(kept, root):
            print_line(out, line)
    print_line(out, f"{len(kept)} of {counted(len(found), 'run')} in {where}, newest first")


def _paths_and_values(arguments: list[str]) -> tuple[list[Path], dict[str, str]]:
    """The folders among the arguments (also as run=RUN), and the KEY=VALUE."""
    paths, wanted = [], {}
    for argument in arguments:
        parts = split_override(argument)
        if parts is None or Path(argument).exists():
            paths.append(Path(argument).expanduser())
        elif parts[0] == "run":
            paths.append(unquoted(parts[1]))
        else:
            key, value = parts
            # a run's config has other runs by their whole path
            is_path = key in ("teacher", "init_from") and value != "null"
            wanted[key] = os.path.abspath(unquoted(value)) if is_path else value
    return paths, wanted
