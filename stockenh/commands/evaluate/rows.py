"""The rows that a finished run is judged on, and what it and the baselines forecast for them.

Legend: n rows (one symbol at one date), H horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import EvaluateRunConfig
from stockenh.data.fitted import Fitted
from stockenh.data.splits import TrainOnly
from stockenh.data.windows import BarWindows, Windows, next_returns, past_moves
from stockenh.errors import ConfigError, DataError, RunFolderError, StockenhError
from stockenh.evaluation.baselines import (
    BOOSTING,
    LIGHTGBM,
    LOGISTIC,
    MAJORITY,
    MOMENTUM,
    MOMENTUM_BARS,
    PERSISTENCE,
    Known,
    TrainPart,
    baseline_forecasts,
    concatenated,
    has_lightgbm,
)
from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.scores import Forecast
from stockenh.evaluation.summary import BEST, CALIBRATED, MODEL, Part
from stockenh.inference.predict import predict
from stockenh.inference.tta import forecast

Rows = NDArray[np.int64]
Advance = Callable[[int], None]
FITTED_BASELINES = 3  # at most, of each horizon


@dataclass(frozen=True)
class Chosen:
    """Which rows of which windows are judged, and what baselines may learn from.

    title: the part in words; own, train: the run's own windows and its train rows, None where they are gone
    """

    prepared: Prepared
    rows: Rows
    title: str
    is_test: bool
    own: Windows | None
    train: Rows | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judged:
    """Forecasts of n rows by name, one per horizon, and what else the figures need.

    symbol: (n,) names; up_prob, uncertainty: (n, H) of test-time augmentation, None without; next_ret: (n,)
    to the next bar, None without bars
    """

    part: Part
    symbol: NDArray[np.str_]
    forecasts: dict[str, list[Forecast]]
    up_prob: Floats | None
    uncertainty: Floats | None
    next_ret: Floats | None

    @classmethod
    def pooled(cls, several: Sequence[Judged]) -> Judged:
        """The rows of several runs as one part."""
        if len(several) == 1:
            return several[0]

        def joined(name: str) -> Floats | None:
            parts = [getattr(of, name) for of in several]
            return None if any(part is None for part in parts) else np.concatenate(parts)

        first = several[0]
        best = [of.part.best_prob for of in several if of.part.best_prob is not None]
        part = Part(
            np.concatenate([of.part.asof for of in several]),
            np.concatenate([of.part.y_ret for of in several]),
            first.part.horizons,
            np.concatenate(best) if len(best) == len(several) else None,
        )
        names = [name for name in first.forecasts if all(name in of.forecasts for of in several)]
        columns = range(len(part.horizons))
        forecasts = {
            name: [concatenated([of.forecasts[name][column] for of in several]) for column in columns]
            for name in names
        }
        symbol = np.concatenate([of.symbol for of in several])
        return cls(part, symbol, forecasts, joined("up_prob"), joined("uncertainty"), joined("next_ret"))


def load(
    config: EvaluateRunConfig, trained: Trained, on: torch.device, watch: Callable[[int, int], None]
) -> Prepared:
    """All labelled windows that the config names, not yet split. Raises DataError where there are none."""
    try:
        return build.data(replace(config, split=TrainOnly()), on, watch)
    except DataError as error:
        if config.data != trained.run.data:
            raise
        raise DataError(
            f"{error}. If the bars of {trained.folder} have moved, say where to: data.path=DIR"
        ) from None


def is_own(trained: Trained, windows: Windows) -> bool:
    """Whether these are the very bars that a run was trained on."""
    manifest = trained.folder.read_json(trained.folder.manifest)
    return isinstance(manifest, dict) and manifest.get("data") == windows.digest()


def choose(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Chosen:
    """The run's own test part, or of other bars those after all that the run has seen.

    `evaluate.from` and `evaluate.to` narrow the test part, and say which part of other bars is meant.
    Raises ConfigError, DataError or RunFolderError where nothing is left that the run has not seen.
    """
    if config.split != trained.run.split:
        raise ConfigError(f"split can't be other than that of run={trained.folder}: leave it out")
    if is_own(trained, prepared.windows):
        return _test_part(config, trained, prepared)
    if config.data == trained.run.data:
        raise RunFolderError(
            f"the bars are no longer those that {trained.folder} was trained on: name the old ones with "
            f"data.path=DIR, or judge the run on these as on others with data.path and evaluate.from=DATE"
        )
    return _other_bars(config, trained, prepared)


def _test_part(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Chosen:
    windows = prepared.windows
    parts = build.split_rows(trained.run.split, windows)
    if "test" not in parts:
        raise ConfigError(
            f"run={trained.folder} held nothing out (split=all): there is no test part to judge it on; bring "
            f"later bars with data=files data.path=DIR evaluate.from=DATE"
        )
    rows = np.intersect1d(
        parts["test"], windows.between(config.evaluate.since, config.evaluate.until), assume_unique=True
    )
    if not len(rows):
        days = windows.asof[parts["test"]].astype("datetime64[D]")
        raise ConfigError(
            f"{_bounds(config)}: the test part has no window in there, it ends {days.min()} to {days.max()}"
        )
    test = "test part" if len(rows) == len(parts["test"]) else f"test part, {_bounds(config)}"
    warnings: tuple[str, ...] = ()
    if windows.best_prob is None:
        warnings = config.embedding.warnings(windows.asof[parts["test"]].min())
    return Chosen(prepared, rows, test, True, windows, parts["train"], warnings)


def _other_bars(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Chosen:
    windows, since = prepared.windows, config.evaluate.since
    own = _own_windows(config, trained)
    parts = {} if own is None else build.split_rows(trained.run.split, own)
    seen_until = None
    if own is not None:
        seen = np.concatenate([parts[name] for name in parts if name != "test"])
        seen_until = own.reach(seen, 0).max()
    if since is None and seen_until is None:
        raise ConfigError(
            f"the bars of {trained.folder} are gone, so nobody knows which dates it has seen: say from when "
            f"on to judge it with evaluate.from=DATE"
        )
    labelled = prepared.rows["train"]
    rows = np.intersect1d(labelled, windows.between(since, config.evaluate.until), assume_unique=True)
    if since is None and seen_until is not None:
        rows = rows[windows.asof[rows] > seen_until]
    if not len(rows):
        days = windows.asof[labelled].astype("datetime64[D]")
        told = _bounds(config) if since else f"after {_day(seen_until)}, the last date that the run has seen"
        raise DataError(
            f"no labelled window ends {told}: those of these bars end {days.min()} to {days.max()}"
        )
    warnings = list(config.embedding.warnings(windows.asof[rows].min()))
    if seen_until is None:
        warnings.append("the run's own bars are gone: nobody knows whether it has seen these dates")
    elif early := int((windows.asof[rows] <= seen_until).sum()):
        warnings.append(
            f"{early:,} of {len(rows):,} windows end by {_day(seen_until)}, until when labels trained or "
            f"chose this model: on them it is not tested"
        )
    title = f"other bars, {_bounds(config)}" if since else f"other bars after {_day(seen_until)}"
    return Chosen(prepared, rows, title, False, own, parts.get("train"), tuple(warnings))


def _own_windows(config: EvaluateRunConfig, trained: Trained) -> Windows | None:
    try:
        windows = trained.run.data.load(build.cache(config)).windows
    except StockenhError:
        return None
    return windows if is_own(trained, windows) else None


def baselines_of(config: EvaluateRunConfig) -> tuple[str, ...]:
    """The names of the baselines that can be had here."""
    names = (MAJORITY, PERSISTENCE, MOMENTUM, LOGISTIC, BOOSTING)
    return (*names, LIGHTGBM) if has_lightgbm() else names


def forecast_rows(
    config: EvaluateRunConfig, trained: Trained, chosen: Chosen, on: torch.device, advance: Advance
) -> Judged:
    """What the run, its views and the baselines say of the chosen rows. advance: told of pieces of work done,
    see `work`."""
    prepared, rows = chosen.prepared, chosen.rows
    windows = prepared.windows
    ready, fitted = trained.ready(prepared, on)
    net = trained.net(prepared, on)
    said = predict(net, ready, rows, fitted)
    calibrated = trained.calibration.apply(said.up_logits)
    columns = range(len(windows.horizons))
    forecasts = {
        MODEL: [
            Forecast(said.up_prob[:, c], said.up_prob[:, c], said.ret[:, c], said.ret[:, c]) for c in columns
        ]
    }
    if trained.held_out:
        forecasts[CALIBRATED] = [Forecast(calibrated[:, c], calibrated[:, c]) for c in columns]
    advance(1)
    by_horizon = []
    for column in columns:
        by_horizon.append(_baselines(config, trained, chosen, fitted, column))
        advance(1)
    forecasts |= {name: [of[name] for of in by_horizon] for name in by_horizon[0]}
    best = None if windows.best_prob is None else windows.best_prob[rows]
    if best is not None:
        forecasts[BEST] = [Forecast(best[:, c], best[:, c]) for c in columns]
    views, up_prob, uncertainty = build.views(config), None, None
    if views.count and config.data.brings_bars:
        found = forecast(net, ready, rows, fitted, trained.calibration, views)
        up_prob, uncertainty = found.up_prob, found.uncertainty
    advance(1)
    return Judged(
        part=Part(windows.asof[rows], windows.y_ret[rows].astype(np.float64), windows.horizons, best),
        symbol=np.array(windows.symbols)[windows.symbol[rows]],
        forecasts=forecasts,
        up_prob=up_prob,
        uncertainty=uncertainty,
        next_ret=next_returns(windows, rows) if isinstance(windows, BarWindows) else None,
    )


def work(horizons: int) -> int:
    """Pieces of work that `forecast_rows` tells of."""
    return 2 + horizons


def _baselines(
    config: EvaluateRunConfig, trained: Trained, chosen: Chosen, fitted: Fitted, column: int
) -> dict[str, Forecast]:
    windows = chosen.prepared.windows
    train = None
    if chosen.own is not None and chosen.train is not None:
        y_ret = chosen.own.y_ret[chosen.train, column].astype(np.float64)
        train = TrainPart(_known(chosen.own, chosen.train, fitted, column), y_ret)
    known = _known(windows, chosen.rows, fitted, column)
    threads = config.threads or 1
    return baseline_forecasts(
        known, train, fitted.up_share[column], baselines_of(config), config.seed, threads
    )


def _known(windows: Windows, rows: Rows, fitted: Fitted, column: int) -> Known:
    return Known(
        fitted.standardise(windows.context[rows]),
        past_moves(windows, rows, windows.horizons[column]),
        past_moves(windows, rows, MOMENTUM_BARS),
    )


def _bounds(config: EvaluateRunConfig) -> str:
    given = (("from", config.evaluate.since), ("to", config.evaluate.until))
    return " ".join(f"evaluate.{key}={value}" for key, value in given if value is not None)


def _day(time: np.datetime64 | None) -> str:
    return str(time)[:10]
