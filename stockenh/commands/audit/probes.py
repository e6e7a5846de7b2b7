"""The checks of an audit that run the run's own pipeline again: on other later bars, on shuffled labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stockenh.commands.explain.explain import evenly
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import AuditRunConfig
from stockenh.data.batches import DeviceWindows
from stockenh.data.cache import DiskCache
from stockenh.data.fitted import Fitted
from stockenh.data.windows import BarWindows, Windows
from stockenh.embedding.compute import earlier_windows, embed
from stockenh.evaluation import leakage_training as audit_later
from stockenh.evaluation.leakage import NOT_APPLICABLE, Check
from stockenh.evaluation.leakage_training import Accuracies, shares, shuffled_labels, up_probability
from stockenh.inference.predict import predict
from stockenh.report.terminal import SilentProgress
from stockenh.training.averaging import Averaging
from stockenh.training.loop import Limits, Metrics, State, StopRequest, fit
from stockenh.training.precision import resolve

Advance = Callable[[int], None]

MOST_SYMBOLS = 16  # forecasts compared at one date, evenly spread over the symbols
LINEAR_SHUFFLES = 5  # for each shuffle that the run's own model is trained on: a linear model costs nothing
BLOCK = 2  # shuffled labels move in blocks of so many times the largest horizon


def dates_to_change(windows: Windows, test: NDArray[np.int64] | None, count: int) -> NDArray[np.datetime64]:
    """`count` dates of the test part and as many before it, evenly spread; never the very last date."""
    asof = np.unique(windows.asof)[:-1]
    if test is None:
        return evenly(asof, 2 * count)
    begins = windows.asof[test].min()
    held_out = np.intersect1d(asof, windows.asof[test])
    return np.concatenate([evenly(asof[asof < begins], count), evenly(held_out, count)])


def later_bars(
    config: AuditRunConfig,
    prepared: Prepared,
    fitted: Fitted,
    net: nn.Module,
    on: torch.device,
    advance: Advance,
) -> Check:
    """Replaces every bar after some dates and makes inputs and forecasts anew (analysis/audit_later.py)."""
    windows = prepared.windows
    if not isinstance(windows, BarWindows):
        return Check(audit_later.NAME, NOT_APPLICABLE, "data=windows brings no raw bars to replace", "")
    dates = dates_to_change(windows, prepared.rows.get("test"), config.audit.dates)
    base = config.data.windows_of(windows.bars)
    names = [*windows.context_names, "x_price", "x_kron", "x_ctx", "ret", "up_prob"]
    moved, compared, noticed = dict.fromkeys(names, 0), 0, False
    for number, date in enumerate(dates):
        other = config.data.windows_of(audit_later.other_bars(windows.bars, date, number))
        known = windows.asof <= date
        differ = audit_later.moved_rows(base.context[known], other.context[known])
        for name, count in zip(windows.context_names, differ.sum(0), strict=True):
            moved[name] += int(count)
        compared += int(known.sum())
        noticed |= bool(audit_later.moved_rows(base.context[~known], other.context[~known]).any())
        rows = evenly(np.flatnonzero(windows.asof == date), MOST_SYMBOLS)
        pairs = zip(*(_seen(config, of, rows, fitted, net, on) for of in (base, other)), strict=True)
        for name, (before, after) in zip(names[-5:], pairs, strict=True):
            moved[name] += int(audit_later.moved_rows(before, after).any(1).sum())
        advance(1)
    stale = audit_later.moved_rows(windows.context, base.context)
    cached = [windows.context_names[i] for i in np.flatnonzero(stale.any(axis=0))]
    return audit_later.judge(moved, compared, len(dates), len(windows.symbols), noticed, cached)


def _seen(
    config: AuditRunConfig, windows: Windows, rows: NDArray[np.int64], fitted: Fitted, net: nn.Module,
    on: torch.device,
) -> Iterator[NDArray[np.generic]]:  # fmt: skip
    """x_price, x_kron, x_ctx, ret and up_prob of these windows, always in the same batches."""
    sources = earlier_windows(windows, config.seed)[rows] if config.embedding.shuffle else rows
    vectors = embed(windows.take(sources), config.embedding, DiskCache(None), on)
    here = np.arange(len(rows))
    resident = DeviceWindows(windows.take(rows), vectors, fitted, on)
    (micro,) = resident.sweep(here, len(rows))
    yield from (tensor.cpu().numpy().reshape(len(rows), -1) for tensor in micro.inputs)
    forecast = predict(net, resident, here, fitted)
    yield from (forecast.ret, forecast.up_prob)


def taught_nothing(
    config: AuditRunConfig, prepared: Prepared, fitted: Fitted, on: torch.device, advance: Advance
) -> tuple[dict[str, Accuracies], dict[str, float]]:
    """Test accuracies of a linear model and the run's own after training on shuffled labels, by model and
    horizon, and the majority class by horizon; empty without a test part."""
    if "test" not in prepared.rows:
        return {}, {}
    windows, horizons = prepared.windows, prepared.windows.horizons
    train, test = (evenly(prepared.rows[part], config.audit.windows) for part in ("train", "test"))
    y_test = windows.y_ret[test]
    linear: Accuracies = {}
    own: Accuracies = {}
    majority: dict[str, float] = {}
    for shuffle in range(LINEAR_SHUFFLES * config.audit.shuffles):
        y = _shuffled(windows, train, config.seed + shuffle)
        for column, h in enumerate(horizons):
            prob = up_probability(
                "logistic regression", windows.context[train], y[:, column], windows.context[test], 0
            )
            if prob is not None:
                _note(linear, majority, f"h{h}", prob, y_test[:, column])
        advance(1)
    for shuffle in range(config.audit.shuffles):
        seed = config.seed + shuffle
        probs = _trained_on(
            replace(config, seed=seed), prepared, fitted, train, _shuffled(windows, train, seed), test, on
        )
        for column, h in enumerate(horizons):
            _note(own, majority, f"h{h}", probs[:, column], y_test[:, column])
        advance(LINEAR_SHUFFLES)
    return {"logistic regression": linear, "own model": own}, majority


def _shuffled(windows: Windows, train: NDArray[np.int64], seed: int) -> NDArray[np.floating]:
    block = BLOCK * max(windows.horizons)
    return shuffled_labels(windows.symbol[train], windows.asof[train], windows.y_ret[train], block, seed)


def _note(
    into: Accuracies, majority: dict[str, float], horizon: str, prob: NDArray[np.floating],
    y_ret: NDArray[np.floating],
) -> None:  # fmt: skip
    accuracy, of_majority = shares(prob, y_ret)
    if accuracy is not None and of_majority is not None:
        into.setdefault(horizon, []).append(accuracy)
        majority[horizon] = of_majority


def _trained_on(
    config: AuditRunConfig, prepared: Prepared, fitted: Fitted, train: NDArray[np.int64],
    y_train: NDArray[np.floating], test: NDArray[np.int64], on: torch.device,
) -> NDArray[np.float64]:  # fmt: skip
    """(k, H) test probabilities of the run's model, fresh, trained for a few epochs on these labels.

    The very loop of a run, without what only makes it longer: averages, a teacher, validation, checkpoints.
    Batches of the test part hold its true labels, as in a run: a model that sees labels in a batch tells.
    """
    y_ret = prepared.windows.y_ret.copy()
    y_ret[train] = y_train
    blind = replace(
        prepared, windows=replace(prepared.windows, y_ret=y_ret), rows={"train": train, "test": test}
    )
    epochs = config.audit.epochs
    net = build.model(config, blind, on)
    # the run may have been trained on another device: the precision is this one's
    settings = replace(
        config.train, epochs=epochs, accumulate=1, compile=False, precision=resolve("auto", on, net)
    )
    config = replace(config, teacher=None, averaging=Averaging(), train=settings)
    placement = build.placement(config, blind, on)
    ready = placement.place(blind.windows, blind.embedding, fitted, on)
    batches = build.batches(config, blind, ready)
    learner = build.learner(config, net, fitted, on, batches.steps)
    limits = Limits(epochs, epochs, math.inf)
    fit(learner, batches, _no_validation, State(), limits, _Forgetful(), SilentProgress(), StopRequest())
    return predict(net, ready, test, fitted).up_prob


def _no_validation() -> dict[str, Metrics]:
    return {"raw": {"loss": None}}


class _Forgetful:
    """A journal of a training that leaves nothing behind."""

    def best(self, name: str, state: State) -> None:
        pass

    def epoch(self, line: Metrics, state: State) -> None:
        pass

    def pause(self, state: State) -> None:
        pass
