"""The leakage audit of a finished run: its own data, split, statistics and weights checked again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import stockenh
from stockenh.commands.audit.probes import LINEAR_SHUFFLES, Advance, later_bars, shuffled_training
from stockenh.commands.audit.show import audit_chart, audit_table, markdown, verdict
from stockenh.commands.frames import evenly
from stockenh.commands.report.pages import leave_page
from stockenh.commands.train.session import resolved
from stockenh.commands.trained import LoadedRun, Trained, is_data_of, shifts_probabilities
from stockenh.config import build
from stockenh.config.compose import open_folder
from stockenh.config.schema import AuditRunConfig
from stockenh.data.bars import CLOSE
from stockenh.data.extra import ExtraColumns
from stockenh.data.features.as_of import extra_features
from stockenh.data.windows import BarWindows, Windows, returns_ahead
from stockenh.errors import ConfigError, DataError, RunFolderError, StockenhError
from stockenh.evaluation.leakage import (
    NOT_APPLICABLE,
    Calendar,
    Check,
    check_dates,
    check_duplicates,
    check_overlap,
    check_split,
    leaks,
    window_hashes,
)
from stockenh.evaluation.leakage_features import (
    MOST_ROWS,
    check_calibration,
    check_correlations,
    check_fitted,
    check_own_columns,
    check_stored_context,
    correlation_limits,
    correlations,
)
from stockenh.evaluation.leakage_training import check_random, random_against_purged
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import CHUNK
from stockenh.report.terminal import counted_progress, print_files, print_line
from stockenh.storage.files import expanded, write_atomic, write_json

Run = LoadedRun[AuditRunConfig]
Rows = NDArray[np.int64]

FILES = ("audit.md", "audit.json", "audit.png")
NAME_THEM = "name their folder with data.path=DIR"
OTHER_STEPS = 20  # of the progress bar, besides changed dates and shuffles


class LeakFound(StockenhError):
    """The audit found a leak; everything is written and shown by then."""


def audit_run(config: AuditRunConfig, trained: Trained, directory: Path, console: Console) -> None:
    """All checks of a run; leaves audit.md, audit.json and audit.png in `directory`, and shows the table.

    config: the run's. Raises DataError or RunFolderError where the run's data are not available as they
    were, ConfigError where the config has another split than the run's, and LeakFound at the end.
    """
    if config.split != trained.run.split:
        raise ConfigError(f"split can't be other than that of run={trained.folder}: leave it out")
    path = getattr(config.data, "path", None)
    if isinstance(path, str) and not expanded(path).exists():
        raise DataError(f"{path}: the data of run={trained.folder} are gone: {NAME_THEM}")
    run = LoadedRun.load(config, trained, build.device(config.device), console)
    if not is_data_of(trained.folder, run.prepared.windows):
        raise RunFolderError(
            f"{trained.folder}: these are not the data that the run was trained on: {NAME_THEM}"
        )
    run = replace(run, config=resolved(config, run.net, run.device))
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    figures: dict[str, Any] = {}
    steps = 2 * config.audit.dates + 2 * LINEAR_SHUFFLES * config.audit.shuffles + OTHER_STEPS
    with counted_progress(console, "auditing", steps) as advance:
        checks = list(_checks(run, advance, figures))
    found = {
        "stockenh": stockenh.__version__,
        **trained.to_dict(),
        "data": run.prepared.windows.digest(),
        "target": config.target.name,
        "leaks": leaks(checks),
        "checks": [asdict(check) for check in checks],
        **figures,
    }
    write_json(directory / "audit.json", found)
    write_atomic(directory / "audit.md", markdown(checks, found).encode())
    audit_chart(found, directory / "audit.png")
    console.print(audit_table(checks))
    print_line(console, f"verdict  {verdict(checks)}")
    print_files(console, "audit", (directory / name for name in FILES))
    open_folder()
    if directory == trained.folder.report:
        leave_page(trained.folder.path, console)
    if found["leaks"]:
        raise LeakFound(f"a leak was found: {', '.join(found['leaks'])}; see {directory / 'audit.md'}")


def _checks(run: Run, advance: Advance, figures: dict[str, Any]) -> Iterator[Check]:
    """Check by check; what only the picture shows goes into `figures`."""
    windows, rows, config = run.prepared.windows, run.prepared.rows, run.config
    calendar = calendar_of(windows)
    of_split = config.split
    split = check_split(calendar, rows, max(windows.horizons), of_split.embargo, of_split.in_order)
    yield later_bars(run, advance)
    names = ("context_mean", "context_std", "return_std", "up_share")
    stored = {name: getattr(run.fitted, name) for name in names}
    yield check_fitted(windows.context, windows.y_ret, rows, stored, windows.direction)
    yield _calibration(run)
    if not isinstance(windows, BarWindows) and "test" in rows:
        yield check_stored_context(windows.context, rows["train"], windows.context_names)
        earlier, later = _before_last_test(windows.asof, rows["train"], rows["test"])
        yield check_dates(_prices(run, earlier), _prices(run, later), windows.lookback)
    advance(2)
    yield split
    yield check_duplicates({part: window_hashes(_arrays(run, of_part)) for part, of_part in rows.items()})
    yield check_overlap(calendar, windows.lookback, rows)
    advance(4)
    yield _correlations(run, figures)
    if isinstance(windows, BarWindows) and windows.extra is not None and windows.extra.past:
        yield _own_columns(run, windows, windows.extra)
    advance(4)
    yield shuffled_training(run, advance)
    figures["splits"] = {}
    if "test" in rows:
        figures["splits"] = random_against_purged(
            run.fitted.fill(windows.context),
            windows.direction,
            windows.asof,
            rows,
            windows.horizons,
            config.seed,
        )
    advance(10)
    yield check_random(figures["splits"], run_is_random=bool(split.figures.get("out_of_order")))


def calendar_of(windows: Windows) -> Calendar:
    """Of bars where there are any; else a symbol's distinct dates count as its bars."""
    if isinstance(windows, BarWindows):
        bars = windows.bars
        # a symbol's series follow each other: the last of them ends it
        end_of = dict(zip(bars.symbols, bars.offsets[1:] - 1, strict=True))
        symbol_ends = np.array([end_of[name] for name in windows.symbols], np.int64)
        return Calendar(bars.time, windows.end, windows.last, symbol_ends[windows.symbol])
    keys = np.stack([windows.symbol.astype(np.int64), windows.asof.astype(np.int64)], 1)
    distinct, place = np.unique(keys, axis=0, return_inverse=True)
    end = np.searchsorted(distinct[:, 0], windows.symbol, side="right") - 1
    return Calendar(distinct[:, 1].astype("datetime64[s]"), place.reshape(-1), end, end)


def _calibration(run: Run) -> Check:
    """The stored calibration beside those of validation and test, on the forecasts of validation."""
    if not run.trained.held_out:
        return Check("calibration", NOT_APPLICABLE, "the run held nothing out to calibrate on")
    rows, windows = run.prepared.rows, run.prepared.windows
    shifted = shifts_probabilities(run.trained.run, run.trained.folder)
    logits = {part: run.predict(rows[part]).up_logits for part in ("val", "test") if part in rows}
    fitted: dict[str, list[NDArray[np.float64]]] = {}
    for part, z in logits.items():
        y_dir, asof = windows.direction[rows[part]], windows.asof[rows[part]]
        fits = (
            Calibration.fit(z, y_dir, asof, windows.horizons, shifted),
            Calibration.unshrunk(z, y_dir),  # of a run that an earlier version made
        )
        fitted[part] = [calibration.apply(logits["val"]) for calibration in fits]
    stored = run.trained.calibration.apply(logits["val"])
    return check_calibration(stored, fitted["val"], fitted.get("test", []))


def _before_last_test(asof: NDArray[np.datetime64], train: Rows, test: Rows) -> tuple[Rows, Rows]:
    """The train windows before the last block of test windows, and that block: later ones hold its bars."""
    block = np.searchsorted(np.unique(asof[train]), asof[test])
    last = test[block == block.max()]
    return train[asof[train] < asof[last].min()], last


def _prices(run: Run, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    return (prices for prices, _ in _arrays(run, rows))


def _arrays(run: Run, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Prices and context of windows, chunk by chunk."""
    return ((m.x_price.cpu().numpy(), m.x_ctx.cpu().numpy()) for m in run.ready.sweep(rows, CHUNK))


def _correlations(run: Run, figures: dict[str, Any]) -> Check:
    """Every context feature, how far the window's last closes moved, and every column of the embedding."""
    windows, embedding = run.prepared.windows, run.prepared.embedding
    rows, horizons = evenly(run.prepared.rows["train"], MOST_ROWS), windows.horizons
    y_ret, asof = windows.y_ret[rows], windows.asof[rows]
    steps = [h for h in horizons if h < windows.lookback]
    close = np.concatenate([prices[:, :, CLOSE] for prices in _prices(run, rows)])
    moves = [close[:, -1] - close[:, -1 - h] for h in steps]
    context = run.fitted.fill(windows.context[rows])
    inputs = np.column_stack([context, *moves, embedding[rows].astype(np.float32)])
    named = [*windows.context_names, *(f"last {h} closes of x_price" for h in steps)]
    names = [*named, *(f"embedding {i}" for i in range(embedding.shape[1]))]
    best = None if windows.best_prob is None else windows.best_prob[rows]
    tests = len(names) * len(horizons)
    limit = correlation_limits(run.config.audit.correlation, y_ret, asof, horizons, tests, best)
    found = correlations(inputs, y_ret)
    figures["correlation_limits"] = {f"h{h}": float(v) for h, v in zip(horizons, limit, strict=True)}
    shown = [*range(len(named))]
    if len(names) > len(named):  # of the embedding's columns the strongest represents all
        shown.append(len(named) + int(found.strongest[len(named) :].max(1).argmax()))
    figures["correlations"] = found.table(names, horizons, shown)
    return check_correlations(names, found, limit, horizons)


def _own_columns(run: Run, windows: BarWindows, extra: ExtraColumns) -> Check:
    """The user's own columns beside the returns that follow, on train, with their lag and without."""
    rows, lag = evenly(run.prepared.rows["train"], MOST_ROWS), extra.settings.lag
    names, horizons = extra.settings.inputs, sorted({1, *windows.horizons})
    unlagged = replace(extra, settings=replace(extra.settings, lag=0))
    dated = extra_features(windows.bars, unlagged)[windows.end[rows]]
    used = windows.context[rows][:, -len(names) :]
    returns = returns_ahead(windows, rows, horizons)
    plausible = run.config.audit.correlation
    return check_own_columns(names, used, dated, returns, windows.asof[rows], horizons, plausible, lag)
