"""The honest report on a finished run, or on the folds of a walk-forward: figures, tables, pictures, files.

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
from stockenh.commands.evaluate.figures import baselines_chart, coverage_chart, curve_chart, ic_chart
from stockenh.commands.evaluate.rows import (
    Chosen,
    Judged,
    baselines_of,
    choose,
    forecast_rows,
    is_own,
    load,
    work,
)
from stockenh.commands.evaluate.tables import TITLES, grids, header, notes, part_line
from stockenh.commands.train.figures import reliability_chart
from stockenh.commands.trained import Trained, require_same_weights
from stockenh.config import build
from stockenh.config.schema import EvaluateRunConfig, parse, to_dict
from stockenh.errors import ConfigError, RunFolderError
from stockenh.evaluation.baselines import MOMENTUM_BARS
from stockenh.evaluation.bootstrap import Floats
from stockenh.evaluation.ic import daily_ic
from stockenh.evaluation.portfolio import Curve, next_bar_curves, strategy_figures
from stockenh.evaluation.summary import (
    CALIBRATED,
    MODEL,
    OWN,
    Resampling,
    implausible,
    judge,
    judge_coverage,
)
from stockenh.inference.calibration import reliability_curves
from stockenh.models.cpu.memory import default_threads
from stockenh.report.table import as_markdown, as_table, findings_summary
from stockenh.report.terminal import counted_progress, embedding_progress
from stockenh.storage.files import write_atomic, write_json
from stockenh.storage.run_folder import RunFolder

PICTURES = ("baselines", "reliability", "coverage", "ic", "curve")

Days = NDArray[np.datetime64]


def evaluate_run(
    folder: RunFolder, weights: str | None = None, config: EvaluateRunConfig | None = None
) -> dict[str, Any]:
    """All figures of a run on its test part, as in evaluation.json, without a word or a file.

    config: the run's own with other settings of `evaluate` and `tta`; None: as it was trained.
    Raises what `stockenh evaluate` says: ConfigError, DataError, RunFolderError.
    """
    trained = Trained.open(folder, weights)
    with open(os.devnull, "w") as nowhere:
        config = config or parse(to_dict(trained.run), EvaluateRunConfig)
        found, _, _ = evaluation(config, [trained], Console(file=nowhere))
    return found


def evaluate_runs(
    config: EvaluateRunConfig, runs: Sequence[Trained], into: Path, out: Console
) -> dict[str, Any]:
    """Judges runs, several as one; leaves evaluation.json, .md and pictures in `into`, prints the tables.

    config: that of the first run, with what the command line says.
    """
    found, judged, curves = evaluation(config, runs, out)
    write_json(into / "evaluation.json", found)
    tables = grids(found)
    pictures = _pictures(found, judged, curves, into)
    lines = [*header(found), "", *(as_markdown(table) for table in tables)]
    lines += [f"- {line}" for line in notes(found)]
    lines += ["", *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in pictures), ""]
    write_atomic(into / "evaluation.md", "\n".join(lines).encode())
    out.print(f"evaluate {part_line(found)}", soft_wrap=True, markup=False)
    for table in tables:
        if table.on_screen:
            out.print(as_table(table))
            out.print()
    for line in notes(found):
        out.print(line, soft_wrap=True, markup=False)
    for path in (into / "evaluation.md", into / "evaluation.json", *pictures):
        out.print(f"report   {path}", soft_wrap=True, markup=False)
    return found


def evaluation(
    config: EvaluateRunConfig, runs: Sequence[Trained], out: Console
) -> tuple[dict[str, Any], Judged, dict[str, Curve]]:
    """The figures, the forecasts that they are of, and the curves of the next bar by strategy."""
    chosen = _chosen(config, runs, out)
    steps = sum(work(len(of.prepared.windows.horizons)) for of in chosen)
    on = build.device(config.device)
    with counted_progress(out, "forecasting", steps) as advance:
        each = []
        for trained, of in zip(runs, chosen, strict=True):
            torch.set_num_threads(config.threads or default_threads(trained.net(of.prepared, on)))
            each.append(forecast_rows(config, trained, of, on, advance))
    pooled = Judged.pooled(each)
    resampling = Resampling(config.evaluate.block, config.evaluate.resamples, config.seed)
    with counted_progress(out, "resampling", len(pooled.forecasts) * len(pooled.part.horizons)) as advance:
        judged = judge(pooled.part, pooled.forecasts, resampling, advance)
    found = _about(config, runs, chosen, pooled, resampling)
    found["horizons"] = judged
    found["coverage"] = None
    if pooled.up_prob is not None and pooled.uncertainty is not None:
        found["coverage"] = judge_coverage(pooled.part, pooled.up_prob, pooled.uncertainty, resampling)
    curves, found["curve"] = _curve(config, pooled, resampling)
    found["folds"] = _folds(runs, each, resampling) if len(runs) > 1 else None
    found["implausible"] = implausible(judged) if pooled.part.best_prob is None else []
    return found, pooled, curves


def _pictures(found: dict[str, Any], judged: Judged, curves: dict[str, Curve], into: Path) -> list[Path]:
    """Draws what there is; a picture of an earlier evaluation that has no part in this one goes."""
    paths = {name: into / f"evaluation_{name}.png" for name in PICTURES}
    for path in paths.values():
        path.unlink(missing_ok=True)
    of = part_line(found)
    drawn = [baselines_chart(found["horizons"], found["own"], TITLES, of, paths["baselines"])]
    part = judged.part
    if CALIBRATED in judged.forecasts:
        said, mended = (
            reliability_curves(
                np.stack([of_horizon.score for of_horizon in judged.forecasts[name]], 1),
                part.y_ret,
                part.horizons,
            )
            for name in OWN
        )
        drawn.append(reliability_chart(said, mended, paths["reliability"], f"the {found['part']}"))
    if found["coverage"]:
        drawn.append(coverage_chart(found["coverage"], of, paths["coverage"]))
    daily = {f"h{h}": _rank_ics(judged, column) for column, h in enumerate(part.horizons)}
    if all(len(values) > 1 for _, values in daily.values()):
        drawn.append(ic_chart(daily, of, paths["ic"]))
    if curves:
        assert judged.next_ret is not None
        days_of_curve = np.unique(part.asof[np.isfinite(judged.next_ret)])
        net = {name: curve.net for name, curve in curves.items()}
        about = (
            f"{of}\nby the probability of {found['curve']['horizon']} bars; costs: "
            f"{found['curve']['cost_bps']:g} basis points of what is traded"
        )
        drawn.append(curve_chart(days_of_curve, net, about, paths["curve"]))
    return drawn


def _rank_ics(judged: Judged, column: int) -> tuple[Days, Floats]:
    """Dates and rank ICs of the model's returns where there are any."""
    signal = judged.forecasts[MODEL][column].signal
    assert signal is not None
    labelled = np.isfinite(judged.part.y_ret[:, column])
    days, date = np.unique(judged.part.asof[labelled], return_inverse=True)
    found = daily_ic(signal[labelled], judged.part.y_ret[labelled, column], date, len(days)).rank_ic
    return days[np.isfinite(found)], found[np.isfinite(found)]


def _chosen(config: EvaluateRunConfig, runs: Sequence[Trained], out: Console) -> list[Chosen]:
    """The rows of every run; data are read once."""
    first = runs[0]
    on = build.device(config.device)
    first.require_inputs(config, "run", ("model", "embedding"))
    for trained in runs:
        _require_kin(first, trained)
        require_same_weights(trained.folder, config.embedding)
    block = Resampling(config.evaluate.block).block_of(config.data.horizons)
    if block < max(config.data.horizons):
        raise ConfigError(
            f"evaluate.block={block} must be at least the largest of data.horizons="
            f"{list(config.data.horizons)}: labels overlap on that many bars"
        )
    if config.evaluate.horizon not in (None, *config.data.horizons):
        raise ConfigError(
            f"evaluate.horizon={config.evaluate.horizon}: the run has {list(config.data.horizons)}"
        )
    with embedding_progress(out) as watch:
        prepared = load(config, first, on, watch)
    for line in findings_summary(prepared.findings):
        out.print(f"data     {line}", markup=False)
    if len(runs) > 1 and not all(is_own(trained, prepared.windows) for trained in runs):
        raise RunFolderError(
            "several runs are judged on their own test parts only, and the bars at hand are not those that "
            "all of them were trained on: name these with data.path=DIR"
        )
    configs = [config] if len(runs) == 1 else [replace(config, split=run.run.split) for run in runs]
    chosen = [choose(of, trained, prepared) for of, trained in zip(configs, runs, strict=True)]
    _refuse_overlap(runs, chosen)
    return chosen


def _require_kin(first: Trained, other: Trained) -> None:
    """Raises ConfigError where two runs can't be pooled."""
    same = {
        "data": first.run.data == other.run.data,
        "model": first.run.model == other.run.model,
        "embedding": first.run.embedding.agrees_with(other.run.embedding),
        "split": type(first.run.split) is type(other.run.split),
    }
    for name, agrees in same.items():
        if not agrees:
            raise ConfigError(
                f"run={other.folder} has another {name} than {first.folder}: only folds of one walk-forward "
                f"are judged together"
            )


def _refuse_overlap(runs: Sequence[Trained], chosen: Sequence[Chosen]) -> None:
    spans = []
    for trained, of in zip(runs, chosen, strict=True):
        asof = of.prepared.windows.asof[of.rows]
        spans.append((asof.min(), asof.max(), str(trained.folder)))
    spans.sort()
    for (_, ended, before), (begins, _, after) in itertools.pairwise(spans):
        if begins <= ended:
            raise ConfigError(
                f"run={before} and run={after} are judged on the same dates ({str(begins)[:10]} to "
                f"{str(ended)[:10]}): pool folds that differ in split.fold"
            )


def _about(
    config: EvaluateRunConfig,
    runs: Sequence[Trained],
    chosen: Sequence[Chosen],
    judged: Judged,
    resampling: Resampling,
) -> dict[str, Any]:
    asof = judged.part.asof.astype("datetime64[D]")
    horizons = judged.part.horizons
    lookback = chosen[0].prepared.windows.lookback
    return {
        "stockenh": stockenh.__version__,
        "runs": [trained.to_dict() for trained in runs],
        "data": chosen[0].prepared.windows.digest(),
        "part": chosen[0].title if len(runs) == 1 else f"test parts of {len(runs)} folds",
        "is_test": all(of.is_test for of in chosen),
        "windows": len(asof),
        "dates": len(np.unique(asof)),
        "symbols": len(np.unique(judged.symbol)),
        "from": str(asof.min()),
        "to": str(asof.max()),
        "own": [name for name in OWN if name in judged.forecasts],
        "baselines": [name for name in baselines_of(config) if name in judged.forecasts],
        "fitted_on": None
        if chosen[0].train is None
        else sum(len(rows) for of in chosen if (rows := of.train) is not None),
        "momentum_bars": min(MOMENTUM_BARS, lookback - 1),
        "bootstrap": {
            "block": resampling.block_of(horizons),
            "resamples": resampling.resamples,
        },
        "views": config.tta.views if judged.uncertainty is not None else 0,
        "warnings": list(dict.fromkeys(warning for of in chosen for warning in of.warnings)),
    }


def _folds(runs: Sequence[Trained], each: Sequence[Judged], resampling: Resampling) -> list[dict[str, Any]]:
    """Each run by itself, with its own forecasts only."""
    found = []
    for trained, of in zip(runs, each, strict=True):
        asof = of.part.asof.astype("datetime64[D]")
        own = {name: of.forecasts[name] for name in OWN if name in of.forecasts}
        judged = judge(of.part, own, resampling)
        found.append(
            {
                "run": str(trained.folder),
                "weights": trained.name,
                "from": str(asof.min()),
                "to": str(asof.max()),
                "horizons": judged,
            }
        )
    return sorted(found, key=lambda fold: str(fold["from"]))


def _curve(
    config: EvaluateRunConfig, judged: Judged, resampling: Resampling
) -> tuple[dict[str, Curve], dict[str, Any] | None]:
    """Strategies on the next bar; none where there are no bars."""
    if judged.next_ret is None:
        return {}, None
    horizons = judged.part.horizons
    horizon = config.evaluate.horizon or horizons[0]
    name = CALIBRATED if CALIBRATED in judged.forecasts else MODEL
    prob = judged.forecasts[name][horizons.index(horizon)].score
    cost = config.evaluate.cost_bps
    days, curves = next_bar_curves(judged.part.asof, judged.symbol, prob, judged.next_ret, cost)
    strategies = strategy_figures(curves, days, resampling.draw(len(days), horizons))
    about = {"horizon": horizon, "forecast": name, "cost_bps": cost, "dates": len(days)}
    return curves, {**about, "strategies": strategies}
