"""The report on a finished run, or on the folds of a walk-forward: figures, tables, pictures, files.

Legend: n rows (one symbol at one date), D dates, S symbols, H horizons.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import stockenh
from stockenh.commands.ensembles import together
from stockenh.commands.evaluate.figures import baselines_chart, coverage_chart, curve_chart, ic_chart
from stockenh.commands.evaluate.panel import Tranches, evaluate_panel
from stockenh.commands.evaluate.panel_figures import panel_charts
from stockenh.commands.evaluate.panel_tables import panel_grids
from stockenh.commands.evaluate.paths import assembled, path_figures, require_combinations
from stockenh.commands.evaluate.rows import (
    PartForecasts,
    Selection,
    baselines_here,
    forecast_rows,
    load,
    select_rows,
)
from stockenh.commands.evaluate.sentences import notes, verdicts
from stockenh.commands.evaluate.tables import EXECUTIONS, grids, header, part_line
from stockenh.commands.train.figures import reliability_chart
from stockenh.commands.trained import Trained, is_data_of
from stockenh.config import build
from stockenh.config.schema import EvaluateRunConfig, parse, to_dict
from stockenh.data.splits import Split
from stockenh.data.targets import Relative
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.baselines import MOMENTUM_BARS
from stockenh.evaluation.bootstrap import Floats, Resampling
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.pinball import quantile_figures
from stockenh.evaluation.portfolio import Curve, next_bar_curves, strategy_figures
from stockenh.evaluation.reliability import reliability_intervals
from stockenh.evaluation.summary import (
    CALIBRATED,
    MODEL,
    OWN,
    coverage_by_rule,
    evaluate_part,
    implausible,
)
from stockenh.inference.calibration import reliability_curves
from stockenh.models.cpu.memory import default_threads
from stockenh.report.table import as_markdown, as_table, findings_summary, of_target
from stockenh.report.terminal import counted_progress, embedding_progress, print_files, print_line
from stockenh.storage.files import write_atomic, write_json
from stockenh.storage.run_folder import RunFolder

PICTURES = ("baselines", "reliability", "coverage", "ic", "curve", "quantiles", "tranches", "decay", "years")

Days = NDArray[np.datetime64]


def evaluate_run(
    folder: RunFolder, weights: str | None = None, config: EvaluateRunConfig | None = None
) -> dict[str, Any]:
    """All figures of a run on its test part, as in evaluation.json; prints and writes nothing.

    config: the run's own with other settings of `evaluate` and `tta`; None: as it was trained.
    Raises ConfigError, DataError or RunFolderError, as `stockenh evaluate` does.
    """
    trained = Trained.open(folder, weights)
    with open(os.devnull, "w") as nowhere:
        config = config or parse(to_dict(trained.run), EvaluateRunConfig)
        found, *_ = evaluation(config, [trained], Console(file=nowhere))
    return found


def evaluate_runs(
    config: EvaluateRunConfig, runs: Sequence[Trained], directory: Path, console: Console
) -> dict[str, Any]:
    """Evaluates runs, several as one; leaves evaluation.json, .md and pictures, prints the tables.

    config: that of the first run, with the settings of the command line.
    """
    found, forecasts, curves, tranches = evaluation(config, runs, console)
    write_json(directory / "evaluation.json", found)
    tables, lines = [*panel_grids(found), *grids(found)], notes(found)
    pictures = _pictures(found, forecasts, curves, tranches, directory)
    page = [*header(found), "", *(as_markdown(table) for table in tables), *(f"- {line}" for line in lines)]
    page += ["", *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures), ""]
    write_atomic(directory / "evaluation.md", "\n".join(page).encode())
    for verdict in found["verdict"].values():
        print_line(console, f"verdict  {verdict['text']}")
    print_line(console, f"evaluate {part_line(found)}")
    for table in tables:
        if table.on_screen:
            console.print(as_table(table))
            console.print()
    files = (directory / "evaluation.md", directory / "evaluation.json", *pictures)
    for line in lines:
        print_line(console, line)
    print_files(console, "report", files)
    return found


def evaluation(
    config: EvaluateRunConfig, runs: Sequence[Trained], console: Console
) -> tuple[dict[str, Any], PartForecasts, dict[str, Curve], Tranches]:
    """The figures, the forecasts that they are of, the curves of the next bar by strategy, and those of the
    tranches."""
    runs = _ensembles(runs)
    selections = _select(config, runs, console)
    steps = sum(2 + len(s.prepared.windows.horizons) for s in selections)
    device = build.device(config.device)
    each = []
    with counted_progress(console, "forecasting", steps) as advance:
        for trained, selection in zip(runs, selections, strict=True):
            net = trained.net(selection.prepared, device)
            torch.set_num_threads(config.threads or default_threads(net))
            each.append(forecast_rows(config, trained, selection, device, advance))
    paths = assembled(runs, selections, each)
    pooled = paths[0] if paths else PartForecasts.pooled(each)
    resampling = Resampling(config.evaluate.block, config.evaluate.resamples, config.seed)
    steps = len(pooled.forecasts) * len(pooled.part.horizons)
    with counted_progress(console, "resampling", steps) as advance:
        horizons = evaluate_part(pooled.part, pooled.forecasts, resampling, advance)
    curves, curve = _curve(config, pooled, resampling)
    panel, tranches = evaluate_panel(pooled, selections[0].prepared.windows, config.evaluate, resampling)
    quantiles = pooled.quantiles and quantile_figures(pooled.part, pooled.quantiles, resampling)
    found: dict[str, Any] = {
        **_about(config, runs, selections, pooled, resampling, len(paths)),
        "horizons": horizons,
        "panel": panel,
        "coverage": coverage_by_rule(pooled.part, pooled.up_prob, pooled.spread, resampling),
        "curve": curve,
        "folds": _folds(runs, each, resampling) if len(runs) > 1 and not paths else None,
        "quantiles": quantiles,
        "paths": path_figures(paths) if paths else None,
        "implausible": [] if config.data.generated else implausible(horizons),
    }
    return {"verdict": verdicts(found), **found}, pooled, curves, tranches


def _pictures(
    found: dict[str, Any],
    forecasts: PartForecasts,
    curves: dict[str, Curve],
    tranches: Tranches,
    directory: Path,
) -> list[Path]:
    """Draws what there is; a picture of an earlier evaluation that has no part in this one goes."""
    paths = {name: directory / f"evaluation_{name}.png" for name in PICTURES}
    for path in paths.values():
        path.unlink(missing_ok=True)
    about, part = part_line(found), forecasts.part
    drawn = panel_charts(found, tranches, about, paths)
    drawn.append(baselines_chart(found["horizons"], found["own"], about, paths["baselines"]))
    if CALIBRATED in forecasts.forecasts:
        labels = part.y_ret if part.y_dir is None else part.y_dir
        each = [np.stack([forecast.score for forecast in forecasts.forecasts[name]], 1) for name in OWN]
        raw, calibrated = (reliability_curves(up_prob, labels, part.horizons) for up_prob in each)
        ends = reliability_intervals(each[-1], labels, part.asof, part.horizons, Resampling())
        drawn.append(reliability_chart(raw, calibrated, paths["reliability"], f"the {found['part']}", ends))
    drawn.append(coverage_chart(found["coverage"], about, paths["coverage"]))
    daily = {f"h{h}": _rank_ics(forecasts, column) for column, h in enumerate(part.horizons)}
    if all(len(values) > 1 for _, values in daily.values()):
        drawn.append(ic_chart(daily, about, paths["ic"]))
    if curves:
        assert forecasts.next_ret is not None
        days = np.unique(part.asof[np.isfinite(forecasts.next_ret)])
        of = found["curve"]
        about += (
            f"\nby the probability of {of['horizon']} bars, {EXECUTIONS[of['execution']]}; costs: "
            f"{of['cost_bps']:g} basis points of what is traded"
        )
        net = {name: curve.net for name, curve in curves.items()}
        drawn.append(curve_chart(days, net, about, paths["curve"]))
    return drawn


def _rank_ics(forecasts: PartForecasts, column: int) -> tuple[Days, Floats]:
    """Dates and rank ICs of the model's returns on the dates that have one."""
    signal = forecasts.forecasts[MODEL][column].signal
    assert signal is not None
    labelled = forecasts.part.labelled(column)
    found = daily_ic(signal[labelled.rows], labelled.raw_ret, labelled.date, len(labelled.days)).rank_ic
    return labelled.days[np.isfinite(found)], found[np.isfinite(found)]


def _ensembles(runs: Sequence[Trained]) -> list[Trained]:
    """Runs with the same test part as one forecaster each; folds stay apart."""
    of_part: dict[Split, list[Trained]] = {}
    for trained in runs:
        of_part.setdefault(trained.run.split, []).append(trained)
    return [together(members) for members in of_part.values()]


def _select(config: EvaluateRunConfig, runs: Sequence[Trained], console: Console) -> list[Selection]:
    """The rows of every run; data are read once."""
    first, horizons, wanted = runs[0], list(config.data.horizons), config.evaluate
    first.require_inputs(config, "run", ("model", "embedding"))
    for trained in runs:
        _require_same_recipe(first, trained)
        trained.require_embedding(config.embedding)
    require_combinations(runs)
    block = Resampling(wanted.block).block_of(horizons)
    if block < max(horizons):
        raise ConfigError(
            f"evaluate.block={block} must be at least the largest of data.horizons={horizons}: labels "
            f"overlap on that many bars"
        )
    if wanted.horizon not in (None, *horizons):
        raise ConfigError(f"evaluate.horizon={wanted.horizon}: the run has {horizons}")
    with embedding_progress(console) as watch:
        prepared = load(config, first, build.device(config.device), watch)
    for line in findings_summary(prepared.findings):
        console.print(f"data     {line}")
    if len(runs) == 1:
        return [select_rows(config, first, prepared)]
    if not all(is_data_of(trained.folder, prepared.windows) for trained in runs):
        raise RunFolderError(
            "several runs are evaluated on their own test parts only, and the bars given are not those "
            "that all of them were trained on: name these with data.path=DIR"
        )
    selections = [select_rows(replace(config, split=run.run.split), run, prepared) for run in runs]
    if first.run.split.in_order:
        _require_disjoint_dates(runs, selections)
    return selections


def _require_same_recipe(first: Trained, other: Trained) -> None:
    """Raises ConfigError where two runs can't be pooled."""
    same = {
        "data": first.run.data == other.run.data,
        "model": first.run.model == other.run.model,
        "embedding": first.run.embedding.agrees_with(other.run.embedding),
        "target": first.run.target == other.run.target,
        "split": type(first.run.split) is type(other.run.split),
    }
    for name, agrees in same.items():
        if not agrees:
            raise ConfigError(
                f"run={other.folder} has another {name} than {first.folder}: only folds of one walk-forward "
                f"are evaluated together"
            )


def _require_disjoint_dates(runs: Sequence[Trained], selections: Sequence[Selection]) -> None:
    asof = [selection.prepared.windows.asof[selection.rows] for selection in selections]
    spans = sorted((a.min(), a.max(), str(run.folder)) for a, run in zip(asof, runs, strict=True))
    for (_, ended, before), (begins, _, after) in itertools.pairwise(spans):
        if begins <= ended:
            raise ConfigError(
                f"run={before} and run={after} are evaluated on the same dates ({str(begins)[:10]} to "
                f"{str(ended)[:10]}): pool folds that differ in split.fold"
            )


def _about(
    config: EvaluateRunConfig,
    runs: Sequence[Trained],
    selections: Sequence[Selection],
    forecasts: PartForecasts,
    resampling: Resampling,
    paths: int,
) -> dict[str, Any]:
    several = (
        f"path 1 of {paths} from {len(runs)} combinations" if paths else f"test parts of {len(runs)} folds"
    )
    asof = forecasts.part.asof.astype("datetime64[D]")
    first, of = selections[0], of_target(config.target.name)
    fitted_on = [len(selection.train) for selection in selections if selection.train is not None]
    return {
        "stockenh": stockenh.__version__,
        "runs": [trained.to_dict() for trained in runs],
        "data": first.prepared.windows.digest(),
        "target": config.target.name,
        "relative": isinstance(config.target, Relative),  # up is above the day's median
        "generated": config.data.generated,
        "part": first.title if len(runs) == 1 else f"{several}{of}",
        "is_test": all(selection.is_test for selection in selections),
        "windows": len(asof),
        "dates": len(np.unique(asof)),
        "symbols": len(np.unique(forecasts.symbol)),
        "from": str(asof.min()),
        "to": str(asof.max()),
        "own": [name for name in OWN if name in forecasts.forecasts],
        "baselines": [name for name in baselines_here() if name in forecasts.forecasts],
        "fitted_on": None if first.train is None else sum(fitted_on),
        "momentum_bars": min(MOMENTUM_BARS, first.prepared.windows.lookback - 1),
        "bootstrap": {
            "block": resampling.block_of(forecasts.part.horizons),
            "resamples": resampling.resamples,
        },
        "views": config.tta.views if config.data.brings_bars else 0,
        "members": max(len(getattr(trained, "members", (trained,))) for trained in runs),
        "has_bars": forecasts.next_ret is not None,
        "warnings": list(dict.fromkeys(line for selection in selections for line in selection.warnings)),
    }


def _folds(
    runs: Sequence[Trained], each: Sequence[PartForecasts], resampling: Resampling
) -> list[dict[str, Any]]:
    """Each run by itself, with its own forecasts only."""
    found = []
    for trained, fold in zip(runs, each, strict=True):
        asof = fold.part.asof.astype("datetime64[D]")
        own = {name: fold.forecasts[name] for name in OWN if name in fold.forecasts}
        found.append(
            {
                "run": trained.source,
                "weights": trained.name,
                "from": str(asof.min()),
                "to": str(asof.max()),
                "horizons": evaluate_part(fold.part, own, resampling),
            }
        )
    return sorted(found, key=lambda fold: str(fold["from"]))


def _curve(
    config: EvaluateRunConfig, forecasts: PartForecasts, resampling: Resampling
) -> tuple[dict[str, Curve], dict[str, Any] | None]:
    """Strategies on the next bar; none where there are no bars, or no window has the bars to trade on."""
    if forecasts.next_ret is None or not np.isfinite(forecasts.next_ret).any():
        return {}, None
    horizons, wanted = forecasts.part.horizons, config.evaluate
    horizon, cost = wanted.horizon or horizons[0], wanted.cost_bps
    name = CALIBRATED if CALIBRATED in forecasts.forecasts else MODEL
    prob = forecasts.forecasts[name][horizons.index(horizon)].score
    days, curves = next_bar_curves(forecasts.part.asof, forecasts.symbol, prob, forecasts.next_ret, cost)
    strategies = strategy_figures(curves, days, resampling.draw(len(days), horizons))
    about = {
        "execution": wanted.execution,
        "horizon": horizon,
        "forecast": name,
        "cost_bps": cost,
        "dates": len(days),
    }
    return curves, {**about, "strategies": strategies}
