"""A run as files to deploy: ONNX and a torch.export program, checked against the run's own forecasts."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import stockenh
from stockenh.commands.export_bars import export_bars
from stockenh.commands.measure import Clock
from stockenh.commands.trained import LoadedRun, Trained
from stockenh.config.build import AS_IT_IS
from stockenh.config.schema import ExportRunConfig
from stockenh.inference.export import (
    FEATURES,
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
from stockenh.inference.predict import CHUNK
from stockenh.report.figure import COLOURS, GREY, legend_above, new_figure, percent_axis, save
from stockenh.report.table import Grid, as_table, number, percent
from stockenh.report.terminal import print_files, print_line
from stockenh.storage.files import remove_parts, temporary_folder, write_atomic, write_json

Run = LoadedRun[ExportRunConfig]


def int8_table(found: Mapping[str, Any]) -> Table:
    """Per horizon: scores in fp32 and int8, and how far the forecasts moved."""
    rows = [
        (
            horizon.removeprefix("h"), percent(fp32["accuracy"]), percent(int8["accuracy"]),
            number(fp32["log_loss"]), number(int8["log_loss"]), percent(fp32["majority"]),
            percent(moved, 2), percent(error, 1),
        )
        for (horizon, fp32), int8, moved, error in zip(
            found["fp32"].items(), found["int8"].values(), found["up_prob_mean_difference"],
            found["ret_error_share_of_spread"], strict=True,
        )
    ]  # fmt: skip
    names = ("bars", "accuracy", "int8", "log loss", "int8", "majority", "moved", "return error")
    return as_table(Grid("What 8 bits cost on these windows", names, [rows], (
        "of the calibrated probabilities, as in the files. moved: mean difference of up_prob. "
        "return error: root mean square, as a share of the spread of the forecast returns"
    )))  # fmt: skip


def speed_table(speed: Mapping[str, Mapping[str, float]], threads: int) -> Table:
    """Milliseconds of one pass by batch and engine, and how many times faster than eager."""
    columns = [name for batch in speed for name in (f"ms at batch {batch}", "ratio")]
    rows = [
        (engine, *(
            cell
            for seconds in speed.values()
            for cell in (number(1000 * seconds[engine], 3), number(seconds["eager"] / seconds[engine], 1))
        ))
        for engine in next(iter(speed.values()))
    ]  # fmt: skip
    title = f"One pass on cpu, {threads} thread{'s' * (threads != 1)}, taken in turn"
    return as_table(Grid(title, ("engine", *columns), [rows], left=("engine",)))


SMALLEST = 1e-10


def parity_chart(parity: Mapping[str, Mapping[str, NDArray[np.floating]]], limit: float, path: Path) -> Path:
    """The share of forecasts by their difference to the run's own; returns the path written.

    parity maps a file's name to the absolute differences of each output.
    """
    figure = new_figure(9, 5)
    axes = figure.add_subplot()
    curves = [(f"{file}: {key}", d) for file, of_file in parity.items() for key, d in of_file.items()]
    for colour, (label, found) in zip(COLOURS, curves, strict=False):
        values = np.sort(np.nan_to_num(np.maximum(found, SMALLEST), nan=np.inf))
        shares = np.arange(1, len(values) + 1) / len(values)
        axes.step(values, shares, where="post", color=colour, label=label)
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1.5, label=f"limit {limit:g}")
    axes.set_xscale("log")
    axes.set_xlabel(f"absolute difference to the run's own forecast (smaller ones stand at {SMALLEST:g})")
    axes.set_ylabel("share of forecasts")
    percent_axis(axes)
    legend_above(axes)
    return save(figure, "Exported model against the run's own forecasts", path)


PARITY = 1e-5
MANIFEST = "manifest.json"
NAMES = (ONNX, PROGRAM, INT8, FEATURES, "example.npz")
EXAMPLES = 8
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")

Arrays = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]
Outputs = Mapping[str, NDArray[np.floating]]
Engine = Callable[[Arrays], Outputs]


def export_run(
    config: ExportRunConfig, trained: Trained, directory: Path, console: Console
) -> dict[str, Any]:
    """Writes the ONNX file and the `torch.export` program, checks both, leaves manifest and pictures.

    config: the run's. Raises ExportError, and leaves neither file, where the forecasts of one of them differ
    from the run's by more than 1e-5 on the test part.
    """
    run = LoadedRun.load(config, trained, torch.device("cpu"), console)
    part = run.held_out_part
    rows = run.prepared.rows[part]
    with console.status("forecasting with the run's own model"):
        predicted = run.predict(rows)
    own = {"ret": predicted.ret, "up_prob": trained.calibration.apply(predicted.up_logits)}
    deployed = Deployed(run.net, run.fitted, trained.calibration, config.data.brings_bars).eval()
    inputs = _inputs(run, rows)
    for old in (MANIFEST, *NAMES):  # what an earlier export left may be of other weights
        (directory / old).unlink(missing_ok=True)
    remove_parts(directory)
    with temporary_folder(directory) as unchecked:
        manifest, picture = _checked(run, deployed, inputs, own, rows, part, unchecked, directory, console)
        for path in unchecked.iterdir():
            path.replace(directory / path.name)
        write_json(directory / MANIFEST, manifest)  # the last: without it the files are not used
    console.print(speed_table(manifest["speed"], torch.get_num_threads()))
    files = [*sorted(directory.glob("*.onnx")), directory / PROGRAM]
    print_files(console, "export", (*files, directory / MANIFEST, picture))
    return manifest


def _checked(
    run: Run,
    deployed: Deployed,
    inputs: Arrays,
    own: Outputs,
    rows: NDArray[np.int64],
    part: str,
    directory: Path,
    pictures: Path,
    console: Console,
) -> tuple[dict[str, Any], Path]:
    """Writes the files into a folder that nobody reads yet and checks them there; manifest and picture."""
    config = run.config
    _write_both(deployed, inputs, directory, console)
    engines = _engines(deployed, directory)
    parity = {name: differences(engines[name], inputs, own) for name in (ONNX, PROGRAM)}
    worst = {name: {key: float(d.max()) for key, d in found.items()} for name, found in parity.items()}
    picture = parity_chart(parity, PARITY, pictures / "parity.png")
    _refuse_other_forecasts(worst, picture)
    manifest = _manifest(run, inputs, engines[ONNX], part, worst)
    console.print(f"parity   {len(rows):,} windows of {part}, largest difference to the run's own forecasts")
    for name, found in worst.items():
        listed = ", ".join(f"{key} {value:.1e}" for key, value in found.items())
        print_line(console, f"         {name}: {listed}")
    manifest.update(export_bars(run, rows, own, directory, PARITY, console))
    if config.export.int8:
        manifest["int8"] = _int8(run, directory, engines, inputs, own, rows)
        console.print(int8_table(manifest["int8"]))
    manifest["speed"] = _speed(engines, inputs)
    files = [*directory.glob("*.onnx"), directory / PROGRAM]
    manifest["files"] = {path.name: _sha256(path) for path in files}
    _write_example(directory / "example.npz", inputs, own)
    return manifest, picture


def differences(engine: Engine, inputs: Arrays, own: Outputs) -> dict[str, NDArray[np.float64]]:
    """Absolute differences to the run's own outputs, by name, in the units of the forecast."""
    found = outputs(engine, inputs)
    return {name: np.abs(found[name].astype(np.float64) - own[name]).ravel() for name in own}


def outputs(engine: Engine, inputs: Arrays) -> dict[str, NDArray[np.floating]]:
    """An engine's outputs for many windows, a chunk at a time."""
    chunks = [
        engine({name: array[begin : begin + CHUNK] for name, array in inputs.items()})
        for begin in range(0, len(inputs["context"]), CHUNK)
    ]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def _inputs(run: Run, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What goes into an exported model for these windows, by name."""
    raw, embedding = run.ready.prices.raw(torch.from_numpy(rows), AS_IT_IS).numpy(), run.prepared.embedding
    prices = "ohlcv" if run.config.data.brings_bars else "prices"
    found = {prices: raw, "context": run.prepared.windows.context[rows]}
    if embedding.shape[1]:
        found["embedding"] = embedding[rows].astype(np.float32)
    if run.fitted.categories:
        found["category"] = run.fitted.indices(run.prepared.windows, rows)
    return found


def _write_both(deployed: Deployed, inputs: Arrays, directory: Path, console: Console) -> None:
    example = {name: torch.from_numpy(array[:2]) for name, array in inputs.items()}
    console.print("export   ONNX and torch.export, which takes some seconds")
    with quietly():
        strict = write_program(deployed, example, directory / PROGRAM)
        write_onnx(deployed, example, directory / ONNX, strict)


def _engines(deployed: Deployed, directory: Path) -> dict[str, Engine]:
    """Eager torch, and both files as they were written."""
    with quietly():
        program = torch.export.load(directory / PROGRAM).module()

    def run(module: Callable[..., Any]) -> Engine:
        @torch.inference_mode()
        def engine(inputs: Arrays) -> Outputs:
            given = {"prices" if n == "ohlcv" else n: torch.from_numpy(a) for n, a in inputs.items()}
            return {name: tensor.numpy() for name, tensor in module(**given).items()}

        return engine

    onnx = OnnxModel(directory / ONNX, torch.get_num_threads())
    return {"eager": run(deployed), PROGRAM: run(program), ONNX: onnx}


def _refuse_other_forecasts(worst: dict[str, dict[str, float]], picture: Path) -> None:
    for name, of_file in worst.items():
        for key, value in of_file.items():
            if not value <= PARITY:
                raise ExportError(
                    f"{name} forecasts {key} up to {value:.1e} away from the run, more than {PARITY:g}: not "
                    f"exported; {picture} shows how often"
                )


def _int8(
    run: Run,
    directory: Path,
    engines: dict[str, Engine],
    inputs: Arrays,
    own: Outputs,
    rows: NDArray[np.int64],
) -> dict[str, Any]:
    """Writes the quantised file; how far it is from fp32, and what that does to the scores."""
    with quietly():
        write_int8(directory / ONNX, directory / INT8)
    engines[INT8] = OnnxModel(directory / INT8, torch.get_num_threads())
    int8 = {name: array.astype(np.float64) for name, array in outputs(engines[INT8], inputs).items()}
    ret, up_prob = (int8[name] - own[name] for name in ("ret", "up_prob"))
    spread = np.maximum(own["ret"].std(0), 1e-12)
    return {
        "fp32": run.scores(own["ret"], own["up_prob"], rows, intervals=False),
        "int8": run.scores(int8["ret"], int8["up_prob"], rows, intervals=False),
        "up_prob_mean_difference": np.abs(up_prob).mean(0).tolist(),
        "ret_error_share_of_spread": (np.sqrt(np.square(ret).mean(0)) / spread).tolist(),
    }


def _speed(engines: dict[str, Engine], inputs: Arrays) -> dict[str, dict[str, float]]:
    """Median seconds of one pass at batch 1 and 256, the engines taken in turn."""
    clock, found = Clock(torch.device("cpu"), rounds=5, turn=0.05), {}
    for batch in (1, CHUNK):
        rows = np.arange(batch) % len(inputs["context"])
        given = {name: array[rows] for name, array in inputs.items()}
        found[str(batch)] = clock.medians({name: partial(call, given) for name, call in engines.items()})
    return found


def _manifest(
    run: Run,
    inputs: Arrays,
    onnx: Engine,
    part: str,
    worst: dict[str, dict[str, float]],
) -> dict[str, Any]:
    windows = run.prepared.windows
    found = onnx({name: array[:1] for name, array in inputs.items()})
    return {
        "stockenh": stockenh.__version__,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "opset": OPSET,
        "data": windows.digest(),
        **run.trained.to_dict(),
        "calibrated": run.trained.held_out,
        "lookback": windows.lookback,
        "target": run.config.target.name,
        "horizons": list(windows.horizons),
        "context_names": list(windows.context_names),
        **({"categories": run.fitted.categories} if run.fitted.categories else {}),
        "inputs": {name: _tensor(array) for name, array in inputs.items()},
        "outputs": {name: _tensor(array) for name, array in found.items()},
        "parity": {"part": part, "windows": len(inputs["context"]), "largest_difference": worst},
    }


def _tensor(array: NDArray[Any]) -> dict[str, Any]:
    return {"shape": ["batch", *array.shape[1:]], "dtype": str(array.dtype)}


def _write_example(path: Path, inputs: Arrays, own: Outputs) -> None:
    content = io.BytesIO()
    few = {name: array[:EXAMPLES] for name, array in inputs.items()}
    expected = {f"expected_{name}": array[:EXAMPLES] for name, array in own.items()}
    np.savez_compressed(content, allow_pickle=False, **few, **expected)
    write_atomic(path, content.getbuffer())


def _sha256(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
