"""The rows that a finished run is evaluated on, and the forecasts of the run and the baselines for them.

Legend: n rows (one symbol at one date), H horizons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from stockenh.commands.trained import Trained, is_data_of
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import EvaluateRunConfig
from stockenh.data.fitted import Fitted
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
    LabelledPart,
    baseline_forecasts,
    concatenated,
    has_lightgbm,
)
from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.metrics import Forecast
from stockenh.evaluation.pinball import QuantileForecasts
from stockenh.evaluation.summary import BEST, CALIBRATED, MODEL, Part
from stockenh.inference.predict import Predictions, forecast, predict
from stockenh.report.table import of_target

Rows = NDArray[np.int64]
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Selection:
    """Which rows of which windows are evaluated, and what baselines may be fitted on and chosen by.

    title: the part in words; own, train, val: the run's own windows and its rows, None where they are gone;
    val is None too where the run held nothing out
    """

    prepared: Prepared
    rows: Rows
    title: str
    is_test: bool
    own: Windows | None
    train: Rows | None
    val: Rows | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PartForecasts:
    """Forecasts of n rows by name, one per horizon, and what else the figures need.

    symbol: (n,) names; up_prob: (n, H) as `tta-predict` forecasts it, spread: (n, H) its deviation over views
    and members, None without; next_ret: (n,) see `next_returns`, None without bars
    """

    part: Part
    symbol: NDArray[np.str_]
    forecasts: dict[str, list[Forecast]]
    up_prob: Floats
    spread: Floats | None
    next_ret: Floats | None
    quantiles: QuantileForecasts | None = None

    def take(self, rows: Rows) -> PartForecasts:
        """Those of these rows only."""
        return PartForecasts(
            self.part.take(rows),
            self.symbol[rows],
            {name: [column.take(rows) for column in columns] for name, columns in self.forecasts.items()},
            self.up_prob[rows],
            None if self.spread is None else self.spread[rows],
            None if self.next_ret is None else self.next_ret[rows],
            None if self.quantiles is None else self.quantiles.take(rows),
        )

    @classmethod
    def pooled(cls, several: Sequence[PartForecasts]) -> PartForecasts:
        """The rows of several runs as one part."""
        if len(several) == 1:
            return several[0]

        def joined(arrays: Sequence[Floats | None]) -> Floats | None:
            known = [array for array in arrays if array is not None]
            return np.concatenate(known) if len(known) == len(arrays) else None

        parts, first = [each.part for each in several], several[0]
        part = Part(
            np.concatenate([part.asof for part in parts]),
            np.concatenate([part.y_ret for part in parts]),
            first.part.horizons,
            joined([part.best_prob for part in parts]),
            joined([part.y_dir for part in parts]),
            joined([part.raw_ret for part in parts]),
            joined([part.best_score for part in parts]),
        )
        forecasts = {
            name: [
                concatenated(column)
                for column in zip(*(each.forecasts[name] for each in several), strict=True)
            ]
            for name in first.forecasts
            if all(name in each.forecasts for each in several)
        }
        return cls(
            part,
            np.concatenate([each.symbol for each in several]),
            forecasts,
            np.concatenate([each.up_prob for each in several]),
            joined([each.spread for each in several]),
            joined([each.next_ret for each in several]),
            QuantileForecasts.pooled([each.quantiles for each in several]),
        )


def load(
    config: EvaluateRunConfig, trained: Trained, device: torch.device, watch: Callable[[int, int], None]
) -> Prepared:
    """All windows that the config names, with simple returns and not yet split: a target is made after the
    split. Raises DataError where there are none."""
    try:
        return build.data(config, device, watch, build.undivided)
    except DataError as error:
        if config.data != trained.run.data:
            raise
        raise DataError(
            f"{error}. If the bars of {trained.folder} have moved, name their folder: data.path=DIR"
        ) from None


def select_rows(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Selection:
    """The run's own test part, or of other bars those after all that the run has seen.

    `evaluate.from` and `evaluate.to` narrow the test part, and select the part of other bars.
    Raises ConfigError, DataError or RunFolderError where nothing is left that the run has not seen.
    """
    if config.split != trained.run.split:
        raise ConfigError(f"split can't be other than that of run={trained.folder}: leave it out")
    if is_data_of(trained.folder, prepared.windows):
        return _test_part(config, trained, prepared)
    if config.data == trained.run.data:
        raise RunFolderError(
            f"the bars are no longer those that {trained.folder} was trained on: name the old ones with "
            f"data.path=DIR, or evaluate the run on these as on others with data.path and evaluate.from=DATE"
        )
    return _other_bars(config, trained, prepared)


def _test_part(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Selection:
    windows, parts = build.labelled_parts(trained.run, prepared.windows)
    if "test" not in parts:
        raise ConfigError(
            f"run={trained.folder} held nothing out (split=all): there is no test part to evaluate; bring "
            f"later bars with data=files data.path=DIR evaluate.from=DATE"
        )
    warnings = _warnings(config, prepared.windows, parts["test"])
    prepared = replace(prepared, windows=windows)
    rows, bounds = _within(config, windows, parts["test"]), _bounds(config)
    if not len(rows):
        raise ConfigError(
            f"{bounds}: the test part has no window in there, it ends {_span(windows, parts['test'])}"
        )
    title = "test part" if len(rows) == len(parts["test"]) else f"test part, {bounds}"
    return Selection(
        prepared, rows, _titled(title, config), True, windows, parts["train"], parts.get("val"), warnings
    )


def _other_bars(config: EvaluateRunConfig, trained: Trained, prepared: Prepared) -> Selection:
    windows, since = prepared.windows, config.evaluate.since
    own, seen_until = _own_windows(config, trained), None
    parts = {} if own is None else build.split_rows(trained.run.split, own)
    if own is not None:
        seen = np.concatenate([rows for name, rows in parts.items() if name != "test"])
        seen_until = own.reach(seen, 0).max()
        own, parts = build.labelled_parts(trained.run, own)
    if since is None and seen_until is None:
        raise ConfigError(
            f"the bars of {trained.folder} are gone, so the dates that it has seen are not known: set the "
            f"first date to evaluate with evaluate.from=DATE"
        )
    labelled, until = prepared.rows["train"], str(seen_until)[:10]
    rows = _within(config, windows, labelled)
    if since is None and seen_until is not None:
        rows = rows[windows.asof[rows] > seen_until]
    if not len(rows):
        bounds = _bounds(config) if since else f"after {until}, the last date that the run has seen"
        raise DataError(
            f"no labelled window ends {bounds}: those of these bars end {_span(windows, labelled)}"
        )
    warnings = list(config.embedding.warnings(windows.asof[rows].min()))
    if seen_until is None:
        warnings.append("the run's own bars are gone: whether it has seen these dates is not known")
    elif early := int((windows.asof[rows] <= seen_until).sum()):
        warnings.append(
            f"{early:,} of {len(rows):,} windows end by {until}, until when labels trained or chose this "
            f"model: on them it is not tested"
        )
    title = f"other bars, {_bounds(config)}" if since else f"other bars after {until}"
    windows, kept = config.target.apply(windows, {"evaluated": rows})
    return Selection(
        replace(prepared, windows=windows), kept["evaluated"], _titled(title, config), False, own,
        parts.get("train"), parts.get("val"), tuple(warnings),
    )  # fmt: skip


def _warnings(config: EvaluateRunConfig, windows: Windows, test: Rows) -> tuple[str, ...]:
    """No checkpoint was trained on a generated market."""
    return () if config.data.generated else config.embedding.warnings(windows.asof[test].min())


def _titled(title: str, config: EvaluateRunConfig) -> str:
    """A part in words, with the target that its figures are of."""
    return f"{title}{of_target(config.target.name)}"


def _own_windows(config: EvaluateRunConfig, trained: Trained) -> Windows | None:
    try:
        windows = build.windows(replace(trained.run, cache_dir=config.cache_dir))
    except StockenhError:
        return None
    return windows if is_data_of(trained.folder, windows) else None


def _within(config: EvaluateRunConfig, windows: Windows, rows: Rows) -> Rows:
    inside = windows.between(config.evaluate.since, config.evaluate.until)
    return np.intersect1d(rows, inside, assume_unique=True)


def _bounds(config: EvaluateRunConfig) -> str:
    given = (("from", config.evaluate.since), ("to", config.evaluate.until))
    return " ".join(f"evaluate.{key}={value}" for key, value in given if value is not None)


def _span(windows: Windows, rows: Rows) -> str:
    days = windows.asof[rows].astype("datetime64[D]")
    return f"{days.min()} to {days.max()}"


def baselines_here() -> tuple[str, ...]:
    """The names of the baselines that are available here."""
    names = (MAJORITY, PERSISTENCE, MOMENTUM, LOGISTIC, BOOSTING)
    return (*names, LIGHTGBM) if has_lightgbm() else names


def forecast_rows(
    config: EvaluateRunConfig, trained: Trained, selection: Selection, device: torch.device, advance: Advance
) -> PartForecasts:
    """Forecasts of the run, its views and the baselines. advance: called with 1 after those of the run, the
    baselines of each horizon, and the views."""
    prepared, rows = selection.prepared, selection.rows
    windows = prepared.windows
    ready, fitted = trained.ready(prepared, device)
    net = trained.net(prepared, device)
    predicted = predict(net, ready, rows, fitted)
    calibrated = trained.calibration.apply(predicted.up_logits)
    forecasts = {
        MODEL: [
            Forecast(prob, prob, ret if config.loss.gives_returns else None, ret)
            for prob, ret in zip(predicted.up_prob.T, predicted.ret.T, strict=True)
        ]
    }
    if trained.held_out:
        forecasts[CALIBRATED] = [Forecast(prob, prob) for prob in calibrated.T]
    advance(1)

    for found in _of_baselines(config, selection, fitted):
        for name, baseline in found.items():
            forecasts.setdefault(name, []).append(baseline)
        advance(1)
    best = None if windows.best_prob is None else windows.best_prob[rows]
    if best is not None:
        forecasts[BEST] = [Forecast(prob, prob) for prob in best.T]
    views, up_prob, spread = build.views(config), calibrated, predicted.spread
    if views.count and config.data.brings_bars:
        augmented = forecast(net, ready, rows, fitted, trained.calibration, views)
        up_prob, spread = augmented.up_prob, augmented.uncertainty
    advance(1)
    next_ret = None
    if isinstance(windows, BarWindows):
        next_ret = next_returns(windows, rows, config.evaluate.execution)
    return PartForecasts(
        part=Part(
            windows.asof[rows],
            windows.y_ret[rows].astype(np.float64),
            windows.horizons,
            best,
            windows.direction[rows].astype(np.float64),
            windows.returns[rows].astype(np.float64),
            None if windows.best_score is None else windows.best_score[rows],
        ),
        symbol=np.array(windows.symbols)[windows.symbol[rows]],
        forecasts=forecasts,
        up_prob=up_prob,
        spread=spread,
        next_ret=next_ret,
        quantiles=_quantiles(trained, selection, predicted),
    )


def _quantiles(trained: Trained, selection: Selection, predicted: Predictions) -> QuantileForecasts | None:
    levels, of_train = trained.quantile_levels, None
    if not levels or predicted.quantiles is None:
        return None
    if selection.own is not None and selection.train is not None:
        of_labels = np.nanquantile(selection.own.y_ret[selection.train].astype(np.float64), levels, axis=0)
        of_train = np.broadcast_to(of_labels.T, predicted.quantiles.shape)
    conformal = trained.conformal()
    interval = None if conformal is None else conformal.interval(predicted.quantiles, levels)
    return QuantileForecasts(levels, predicted.quantiles, of_train, interval)


def _of_baselines(
    config: EvaluateRunConfig, selection: Selection, fitted: Fitted
) -> Iterator[dict[str, Forecast]]:
    """The forecasts of all baselines, one horizon after another."""
    windows, own = selection.prepared.windows, selection.own

    def past_target(windows: Windows, rows: Rows, bars: int) -> Floats:
        """(k,) the target of the return over the last bars; 0 where it has none."""
        moves = past_moves(windows, rows, bars)[:, None]
        return np.nan_to_num(config.target.values(moves, windows, rows, (bars,))[0][:, 0])

    def known(windows: Windows, rows: Rows, column: int) -> Known:
        past, momentum = (past_target(windows, rows, b) for b in (windows.horizons[column], MOMENTUM_BARS))
        return Known(fitted.standardise(windows.context[rows]), past, momentum)

    def labelled(rows: Rows | None, column: int) -> LabelledPart | None:
        if own is None or rows is None:
            return None
        y_ret, y_dir = (array[rows, column].astype(np.float64) for array in (own.y_ret, own.direction))
        return LabelledPart(known(own, rows, column), y_ret, own.asof[rows], own.horizons[column], y_dir)

    for column in range(len(windows.horizons)):
        train, val = (labelled(own_rows, column) for own_rows in (selection.train, selection.val))
        yield baseline_forecasts(
            known(windows, selection.rows, column), train, val, fitted.up_share[column], baselines_here(),
            config.seed, config.threads or 1,
        )  # fmt: skip
