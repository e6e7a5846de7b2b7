"""The paths of a combinatorial purged cross-validation: their assembly, their figures and the table of these.

With N groups of which k are tested, a group is tested by C(N - 1, k - 1) combinations. Path number p takes
for each group the forecasts of the p-th of them. So every path goes through all dates once, and each forecast
is in one path only (Lopez de Prado 2018, chapter 12).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stockenh.commands.evaluate.rows import PartForecasts, Selection
from stockenh.commands.trained import Trained
from stockenh.data.splits import CombinatorialPurged
from stockenh.errors import ConfigError
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.metrics import defined, score
from stockenh.evaluation.summary import MODEL, OWN
from stockenh.report.table import Grid, number

NAMES = {"rank_ic": "rank IC", "log_loss": "log loss", "auc": "AUC"}
QUARTILES = ("min", "q25", "median", "q75", "max")


def require_combinations(runs: Sequence[Trained]) -> None:
    """Raises ConfigError where several runs of this split are not all combinations of one, each once."""
    splits = [run.run.split for run in runs if isinstance(run.run.split, CombinatorialPurged)]
    if len(runs) == 1 or len(splits) < len(runs):
        return
    if len({replace(split, combination=0) for split in splits}) > 1:
        raise ConfigError("the runs differ in split.groups, test_groups, val or embargo: they make no paths")
    given = [split.combination for split in splits]
    missing = sorted({*range(splits[0].combinations)} - {*given})
    if missing:
        raise ConfigError(
            f"{len(runs)} runs of split=cpcv: split.combination={','.join(map(str, missing))} missing; paths "
            f"take each of the {splits[0].combinations} combinations"
        )


def assembled(
    runs: Sequence[Trained], selections: Sequence[Selection], each: Sequence[PartForecasts]
) -> list[PartForecasts]:
    """The forecasts of every path; none where the runs are no combinations. See `require_combinations`."""
    if len(runs) == 1 or not isinstance(runs[0].run.split, CombinatorialPurged):
        return []
    blocks: dict[int, list[PartForecasts]] = {}  # by group, in the order of the combinations
    windows = selections[0].prepared.windows
    dates = np.unique(windows.asof[windows.labelled])
    by_combination = [
        (run.run.split, of_run)
        for run, of_run in zip(runs, each, strict=True)
        if isinstance(run.run.split, CombinatorialPurged)
    ]
    for split, of_run in sorted(by_combination, key=lambda pair: pair[0].combination):
        group = split.group_of(len(dates))[np.searchsorted(dates, of_run.part.asof)]
        for tested in split.tested():
            blocks.setdefault(tested, []).append(of_run.take(np.flatnonzero(group == tested)))
    return [PartForecasts.pooled(path) for path in zip(*(blocks[g] for g in sorted(blocks)), strict=True)]


def path_figures(paths: Sequence[PartForecasts]) -> dict[str, dict[str, dict[str, Any]]]:
    """Per horizon and figure the `values` of all paths, and their distribution, see `distribution`."""
    horizons = paths[0].part.horizons
    values = [[_figures(path, column) for path in paths] for column in range(len(horizons))]
    return {
        f"h{horizon}": {name: distribution([of[name] for of in of_paths]) for name in NAMES}
        for horizon, of_paths in zip(horizons, values, strict=True)
    }


def distribution(values: Sequence[float | None]) -> dict[str, Any]:
    """`values mean std min q25 median q75 max`; all but the values are None where one of these is None.

    std has the divisor n - 1, and is None for a single value. The values are not independent: paths share
    dates and train windows.
    """
    known = np.array([value for value in values if value is not None])
    found: dict[str, Any] = {"values": list(values), **dict.fromkeys(("mean", "std", *QUARTILES))}
    if len(known) == len(values):
        found["mean"] = float(known.mean())
        found["std"] = float(known.std(ddof=1)) if len(known) > 1 else None
        found |= zip(QUARTILES, np.quantile(known, (0, 0.25, 0.5, 0.75, 1)).tolist(), strict=True)
    return found


def path_grid(found: Mapping[str, Any]) -> Grid:
    """A row per horizon and figure."""

    def cells(of: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(number(of[key], 4) for key in ("mean", "std", *QUARTILES))

    blocks = [
        [(horizon.removeprefix("h"), title, *cells(figures[name])) for name, title in NAMES.items()]
        for horizon, figures in found["paths"].items()
    ]
    count = len(next(iter(found["paths"].values()))["auc"]["values"])
    return Grid(
        f"{count} paths of {len(found['runs'])} combinations",
        ("bars", "figure", "mean", "std", "min", "25%", "median", "75%", "max"),
        blocks,
        "each path goes through all dates once, with other models; paths are not independent. Rank IC of "
        f"the model, log loss and AUC of the {found['own'][-1]} probability. All other tables are of path 1",
        ("figure",),
    )


def _figures(path: PartForecasts, column: int) -> dict[str, float | None]:
    labelled = path.part.labelled(column)
    own = [name for name in OWN if name in path.forecasts][-1]
    forecast = path.forecasts[own][column].take(labelled.rows)
    days = len(labelled.days)
    scored = score(forecast, labelled.y_ret, labelled.date, days, None, y_dir=labelled.y_dir).observed
    signal = path.forecasts[MODEL][column].signal
    assert signal is not None
    daily = daily_ic(signal[labelled.rows], labelled.raw_ret, labelled.date, days).rank_ic
    known = daily[np.isfinite(daily)]
    rank_ic = float(known.mean()) if len(known) else None
    return {"rank_ic": rank_ic, **{name: defined(scored[name]) for name in ("log_loss", "auc")}}
