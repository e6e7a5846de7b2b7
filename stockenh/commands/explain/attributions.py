"""What a finished run's forecasts come from: attributions to every input, and the model's own weights.

Legend: k windows, H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

import stockenh
from stockenh.commands.explain.show import (
    attention_chart,
    attributions_chart,
    bars_chart,
    groups_table,
    inputs_table,
    majority_lines,
    weights_chart,
    weights_table,
)
from stockenh.commands.frames import dates_of, evenly, write_frame
from stockenh.commands.trained import LoadedRun, Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import ExplainRunConfig
from stockenh.data.batches import ReadyWindows
from stockenh.data.features import feature_family
from stockenh.errors import ConfigError, StockenhError
from stockenh.evaluation.attribution import (
    TOLERANCE,
    Attribution,
    Explained,
    Inputs,
    Scalar,
    attribute,
    has_captum,
    not_above_majority,
    weight_figures,
)
from stockenh.inference.predict import CHUNK
from stockenh.models import EMBEDDING, PRICE_SERIES, Interpretable
from stockenh.models.categories import OnEmbeddings, on_embeddings
from stockenh.report.table import of_target
from stockenh.report.terminal import PART_NAMES, counted_progress, print_files, print_line
from stockenh.storage.files import write_json

MODEL_OUTPUTS = {"up": "up_logits", "ret": "ret"}
FILES = (
    "explain.json", "attributions.parquet", "attributions.csv", "attributions.png", "bars.png",
    "weights.png", "attention.png",
)  # fmt: skip
BASELINE_WINDOWS = 4096  # of train, evenly spread
NO_CAPTUM = "integrated gradients need captum: pip install 'stockenh[explain]'"


class ExplainError(StockenhError):
    """Attributions that are not available, or don't add up to the forecast."""


def explain_run(
    config: ExplainRunConfig, trained: Trained, directory: Path, console: Console
) -> dict[str, Any]:
    """Explains an even sample of the test part; leaves explain.json, attributions, pictures, prints tables.

    config: the run's. Raises ExplainError where attributions miss the forecast by more than 1%, and where
    captum is missing and the model has no weights of its own to show.
    """
    columns = _columns(config)
    device = build.device(config.device)
    if device.type == "mps":  # which has no float64, that sums of attributions need
        device = torch.device("cpu")
    run = LoadedRun.load(config, trained, device, console)
    if not has_captum() and not isinstance(run.net, Interpretable):
        raise ExplainError(NO_CAPTUM)
    windows, part = run.prepared.windows, run.held_out_part
    whole = run.prepared.rows[part]
    rows = evenly(whole, config.explain.windows)
    counts = f"{len(rows):,} of {len(whole):,} {PART_NAMES[part]} windows, evenly spread"
    console.print(f"explain  {counts}; {trained.name} weights{of_target(config.target.name)}")
    for name in FILES:
        (directory / name).unlink(missing_ok=True)
    asof = windows.asof[rows].astype("datetime64[D]")
    found: dict[str, Any] = {
        "stockenh": stockenh.__version__,
        **trained.to_dict(),
        "data": windows.digest(),
        "target": config.target.name,
        "part": part,
        "windows": len(rows),
        "from": str(asof.min()),
        "to": str(asof.max()),
        "scores": {},
    }
    if part == "test":
        own = run.predict(whole)
        kept = ("n", "accuracy", "accuracy_low", "accuracy_high", "majority")
        scores = run.scores(own.ret, own.up_prob, whole).items()
        found["scores"] = {horizon: {key: m[key] for key in kept} for horizon, m in scores}
    found["no_better_than_majority"] = not_above_majority(found["scores"])
    if isinstance(run.net, Interpretable):
        found["weights_of_model"] = _weights(run, run.net, rows)
    if has_captum():
        explained, groups = _attributions(run, rows, columns, console), input_groups(run.prepared)
        found["groups"] = groups
        found["attributions"] = {
            output: {f"h{e.horizon}": e.figures(groups) for e in explained if e.output == output}
            for output in config.explain.outputs
        }
        _write_windows(run.prepared, rows, explained, directory)
    write_json(directory / "explain.json", found)
    _show(found, directory, console)
    return found


def input_groups(prepared: Prepared) -> dict[str, str]:
    """Every named input in the order of its attribution, and its group."""
    found = {name: "price and volume" for name in PRICE_SERIES}
    windows = prepared.windows
    own = dict.fromkeys(windows.own_names, "own columns")
    found |= {name: own.get(name, feature_family(name)) for name in windows.input_names}
    return found | ({EMBEDDING: EMBEDDING} if prepared.embedding.shape[1] else {})


def _columns(config: ExplainRunConfig) -> dict[int, int]:
    """The horizons to explain, and their place among the run's. Raises ConfigError."""
    known = list(config.data.horizons)
    wanted = known if config.explain.horizons is None else list(config.explain.horizons)
    if unknown := [horizon for horizon in wanted if horizon not in known]:
        raise ConfigError(f"explain.horizons={wanted}: the run has {known}, not {unknown[0]}")
    return {horizon: known.index(horizon) for horizon in wanted}


@torch.no_grad()
def _weights(run: LoadedRun[ExplainRunConfig], net: Interpretable, rows: NDArray[np.int64]) -> dict[str, Any]:
    chunks = [net.interpret(*micro.inputs) for micro in run.ready.sweep(rows, CHUNK)]
    return weight_figures(
        _array(torch.cat([c.price for c in chunks])),
        _array(torch.cat([c.static for c in chunks])),
        _array(torch.cat([c.attention.mean(1) for c in chunks])),
        chunks[0].static_names(run.prepared.windows.input_names),
        PRICE_SERIES,
    )


def _attributions(
    run: LoadedRun[ExplainRunConfig], rows: NDArray[np.int64], columns: Mapping[int, int], console: Console
) -> list[Explained]:
    """Of every output and horizon. Raises ExplainError where one of them misses its forecast."""
    wanted = run.config.explain
    (whole,) = run.ready.sweep(rows, len(rows))
    opened = on_embeddings(run.net)
    net, inputs = opened or run.net, _embedded(opened, whole.inputs)
    baseline = average_window(run.ready, run.prepared.rows["train"], opened)
    run.net.requires_grad_(False)  # slopes in the inputs alone
    found = []
    steps = len(rows) * len(columns) * len(wanted.outputs)
    with counted_progress(console, "integrating gradients", steps) as advance:
        for output in wanted.outputs:
            for horizon, column in columns.items():
                made = attribute(
                    _output(net, MODEL_OUTPUTS[output], column), inputs, baseline,
                    steps=wanted.steps, max_steps=wanted.max_steps, advance=advance,
                )  # fmt: skip
                _refuse_incomplete(made, output, horizon, wanted.max_steps)
                if opened is not None:
                    made = replace(made, context=opened.by_name(made.context))
                unit = run.fitted.return_std[column] if output == "ret" else 1.0
                found.append(_explained(made, output, horizon, unit, input_groups(run.prepared)))
    return found


def _embedded(opened: OnEmbeddings | None, inputs: Inputs) -> Inputs:
    return inputs if opened is None else (inputs[0], inputs[1], opened.embedded(inputs[2]))


def average_window(
    ready: ReadyWindows, train: NDArray[np.int64], opened: OnEmbeddings | None = None
) -> Inputs:
    """The baseline, one window: bars, embedding and context at their train means, embedded categories too.

    Bars that stand still would be a simpler baseline. But a layer norm of inputs near 0 jumps, which takes
    two to four times the steps, and every attribution to prices would hold the difference between an average
    window and a flat one.
    """
    (sample,) = ready.sweep(evenly(train, BASELINE_WINDOWS), BASELINE_WINDOWS)
    means = (x.double().mean(0, keepdim=True).float() for x in _embedded(opened, sample.inputs))
    bars, vector, middle = means
    middle[:, : opened.context if opened else None] = 0  # standardised by the train mean
    return bars, vector, middle


def _output(net: nn.Module, name: str, column: int) -> Scalar:
    def output(x_price: Tensor, x_embedding: Tensor, x_ctx: Tensor) -> Tensor:
        values: Tensor = net(x_price, x_embedding, x_ctx)[name]
        return values[:, column]

    return output


def _refuse_incomplete(made: Attribution, output: str, horizon: int, max_steps: int) -> None:
    worst = float(made.gap.max())
    if not worst <= TOLERANCE:
        far = int((~(made.gap <= TOLERANCE)).sum())
        raise ExplainError(
            f"{output} at {horizon} bars: the attributions of {far} window(s) miss the forecast by up to "
            f"{worst:.1%} with {int(made.steps.max())} steps, more than {TOLERANCE:.0%}: raise "
            f"explain.max_steps={max_steps}"
        )


def _explained(
    made: Attribution, output: str, horizon: int, unit: float, groups: Mapping[str, str]
) -> Explained:
    """In the units of a forecast, inputs by name."""
    price = _array(made.price) * unit
    columns = [price.sum(1), _array(made.context) * unit]
    if EMBEDDING in groups:
        columns.append(_array(made.embedding)[:, None] * unit)
    return Explained(
        output=output,
        horizon=horizon,
        names=tuple(groups),
        inputs=np.concatenate(columns, axis=1),
        price=price,
        value=_array(made.value) * unit,
        baseline=made.baseline * unit,
        gap=_array(made.gap),
        steps=made.steps.numpy(),
    )


def _write_windows(
    prepared: Prepared, rows: NDArray[np.int64], explained: list[Explained], directory: Path
) -> None:
    """A row per window, output and horizon: the forecast, the baseline's, and what each input adds."""
    windows = prepared.windows
    dates = dates_of(windows.asof[rows])
    keys = ("symbol", "date", "output", "horizon", "value", "baseline", "gap", "steps")
    parts = [
        pl.DataFrame(
            {
                "symbol": np.array(windows.symbols)[windows.symbol[rows]],
                "date": dates,
                "output": [e.output] * len(rows),
                "horizon": np.full(len(rows), e.horizon),
                "value": e.value,
                "baseline": np.full(len(rows), e.baseline),
                "gap": e.gap,
                "steps": e.steps,
                # an own column may be called value, say
                **{f"input {n}" if n in keys else n: e.inputs[:, i] for i, n in enumerate(e.names)},
            }
        )
        for e in explained
    ]
    write_frame(pl.concat(parts), directory / "attributions")


def _show(found: Mapping[str, Any], directory: Path, console: Console) -> None:
    """Tables, the reservations that go with them, and where everything is."""
    about = f"{found['windows']:,} windows of {PART_NAMES[found['part']]}, {found['weights']} weights"
    about += of_target(found["target"])
    if weights := found.get("weights_of_model"):
        console.print(weights_table(weights))
        console.print()
        weights_chart(weights, about, directory / "weights.png")
        attention_chart(weights["attention"], about, directory / "attention.png")
    if attributions := found.get("attributions"):
        console.print(groups_table(attributions))
        console.print()
        console.print(inputs_table(attributions, found["groups"]))
        attributions_chart(attributions, about, directory / "attributions.png")
        bars_chart(attributions, about, directory / "bars.png")
    else:
        console.print(NO_CAPTUM)
    for line in majority_lines(found):
        print_line(console, line)
    print_files(console, "explain", (path for name in FILES if (path := directory / name).exists()))


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
