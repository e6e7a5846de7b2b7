"""What an export shows on the terminal: the cost of 8 bits, and times."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import stockenh
from stockenh.commands.timing import in_turn
from stockenh.commands.trained import Trained, require_same_weights
from stockenh.config import build
from stockenh.config.build import AS_IT_IS, Prepared
from stockenh.config.schema import ExportRunConfig
from stockenh.data.batches import ReadyWindows
from stockenh.evaluation.metrics import part_metrics
from stockenh.inference.export import (
    INT8,
    ONNX,
    OPSET,
    PROGRAM,
    Deployed,
    ExportError,
    OnnxModel,
    quietly,
    write_int8,
    write_onnx,
    write_program,
)
from stockenh.inference.predict import CHUNK, predict
from stockenh.models.cpu.memory import default_threads
from stockenh.report.figure import COLOURS, GREY, legend_above, new_figure, percent_axis, save
from stockenh.report.table import number, percent
from stockenh.report.terminal import embedding_progress, show_data
from stockenh.storage.files import write_atomic, write_json


def int8_table(found: Mapping[str, Any]) -> Table:
    """Per horizon: scores in fp32 and int8, and how far the forecasts moved."""
    table = Table(title="What 8 bits cost on these windows", title_justify="left", caption_justify="left",
                  box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False, caption=(
        "of the calibrated probabilities, which is what the files give. moved: mean difference of up_prob. "
        "return error: root mean square, as a share of the spread of the forecast returns"
    ))  # fmt: skip
    for name in ("bars", "accuracy", "int8", "log loss", "int8", "majority", "moved", "return error"):
        table.add_column(name, justify="right", no_wrap=True)
    for place, (horizon, fp32) in enumerate(found["fp32"].items()):
        int8 = found["int8"][horizon]
        table.add_row(
            horizon.removeprefix("h"), percent(fp32["accuracy"]), percent(int8["accuracy"]),
            number(fp32["log_loss"]), number(int8["log_loss"]), percent(fp32["majority"]),
            percent(found["up_prob_mean_difference"][place], 2),
            percent(found["ret_error_share_of_spread"][place], 1),
        )  # fmt: skip
    return table


def speed_table(speed: Mapping[str, Mapping[str, float]], threads: int) -> Table:
    """Milliseconds of one pass by batch and engine, and how many times faster than eager."""
    title = f"One pass on cpu, {threads} thread{'s' * (threads != 1)}, taken in turn"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0), show_edge=False)
    table.add_column("engine")
    for batch in speed:
        table.add_column(f"ms at batch {batch}", justify="right", no_wrap=True)
        table.add_column("ratio", justify="right", no_wrap=True)
    for engine in next(iter(speed.values())):
        cells = []
        for seconds in speed.values():
            cells += [number(1000 * seconds[engine], 3), number(seconds["eager"] / seconds[engine], 1)]
        table.add_row(engine, *cells)
    return table


SMALLEST = 1e-10


def parity_chart(parity: Mapping[str, Mapping[str, NDArray[np.floating]]], limit: float, path: Path) -> Path:
    """The share of forecasts that lie at most so far from the run's own; returns the path written.

    parity maps a file's name to the absolute differences of each output.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    curves = [(f"{file}: {key}", d) for file, of_file in parity.items() for key, d in of_file.items()]
    for colour, (label, found) in zip(COLOURS, curves, strict=False):
        at = np.sort(np.nan_to_num(np.maximum(found, SMALLEST), nan=np.inf))
        axes.step(at, np.arange(1, len(at) + 1) / len(at), where="post", color=colour, label=label)
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1.5, label=f"limit {limit:g}")
    axes.set_xscale("log")
    axes.set_xlabel(f"absolute difference to the run's own forecast (smaller ones stand at {SMALLEST:g})")
    axes.set_ylabel("share of forecasts")
    percent_axis(axes)
    legend_above(axes)
    return save(figure, "Exported model against the run's own forecasts", path)


PARITY = 1e-5
EXAMPLES = 8
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")

Arrays = Mapping[str, NDArray[np.float32]]
Answers = Mapping[str, NDArray[np.floating]]
Engine = Callable[[Arrays], Answers]


def export_run(config: ExportRunConfig, trained: Trained, into: Path, out: Console) -> dict[str, Any]:
    """Writes the ONNX file and the `torch.export` program, checks both, leaves manifest and pictures.

    config: the run's. Raises ExportError, and leaves neither file, where one of them forecasts anything else
    than the run by more than 1e-5 on the test part.
    """
    trained.require_inputs(config, "run", ("model", "embedding"))
    on = torch.device("cpu")
    require_same_weights(trained.folder, config.embedding)
    with embedding_progress(out) as watch:
        prepared = build.data(config, on, watch)
    show_data(prepared.windows, prepared.rows, prepared.findings, out)
    net = trained.net(prepared, on)
    torch.set_num_threads(config.threads or default_threads(net))
    ready, fitted = trained.ready(prepared, on)
    part = "test" if "test" in prepared.rows else "train"
    rows = prepared.rows[part]
    with out.status("forecasting with the run's own model"):
        own = predict(net, ready, rows, fitted)
    said = {"ret": own.ret, "up_prob": trained.calibration.apply(own.up_logits)}
    deployed = Deployed(net, fitted, trained.calibration, config.data.brings_bars).eval()
    inputs = _inputs(prepared, ready, rows, config.data.brings_bars)
    _write_both(deployed, inputs, into, out)
    engines = _engines(deployed, into)
    parity = {name: differences(engines[name], inputs, said) for name in (ONNX, PROGRAM)}
    worst = {name: {key: float(d.max()) for key, d in of.items()} for name, of in parity.items()}
    picture = parity_chart(parity, PARITY, into / "parity.png")
    _refuse_other_forecasts(worst, into)
    manifest = _manifest(trained, prepared, inputs, engines[ONNX], part, worst)
    out.print(f"parity   {len(rows):,} windows of {part}, largest difference to the run's own forecasts")
    for name, of_file in worst.items():
        told = ", ".join(f"{key} {value:.1e}" for key, value in of_file.items())
        out.print(f"         {name}: {told}", soft_wrap=True)
    if config.export.int8:
        manifest["int8"] = _int8(into, engines, inputs, said, prepared, rows, out)
    manifest["speed"] = _speed(engines, inputs)
    manifest["files"] = {path.name: _sha256(path) for path in sorted(into.glob("model.*"))}
    _write_example(into / "example.npz", inputs, said)
    write_json(into / "manifest.json", manifest)
    out.print(speed_table(manifest["speed"], torch.get_num_threads()))
    for path in (*sorted(into.glob("model.*")), into / "manifest.json", picture):
        out.print(f"export   {path}", soft_wrap=True, markup=False)
    return manifest


def differences(engine: Engine, inputs: Arrays, said: Answers) -> dict[str, NDArray[np.float64]]:
    """Absolute differences to what the run says, by output, in the units of the forecast."""
    given = answers(engine, inputs)
    return {name: np.abs(given[name].astype(np.float64) - said[name]).ravel() for name in said}


def answers(engine: Engine, inputs: Arrays) -> dict[str, NDArray[np.floating]]:
    """An engine's outputs for many windows, a chunk at a time."""
    count = len(next(iter(inputs.values())))
    made = [
        engine({name: array[begin : begin + CHUNK] for name, array in inputs.items()})
        for begin in range(0, count, CHUNK)
    ]
    return {name: np.concatenate([chunk[name] for chunk in made]) for name in made[0]}


def _inputs(
    prepared: Prepared, ready: ReadyWindows, rows: NDArray[np.int64], raw_bars: bool
) -> dict[str, NDArray[np.float32]]:
    """What goes into an exported model for these windows, by name."""
    raw = ready.prices.raw(torch.from_numpy(rows), AS_IT_IS).numpy()
    found = {"ohlcv" if raw_bars else "prices": raw, "context": prepared.windows.context[rows]}
    if prepared.embedding.shape[1]:
        found["embedding"] = prepared.embedding[rows].astype(np.float32)
    return found


def _write_both(deployed: Deployed, inputs: Arrays, into: Path, out: Console) -> None:
    for name in (ONNX, PROGRAM, INT8):  # what an earlier export left may be of other weights
        (into / name).unlink(missing_ok=True)
    example = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    out.print("export   ONNX and torch.export, which takes some seconds")
    with quietly():
        write_program(deployed, example, into / PROGRAM)
        write_onnx(deployed, example, into / ONNX)


def _engines(deployed: Deployed, into: Path) -> dict[str, Engine]:
    """Eager torch, and both files as they were written."""
    with quietly():
        program = torch.export.load(into / PROGRAM).module()

    def run(module: Callable[..., Any]) -> Engine:
        @torch.inference_mode()
        def engine(inputs: Arrays) -> Answers:
            given = {"prices" if n == "ohlcv" else n: torch.from_numpy(a) for n, a in inputs.items()}
            return {name: tensor.numpy() for name, tensor in module(**given).items()}

        return engine

    onnx = OnnxModel(into / ONNX, torch.get_num_threads())
    return {"eager": run(deployed), PROGRAM: run(program), ONNX: onnx}


def _refuse_other_forecasts(worst: dict[str, dict[str, float]], into: Path) -> None:
    for name, of_file in worst.items():
        for key, value in of_file.items():
            if not value <= PARITY:
                for file in (ONNX, PROGRAM, INT8):
                    (into / file).unlink(missing_ok=True)
                raise ExportError(
                    f"{name} forecasts {key} up to {value:.1e} away from the run, more than {PARITY:g}: not "
                    f"exported; {into / 'parity.png'} shows how often"
                )


def _int8(
    into: Path,
    engines: dict[str, Engine],
    inputs: Arrays,
    said: Answers,
    prepared: Prepared,
    rows: NDArray[np.int64],
    out: Console,
) -> dict[str, Any]:
    """Writes the quantised file; how far it goes from fp32, and what that does to the scores."""
    with quietly():
        write_int8(into / ONNX, into / INT8)
    engines[INT8] = OnnxModel(into / INT8, torch.get_num_threads())
    given = answers(engines[INT8], inputs)
    windows = prepared.windows

    def scores(of: Answers) -> dict[str, dict[str, Any]]:
        labels, dates = windows.y_ret[rows], windows.asof[rows]
        ret, up_prob = (of[name].astype(np.float64) for name in ("ret", "up_prob"))
        return part_metrics(ret, up_prob, labels, dates, windows.horizons, resamples=0)

    spread = np.maximum(said["ret"].std(0), 1e-12)
    found = {
        "fp32": scores(said),
        "int8": scores(given),
        "up_prob_mean_difference": np.abs(given["up_prob"] - said["up_prob"]).mean(0).tolist(),
        "ret_error_share_of_spread": (
            np.sqrt(np.square(given["ret"] - said["ret"]).mean(0)) / spread
        ).tolist(),
    }
    out.print(int8_table(found))
    return found


def _speed(engines: dict[str, Engine], inputs: Arrays) -> dict[str, dict[str, float]]:
    """Median seconds of one pass at batch 1 and 256, the engines taken in turn."""
    found = {}
    count = len(next(iter(inputs.values())))
    for batch in (1, CHUNK):
        rows = np.arange(batch) % count
        given = {name: array[rows] for name, array in inputs.items()}
        calls = {name: _call(engine, given) for name, engine in engines.items()}
        found[str(batch)] = in_turn(calls)
    return found


def _call(engine: Engine, given: Arrays) -> Callable[[], object]:
    return lambda: engine(given)


def _manifest(
    trained: Trained,
    prepared: Prepared,
    inputs: Arrays,
    onnx: Engine,
    part: str,
    worst: dict[str, dict[str, float]],
) -> dict[str, Any]:
    windows = prepared.windows
    outputs = onnx({name: array[:1] for name, array in inputs.items()})
    return {
        "stockenh": stockenh.__version__,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "opset": OPSET,
        "data": windows.digest(),
        **trained.to_dict(),
        "calibrated": trained.held_out,
        "lookback": windows.lookback,
        "horizons": list(windows.horizons),
        "context_names": list(windows.context_names),
        "inputs": {name: _tensor(array) for name, array in inputs.items()},
        "outputs": {name: _tensor(array) for name, array in outputs.items()},
        "parity": {"part": part, "windows": len(next(iter(inputs.values()))), "largest_difference": worst},
    }


def _tensor(array: NDArray[np.floating]) -> dict[str, Any]:
    return {"shape": ["batch", *array.shape[1:]], "dtype": str(array.dtype)}


def _write_example(path: Path, inputs: Arrays, said: Answers) -> None:
    content = io.BytesIO()
    few = {name: array[:EXAMPLES] for name, array in inputs.items()}
    expected = {f"expected_{name}": array[:EXAMPLES] for name, array in said.items()}
    np.savez_compressed(content, allow_pickle=False, **few, **expected)
    write_atomic(path, content.getbuffer())


def _sha256(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
