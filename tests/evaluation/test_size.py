"""How often a true hypothesis of no skill is rejected: t of the IC, and intervals of rank IC and accuracy.

Thirty symbols with a common factor; forecasts that know nothing, new at each date or persistent; returns over
the horizon that overlap, or don't. `python tests/evaluation/test_size.py` prints the table of
docs/measurements.md.
"""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import Resampling, bartlett_critical, block_of
from stockenh.evaluation.ic import newey_west_t

SYMBOLS, AT_ONCE = 30, 50


def simulated(rng, repeats, dates, horizon, persistence, overlaps):
    """Daily rank IC, share of right forecasts and share of rises, each (repeats, dates) and 0 on average."""
    signal = rng.normal(size=(dates, repeats, SYMBOLS)).astype(np.float32)
    for day in range(1, dates if persistence else 0):
        signal[day] = persistence * signal[day - 1] + np.sqrt(1 - persistence**2) * signal[day]
    bars = dates + horizon if overlaps else dates
    returns = rng.normal(size=(bars, repeats, SYMBOLS)) + rng.normal(size=(bars, repeats, 1))
    if overlaps:
        summed = np.cumsum(returns, axis=0)
        returns = summed[horizon:] - summed[:-horizon]
    ranks = [x.argsort(-1).argsort(-1) - (SYMBOLS - 1) / 2 for x in (signal, returns)]
    rank_ic = (ranks[0] * ranks[1]).sum(-1) / (SYMBOLS * (SYMBOLS**2 - 1) / 12)
    right, up = ((signal > 0) == (returns > 0)).mean(-1), (returns > 0).mean(-1)
    return rank_ic.T, right.T - 0.5, up.T - 0.5


def rejects_by_t(series, horizon):
    bandwidth = block_of(horizon)
    critical = bartlett_critical(bandwidth / series.shape[1])
    return np.mean([abs(newey_west_t(values, bandwidth - 1)) > critical for values in series])


def rejects_by_interval(series, horizon, resamples):
    dates, missed = series.shape[1], []
    for first in range(0, len(series), AT_ONCE):
        draws = Resampling(resamples=resamples, seed=first).draw(dates, (horizon,))
        some = series[first : first + AT_ONCE]
        for values, resampled in zip(some, draws.sums(some) / dates, strict=True):
            low, high = draws.interval(values.mean(), resampled)
            missed.append(not low <= 0 <= high)
    return np.mean(missed)


def sizes(repeats, dates, horizon, persistence, overlaps, resamples=1000, seed=0):
    """Share rejected at 5%: by t of rank IC; by intervals of rank IC, accuracy and the share of rises."""
    rng = np.random.default_rng(seed)
    parts = [
        simulated(rng, AT_ONCE, dates, horizon, persistence, overlaps) for _ in range(repeats // AT_ONCE)
    ]
    series = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return [
        rejects_by_t(series[0], horizon),
        *(rejects_by_interval(one, horizon, resamples) for one in series),
    ]


@pytest.mark.parametrize(
    ("dates", "horizon", "persistence", "overlaps"),
    [
        (200, 3, 0.9, True),
        (200, 10, 0.9, True),
        (200, 10, 0.0, False),
        (470, 5, 0.0, True),
        (470, 10, 0.9, True),
        (1500, 3, 0.9, True),
    ],
)
def test_five_percent_are_five_percent(dates, horizon, persistence, overlaps):
    """4 to 7% with thousands of repetitions; 600 have a standard error of 0.9 points."""
    by_t, rank_ic, accuracy, _ = sizes(600, dates, horizon, persistence, overlaps, resamples=300)
    for size in (by_t, rank_ic, accuracy):
        assert 0.025 <= size <= 0.085


def test_the_lag_of_an_overlap_rejects_twice_as_often_as_it_says():
    series = simulated(np.random.default_rng(0), 400, 470, 5, 0.9, True)[0]
    assert np.mean([abs(newey_west_t(values, 4)) > 1.96 for values in series]) > 0.085


if __name__ == "__main__":
    for dates in (200, 470, 1500):
        for horizon in (3, 5, 10):
            for persistence, overlaps in ((0.0, False), (0.9, False), (0.0, True), (0.9, True)):
                found = sizes(2000, dates, horizon, persistence, overlaps)
                setting = f"| {dates} | {horizon} | {persistence} | {'yes' if overlaps else 'no'} | "
                print(setting + " | ".join(f"{100 * size:.1f}" for size in found) + " |", flush=True)
