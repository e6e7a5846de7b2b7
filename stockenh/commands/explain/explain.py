"""What a finished run's forecasts come from: attributions to every input, and the model's own weights.

Legend: k windows, H horizons.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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
from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import ExplainRunConfig
from stockenh.data.batches import ReadyWindows
from stockenh.data.features.context import feature_family
from stockenh.data.fitted import Fitted
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
from stockenh.evaluation.metrics import part_metrics
from stockenh.inference.predict import CHUNK, predict
from stockenh.models.cpu.memory import default_threads
from stockenh.models.spec import EMBEDDING, PRICE_SERIES, Interpretable
from stockenh.report.terminal import PART_NAMES, counted_progress, show_data
from stockenh.storage.files import write_atomic, write_json

Entry = TypeVar("Entry", bound=np.generic)

MODEL_OUTPUTS = {"up": "up_logits", "ret": "ret"}
FILES = (
    "explain.json", "attributions.parquet", "attributions.csv", "attributions.png", "bars.png",
    "weights.png", "attention.png",
)  # fmt: skip
BASELINE_WINDOWS = 4096  # of train, evenly spread
NO_CAPTUM = "integrated gradients need captum: pip install 'stockenh[explain]'"


class ExplainError(StockenhError):
    """Attributions that can't be had, or don't add up to the forecast."""


def explain_run(config: ExplainRunConfig, trained: Trained, into: Path, out: Console) -> dict[str, Any]:
    """Explains an even sample of the test part; leaves explain.json, attributions, pictures, prints tables.

    config: the run's. Raises ExplainError where attributions miss the forecast by more than 1%, and where
    captum is missing and the model has no weights of its own to show.
    """
    trained.require_inputs(config, "run", ("model", "embedding"))
    columns = _columns(config)
    on = build.device(config.device)
    prepared = build.data(config, on)
    show_data(prepared.windows, prepared.rows, prepared.findings, out)
    ready, fitted = trained.ready(prepared, on)
    net = trained.net(prepared, on)
    if not has_captum() and not isinstance(net, Interpretable):
        raise ExplainError(NO_CAPTUM)
    torch.set_num_threads(config.threads or default_threads(net))
    part = "test" if "test" in prepared.rows else "train"
    rows = evenly(prepared.rows[part], config.explain.windows)
    counted = f"{len(rows):,} of {len(prepared.rows[part]):,} {PART_NAMES[part]} windows, evenly spread"
    out.print(f"explain  {counted}; {trained.name} weights")
    for name in FILES:
        (into / name).unlink(missing_ok=True)
    found = _about(trained, prepared, rows, part)
    found["scores"] = _scores(net, ready, prepared, fitted) if part == "test" else {}
    found["no_better_than_majority"] = not_above_majority(found["scores"])
    if isinstance(net, Interpretable):
        found["weights_of_model"] = _weights(net, ready, prepared, rows)
    if has_captum():
        explained = _attributions(net, ready, prepared, fitted, rows, config, columns, out)
        groups = input_groups(prepared)
        found["groups"] = groups
        found["attributions"] = {
            output: {f"h{e.horizon}": e.figures(groups) for e in explained if e.output == output}
            for output in config.explain.outputs
        }
        _write_windows(prepared, rows, explained, into)
    write_json(into / "explain.json", found)
    _show(found, into, out)
    return found


def evenly(rows: NDArray[Entry], count: int) -> NDArray[Entry]:
    """At most `count` of the rows, evenly spread, the first and the last among them."""
    if count >= len(rows):
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]


def input_groups(prepared: Prepared) -> dict[str, str]:
    """Every named input in the order of its attribution, and its group."""
    found = {name: "price and volume" for name in PRICE_SERIES}
    found |= {name: feature_family(name) for name in prepared.windows.context_names}
    return found | ({EMBEDDING: EMBEDDING} if prepared.embedding.shape[1] else {})


def _columns(config: ExplainRunConfig) -> dict[int, int]:
    """The horizons to explain, and their place among the run's. Raises ConfigError."""
    known = list(config.data.horizons)
    asked = known if config.explain.horizons is None else list(config.explain.horizons)
    if strange := [horizon for horizon in asked if horizon not in known]:
        raise ConfigError(f"explain.horizons={asked}: the run has {known}, not {strange[0]}")
    return {horizon: known.index(horizon) for horizon in asked}


def _about(trained: Trained, prepared: Prepared, rows: NDArray[np.int64], part: str) -> dict[str, Any]:
    asof = prepared.windows.asof[rows].astype("datetime64[D]")
    return {
        "stockenh": stockenh.__version__,
        **trained.to_dict(),
        "data": prepared.windows.digest(),
        "part": part,
        "windows": len(rows),
        "from": str(asof.min()),
        "to": str(asof.max()),
    }


def _scores(
    net: nn.Module, ready: ReadyWindows, prepared: Prepared, fitted: Fitted
) -> dict[str, dict[str, Any]]:
    """Accuracy on the whole test part, to tell whether there is anything to explain."""
    windows, rows = prepared.windows, prepared.rows["test"]
    own = predict(net, ready, rows, fitted)
    scores = part_metrics(own.ret, own.up_prob, windows.y_ret[rows], windows.asof[rows], windows.horizons)
    kept = ("n", "accuracy", "accuracy_low", "accuracy_high", "majority")
    return {horizon: {key: of[key] for key in kept} for horizon, of in scores.items()}


@torch.no_grad()
def _weights(
    net: Interpretable, ready: ReadyWindows, prepared: Prepared, rows: NDArray[np.int64]
) -> dict[str, Any]:
    chunks = [net.interpret(*micro.inputs) for micro in ready.sweep(rows, CHUNK)]
    return weight_figures(
        _array(torch.cat([c.price for c in chunks])),
        _array(torch.cat([c.static for c in chunks])),
        _array(torch.cat([c.attention.mean(1) for c in chunks])),
        chunks[0].static_names(prepared.windows.context_names),
        PRICE_SERIES,
    )


def _attributions(
    net: nn.Module, ready: ReadyWindows, prepared: Prepared, fitted: Fitted, rows: NDArray[np.int64],
    config: ExplainRunConfig, columns: Mapping[int, int], out: Console,
) -> list[Explained]:  # fmt: skip
    """Of every output and horizon. Raises ExplainError where one of them misses its forecast."""
    wanted = config.explain
    (whole,) = ready.sweep(rows, len(rows))
    baseline = average_window(ready, prepared.rows["train"])
    net.requires_grad_(False)  # slopes in the inputs alone
    found = []
    with counted_progress(
        out, "integrating gradients", len(rows) * len(columns) * len(wanted.outputs)
    ) as advance:
        for output in wanted.outputs:
            for horizon, column in columns.items():
                function = _output(net, MODEL_OUTPUTS[output], column)
                made = attribute(
                    function, whole.inputs, baseline, steps=wanted.steps, max_steps=wanted.max_steps,
                    advance=advance,
                )  # fmt: skip
                _refuse_incomplete(made, output, horizon, wanted.max_steps)
                unit = fitted.return_std[column] if output == "ret" else 1.0
                found.append(_explained(made, output, horizon, unit, input_groups(prepared)))
    return found


def average_window(ready: ReadyWindows, train: NDArray[np.int64]) -> Inputs:
    """The baseline, one window: bars, embedding and context at their train means.

    Bars that stand still would be a plainer nothing. But there a layer norm of nearly nothing jumps, which
    takes two to four times the steps, and every forecast would owe its prices what tells an average window
    from a flat one.
    """
    (sample,) = ready.sweep(evenly(train, BASELINE_WINDOWS), BASELINE_WINDOWS)
    price, embedding, context = sample.inputs
    bars, vector = (x.double().mean(0, keepdim=True).float() for x in (price, embedding))
    return bars, vector, torch.zeros_like(context[:1])  # standardised by the train mean


def _output(net: nn.Module, name: str, column: int) -> Scalar:
    def of(x_price: Tensor, x_kron: Tensor, x_ctx: Tensor) -> Tensor:
        answer: Tensor = net(x_price, x_kron, x_ctx)[name][:, column]
        return answer

    return of


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
    prepared: Prepared, rows: NDArray[np.int64], explained: list[Explained], into: Path
) -> None:
    """A row per window, output and horizon: the forecast, the baseline's, and what each input adds."""
    windows = prepared.windows
    asof = windows.asof[rows]
    days = asof.astype("datetime64[D]")
    parts = [
        pl.DataFrame(
            {
                "symbol": np.array(windows.symbols)[windows.symbol[rows]],
                "date": days if (days == asof).all() else asof.astype("datetime64[ms]"),
                "output": [e.output] * len(rows),
                "horizon": np.full(len(rows), e.horizon),
                "value": e.value,
                "baseline": np.full(len(rows), e.baseline),
                "gap": e.gap,
                "steps": e.steps,
                **{name: e.inputs[:, i] for i, name in enumerate(e.names)},
            }
        )
        for e in explained
    ]
    frame = pl.concat(parts)
    writers: dict[str, Callable[[io.BytesIO], object]] = {
        "attributions.parquet": frame.write_parquet,
        "attributions.csv": frame.write_csv,
    }
    for name, write in writers.items():
        content = io.BytesIO()
        write(content)
        write_atomic(into / name, content.getbuffer())


def _show(found: Mapping[str, Any], into: Path, out: Console) -> None:
    """Tables, the reservations that go with them, and where everything is."""
    of = f"{found['windows']:,} windows of {PART_NAMES[found['part']]}, {found['weights']} weights"
    if weights := found.get("weights_of_model"):
        out.print(weights_table(weights))
        out.print()
        weights_chart(weights, of, into / "weights.png")
        attention_chart(weights["attention"], of, into / "attention.png")
    if attributions := found.get("attributions"):
        out.print(groups_table(attributions))
        out.print()
        out.print(inputs_table(attributions, found["groups"]))
        attributions_chart(attributions, of, into / "attributions.png")
        bars_chart(attributions, of, into / "bars.png")
    else:
        out.print(NO_CAPTUM, markup=False)
    for line in majority_lines(found):
        out.print(line, soft_wrap=True, markup=False)
    for name in FILES:
        if (into / name).exists():
            out.print(f"explain  {into / name}", soft_wrap=True, markup=False)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()
