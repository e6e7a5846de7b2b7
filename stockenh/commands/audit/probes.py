"""The checks of an audit that run the run's own pipeline again: on other later bars, on shuffled labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from stockenh.commands.frames import evenly
from stockenh.commands.trained import LoadedRun
from stockenh.config import build
from stockenh.config.schema import AuditRunConfig
from stockenh.data.batches import DeviceWindows
from stockenh.data.cache import DiskCache
from stockenh.data.windows import BarWindows, Windows
from stockenh.embedding.compute import earlier_windows, embed
from stockenh.evaluation.leakage import NOT_APPLICABLE, Check
from stockenh.evaluation.leakage_training import (
    LATER_BARS,
    Accuracies,
    accuracy_and_majority,
    check_later_bars,
    check_shuffled,
    moved_rows,
    other_bars,
    other_columns,
    shuffled_labels,
    up_probability,
)
from stockenh.inference.predict import predict
from stockenh.report.terminal import SilentProgress
from stockenh.training.averaging import Averaging
from stockenh.training.loop import Journal, Limits, Metrics, State, fit
from stockenh.training.precision import resolve
from stockenh.training.stop import StopRequest

Run = LoadedRun[AuditRunConfig]

MOST_SYMBOLS = 16  # forecasts compared at one date, evenly spread over the symbols
LINEAR_SHUFFLES = 5  # for each shuffle that the run's own model is trained on: a linear model costs nothing
BLOCK = 2  # shuffled labels move in blocks of so many times the largest horizon


Advance = Callable[[int], None]  # takes the number of finished steps


def dates_to_change(windows: Windows, test: NDArray[np.int64] | None, count: int) -> NDArray[np.datetime64]:
    """`count` dates of the test part and as many before it, evenly spread; never the very last date."""
    asof = np.unique(windows.asof)[:-1]
    if test is None:
        return evenly(asof, 2 * count)
    begins = windows.asof[test].min()
    held_out = np.intersect1d(asof, windows.asof[test])
    return np.concatenate([evenly(asof[asof < begins], count), evenly(held_out, count)])


def later_bars(run: Run, advance: Advance) -> Check:
    """Replaces every bar after some dates and makes inputs and forecasts anew."""
    windows, config = run.prepared.windows, run.config
    if not isinstance(windows, BarWindows):
        return Check(LATER_BARS, NOT_APPLICABLE, "data=windows brings no raw bars to replace", "")
    dates = dates_to_change(windows, run.prepared.rows.get("test"), config.audit.dates)
    bars = windows.bars
    base = config.data.windows_of(bars, windows.extra)
    is_daily = bool((bars.time == bars.time.astype("datetime64[D]")).all())
    outputs = ("x_price", "x_embedding", "x_ctx", "ret", "up_prob")
    moved = dict.fromkeys((*windows.context_names, *outputs), 0)
    compared, noticed = 0, False
    for number, date in enumerate(dates):
        changed = other_bars(bars.ohlcv, bars.time, bars.offsets, date, number)
        last = date + np.timedelta64(86_399, "s") if is_daily else date
        extra = None if windows.extra is None else other_columns(windows.extra, last, number)
        other = config.data.windows_of(replace(bars, ohlcv=changed), extra)
        known = windows.asof <= date
        differ = moved_rows(base.context[known], other.context[known])
        for name, count in zip(windows.context_names, differ.sum(0), strict=True):
            moved[name] += int(count)
        compared += int(known.sum())
        noticed |= bool(moved_rows(base.context[~known], other.context[~known]).any())
        rows = evenly(np.flatnonzero(windows.asof == date), MOST_SYMBOLS)
        pairs = zip(outputs, _outputs(run, base, rows), _outputs(run, other, rows), strict=True)
        for name, before, after in pairs:
            moved[name] += int(moved_rows(before, after).any(1).sum())
        advance(1)
    stale = np.flatnonzero(np.any(moved_rows(windows.context, base.context), axis=0))
    cached = [windows.context_names[i] for i in stale]
    return check_later_bars(moved, compared, len(dates), len(windows.symbols), noticed, cached)


def _outputs(run: Run, windows: Windows, rows: NDArray[np.int64]) -> Iterator[NDArray[np.generic]]:
    """x_price, x_embedding, x_ctx, ret and up_prob of these windows, always in the same batches."""
    shuffled = run.config.embedding.shuffle
    sources = earlier_windows(windows, run.config.seed)[rows] if shuffled else rows
    vectors = embed(windows.take(sources), run.config.embedding, DiskCache(None), run.device)
    resident = DeviceWindows(windows.take(rows), vectors, run.fitted, run.device)
    every = np.arange(len(rows))
    (micro,) = resident.sweep(every, len(rows))
    yield from (tensor.cpu().numpy().reshape(len(rows), -1) for tensor in micro.inputs)
    forecast = predict(run.net, resident, every, run.fitted)
    yield from (forecast.ret, forecast.up_prob)


def shuffled_training(run: Run, advance: Advance) -> Check:
    """A linear model and the run's own learn nothing from shuffled labels."""
    rows, audit, seed = run.prepared.rows, run.config.audit, run.config.seed
    if "test" not in rows:
        return check_shuffled({}, {})
    windows, majority = run.prepared.windows, dict[str, float]()
    train, test = (evenly(rows[part], audit.windows) for part in ("train", "test"))
    accuracies: dict[str, Accuracies] = {"logistic regression": {}, "own model": {}}

    def shuffled(seed: int, labels: NDArray[np.floating]) -> NDArray[np.floating]:
        block = BLOCK * max(windows.horizons)
        return shuffled_labels(windows.symbol[train], windows.asof[train], labels[train], block, seed)

    def add(model: str, column: int, prob: NDArray[np.floating] | None) -> None:
        if prob is None:
            return
        horizon, y_test = f"h{windows.horizons[column]}", windows.direction[test, column]
        accuracy, larger = accuracy_and_majority(prob, y_test)
        if accuracy is not None and larger is not None:
            accuracies[model].setdefault(horizon, []).append(accuracy)
            majority[horizon] = larger

    linear = "logistic regression"
    x_train, x_test = (run.fitted.fill(windows.context[part]) for part in (train, test))
    for shuffle in range(LINEAR_SHUFFLES * audit.shuffles):
        for column, y in enumerate(shuffled(seed + shuffle, windows.direction).T):
            add(linear, column, up_probability(linear, x_train, y, x_test, 0))
        advance(1)
    for shuffle in range(audit.shuffles):
        labels = tuple(shuffled(seed + shuffle, each) for each in (windows.y_ret, windows.direction))
        prob = _trained_on(run, train, labels, test, seed + shuffle)
        for column, of_horizon in enumerate(prob.T):
            add("own model", column, of_horizon)
        advance(LINEAR_SHUFFLES)
    return check_shuffled(accuracies, majority)


def _trained_on(
    run: Run,
    train: NDArray[np.int64],
    labels: tuple[NDArray[np.floating], ...],
    test: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """(k, H) test probabilities of the run's model, fresh, trained for a few epochs on these labels, the
    returns and the directions of the train rows.

    The same loop as a run's, without what only makes it longer: averages, a teacher, validation, checkpoints.
    Batches of the test part hold its true labels, as in a run: a model that sees labels in a batch shows it.
    """
    windows, epochs, device = run.prepared.windows, run.config.audit.epochs, run.device
    y_ret, y_dir = windows.y_ret.copy(), windows.direction.copy()
    y_ret[train], y_dir[train] = labels
    shuffled = replace(windows, y_ret=y_ret, y_dir=y_dir)
    blind = replace(run.prepared, windows=shuffled, rows={"train": train, "test": test})
    config = replace(run.config, seed=seed, teacher=None, averaging=Averaging())
    net = build.model(config, blind, device, run.fitted)
    # the run may have been trained on another device: the precision is this one's
    precision = resolve("auto", device, net)
    settings = replace(config.train, epochs=epochs, accumulate=1, compile=False, precision=precision)
    config = replace(config, train=settings)
    placement = build.placement(config, blind, device)
    ready = placement.place(blind.windows, blind.embedding, run.fitted, device)
    batches = build.batches(config, blind, ready)
    learner = build.learner(config, net, run.fitted, device, batches.steps)
    limits = Limits(epochs, epochs, math.inf)
    unknown: dict[str, Metrics] = {"raw": {"loss": None}}  # there is no validation
    fit(learner, batches, lambda: unknown, State(), limits, Journal(), SilentProgress(), StopRequest())
    return predict(net, ready, test, run.fitted).up_prob
