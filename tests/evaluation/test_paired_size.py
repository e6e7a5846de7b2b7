"""How often the interval of a difference over seeds and dates misses 0 where a technique has no effect.

Ten symbols with a common factor, overlapping returns, persistent forecasts. Each recipe's forecasts are
partly the same for all of its seeds, and seeds may differ in skill.
`python tests/evaluation/test_paired_size.py` prints the table of docs/measurements.md.
"""

from __future__ import annotations

import numpy as np
import pytest

from stockenh.evaluation.bootstrap import block_of
from stockenh.evaluation.paired import Interval

SYMBOLS, PERSISTENCE, AT_ONCE = 10, 0.9, 100


def tables(rng, repeats, seeds, dates, horizon, common, skills):
    """(repeats, S, D) shares of the dates in a difference in accuracy that is 0 on average.

    common: share of a forecast's variance that all seeds of a recipe have; skills: spread of the seeds' skill
    """
    shape = (repeats, SYMBOLS)
    moves = rng.normal(size=(dates + horizon, *shape)) + rng.normal(size=(dates + horizon, repeats, 1))
    summed = np.cumsum(moves, axis=0)
    returns = summed[horizon:] - summed[:-horizon]
    returns /= returns.std()

    def signal():
        found = rng.standard_normal((dates, *shape), np.float32)
        for day in range(1, dates):
            found[day] = PERSISTENCE * found[day - 1] + np.sqrt(1 - PERSISTENCE**2) * found[day]
        return found

    found = np.zeros((repeats, seeds, dates))
    for sign in (1, -1):
        shared = signal()
        for seed in range(seeds):
            skill = skills * rng.normal(size=(repeats, 1))
            forecast = np.sqrt(common) * shared + np.sqrt(1 - common) * signal() + skill * returns
            found[:, seed] += sign * ((forecast > 0) == (returns > 0)).mean(-1).T / dates
    return found


def sizes(repeats, seeds, dates, horizon, common, skills, level=0.05, seed=0):
    """Share of intervals that miss 0: over seeds and dates, over seeds alone, over dates alone."""
    rng, missed = np.random.default_rng(seed), []
    for _ in range(repeats // AT_ONCE):
        for table in tables(rng, AT_ONCE, seeds, dates, horizon, common, skills):
            block = block_of(horizon)
            found = (
                Interval.of_table(table, block),
                Interval.of(table.sum(axis=1).tolist()),
                Interval.of_table(table.mean(axis=0, keepdims=True), block),
            )
            missed.append([one.p() <= level for one in found])
    return np.mean(missed, axis=0)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    ("dates", "horizon", "common", "skills"),
    [(200, 5, 0.0, 0.0), (130, 10, 0.9, 0.0), (200, 5, 0.5, 0.05), (130, 10, 0.0, 0.3)],
)
def test_a_technique_without_effect_is_seldom_found_to_have_one(seeds, dates, horizon, common, skills):
    """3 to 7% with thousands of repetitions; 400 have a standard error of 1.1 points."""
    assert 0.01 <= sizes(400, seeds, dates, horizon, common, skills)[0] <= 0.085


def test_seeds_alone_or_dates_alone_find_effects_that_are_not_there():
    by_seeds = sizes(100, 3, 130, 10, 0.9, 0.0)[1]
    by_dates = sizes(100, 3, 130, 10, 0.0, 0.3)[2]
    assert by_seeds > 0.2 and by_dates > 0.2


if __name__ == "__main__":
    for dates, horizon in ((130, 10), (200, 5), (470, 10)):
        for seeds in (3, 5):
            for common, skills in ((0, 0), (0.5, 0), (0.9, 0), (0.5, 0.05), (0, 0.1), (0.5, 0.2), (0, 0.3)):
                found = sizes(4000, seeds, dates, horizon, common, skills)
                setting = f"| {dates} | {horizon} | {seeds} | {common} | {skills} | "
                print(setting + " | ".join(f"{100 * size:.1f}" for size in found) + " |", flush=True)
