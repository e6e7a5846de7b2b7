"""The leakage audit of a finished run: its own data, split, statistics and weights looked through again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

import stockenh
from stockenh.commands.audit.probes import LINEAR_SHUFFLES, later_bars, taught_nothing
from stockenh.commands.audit.show import audit_chart, audit_lines, audit_table, markdown
from stockenh.commands.explain.explain import evenly
from stockenh.commands.train.session import settled
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import AuditRunConfig
from stockenh.data.bars import CLOSE
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.data.windows import BarWindows
from stockenh.errors import ConfigError, DataError, RunFolderError, StockenhError
from stockenh.evaluation import leakage as audit_dates
from stockenh.evaluation import leakage as audit_split
from stockenh.evaluation import leakage_features as audit_features
from stockenh.evaluation import leakage_features as audit_fitted
from stockenh.evaluation import leakage_training as audit_learn
from stockenh.evaluation.leakage import NOT_APPLICABLE, Check, leaks
from stockenh.inference.calibration import Calibration
from stockenh.inference.predict import CHUNK, predict
from stockenh.report.terminal import counted_progress, show_data
from stockenh.storage.files import expanded, write_atomic, write_json

FILES = ("audit.md", "audit.json", "audit.png")


class LeakFound(StockenhError):
    """The audit found a leak; everything is written and shown by then."""


def audit_run(config: AuditRunConfig, trained: Trained, into: Path, out: Console) -> list[Check]:
    """All checks of a run; leaves audit.md, audit.json and audit.png in `into`, and shows the table.

    config: the run's. Raises DataError or RunFolderError where the run's data are not to be had as they
    were, ConfigError where the config asks for another split than the run's.
    """
    trained.require_inputs(config, "run", ("model", "embedding"))
    if config.split != trained.run.split:
        raise ConfigError(f"split can't be other than that of run={trained.folder}: leave it out")
    on = build.device(config.device)
    prepared = _data(config, trained, on)
    show_data(prepared.windows, prepared.rows, prepared.findings, out)
    ready, fitted = trained.ready(prepared, on)
    net = trained.net(prepared, on)
    config = settled(config, net, on)
    torch.set_num_threads(config.threads or 1)
    for name in FILES:
        (into / name).unlink(missing_ok=True)
    more: dict[str, Any] = {}
    with counted_progress(out, "auditing", _work(config)) as advance:
        checks = list(_checks(config, trained, prepared, fitted, ready, net, on, advance, more))
    found = {
        "stockenh": stockenh.__version__,
        **trained.to_dict(),
        "data": prepared.windows.digest(),
        "leaks": leaks(checks),
        "checks": [check.to_dict() for check in checks],
        **more,
    }
    write_json(into / "audit.json", found)
    write_atomic(into / "audit.md", markdown(checks, found).encode())
    audit_chart(found, into / "audit.png")
    out.print(audit_table(checks))
    for line in audit_lines(checks, [into / name for name in FILES]):
        out.print(line, soft_wrap=True, markup=False)
    return checks


def _work(config: AuditRunConfig) -> int:
    """Steps of the progress bar: changed dates, shuffles of both models, and the rest."""
    return 2 * config.audit.dates + 2 * LINEAR_SHUFFLES * config.audit.shuffles + 20


def _data(config: AuditRunConfig, trained: Trained, on: torch.device) -> Prepared:
    """The run's data as they were. Raises DataError or RunFolderError, naming data.path."""
    path = getattr(config.data, "path", None)
    if isinstance(path, str) and not expanded(path).exists():
        raise DataError(
            f"{path}: the data of run={trained.folder} are gone; say where they are: data.path=..."
        )
    prepared = build.data(config, on)
    manifest = trained.folder.read_json(trained.folder.manifest)
    if not isinstance(manifest, dict) or manifest.get("data") != prepared.windows.digest():
        raise RunFolderError(
            f"{trained.folder}: these are not the data that the run was trained on; "
            f"say where those are: data.path=..."
        )
    return prepared


def _checks(
    config: AuditRunConfig, trained: Trained, prepared: Prepared, fitted: Fitted, ready: ReadyWindows,
    net: nn.Module, on: torch.device, advance: Any, more: dict[str, Any],
) -> Iterator[Check]:  # fmt: skip
    """Check by check; what only the picture shows goes into `more`."""
    windows, rows = prepared.windows, prepared.rows
    split = audit_split.check_split(windows, rows, config.split.embargo)
    yield later_bars(config, prepared, fitted, net, on, advance)
    yield audit_fitted.check_fitted(windows.context, windows.y_ret, rows, _numbers(fitted))
    yield _calibration(trained, prepared, fitted, ready, net)
    if not isinstance(windows, BarWindows) and "test" in rows:
        yield audit_fitted.check_stored_context(windows.context, rows["train"], windows.context_names)
        train, test = (_prices(ready, rows[part]) for part in ("train", "test"))
        yield audit_dates.check_dates(train, test, windows.lookback)
    advance(2)
    yield split
    yield audit_split.check_duplicates({part: _hashes(ready, of_part) for part, of_part in rows.items()})
    yield audit_split.check_overlap(windows, rows)
    advance(4)
    yield _correlations(config, prepared, ready, more)
    advance(4)
    yield audit_learn.check_shuffled(*taught_nothing(config, prepared, fitted, on, advance))
    scores = {}
    if "test" in rows:
        scores = audit_learn.random_against_purged(
            windows.context, windows.y_ret, windows.asof, rows, windows.horizons, config.seed
        )
    more["splits"] = scores
    advance(10)
    yield audit_learn.check_random(scores, audit_split.is_random(split))


def _calibration(
    trained: Trained, prepared: Prepared, fitted: Fitted, ready: ReadyWindows, net: nn.Module
) -> Check:
    """The stored calibration beside those of validation and test, on the forecasts of validation."""
    if not trained.held_out:
        return Check("calibration", NOT_APPLICABLE, "the run held nothing out to calibrate on")
    logits = {
        part: predict(net, ready, prepared.rows[part], fitted).up_logits
        for part in ("val", "test")
        if part in prepared.rows
    }
    by = {
        part: Calibration.fit(z, prepared.windows.y_ret[prepared.rows[part]]).apply(logits["val"])
        for part, z in logits.items()
    }
    stored = trained.calibration.apply(logits["val"])
    return audit_fitted.check_calibration(stored, by["val"], by.get("test"))


def _numbers(fitted: Fitted) -> dict[str, list[float]]:
    return {name: getattr(fitted, name) for name in ("context_mean", "context_std", "return_std", "up_share")}


def _prices(ready: ReadyWindows, rows: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    return (micro.x_price.cpu().numpy() for micro in ready.sweep(rows, CHUNK))


def _hashes(ready: ReadyWindows, rows: NDArray[np.int64]) -> list[bytes | None]:
    chunks = ((micro.x_price.cpu().numpy(), micro.x_ctx.cpu().numpy()) for micro in ready.sweep(rows, CHUNK))
    return audit_split.hashes(chunks)


def _correlations(
    config: AuditRunConfig, prepared: Prepared, ready: ReadyWindows, more: dict[str, Any]
) -> Check:
    """Every context feature, how far the window's last closes moved, and every column of the embedding."""
    windows = prepared.windows
    rows = evenly(prepared.rows["train"], audit_features.MOST_ROWS)
    y_ret, horizons = windows.y_ret[rows], windows.horizons
    steps = [h for h in horizons if h < windows.lookback]
    close = np.concatenate([prices[:, :, CLOSE] for prices in _prices(ready, rows)])
    inputs = np.column_stack(
        [
            windows.context[rows],
            *(close[:, -1] - close[:, -1 - h] for h in steps),
            prepared.embedding[rows].astype(np.float32),
        ]
    )
    named = [*windows.context_names, *(f"last {h} closes of x_price" for h in steps)]
    names = [*named, *(f"embedding {i}" for i in range(prepared.embedding.shape[1]))]
    best = None if windows.best_prob is None else windows.best_prob[rows]
    limit = audit_features.limits(
        config.audit.correlation, y_ret, windows.asof[rows], horizons, len(names) * len(horizons), best
    )
    found = audit_features.correlations(inputs, y_ret)
    more["correlation_limits"] = {f"h{h}": float(v) for h, v in zip(horizons, limit, strict=True)}
    shown = [*range(len(named))]
    if len(names) > len(named):  # of the embedding's columns the strongest stands for all
        shown.append(len(named) + int(found.strongest[len(named) :].max(1).argmax()))
    more["correlations"] = audit_features.table_of(names, found, horizons, shown)
    return audit_features.check_correlations(names, found, limit, horizons)
