"""Inference: teacher against student, eager and exported, and test-time augmentation against one pass."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stockenh.commands.bench.figures import Aim, Figure, median
from stockenh.commands.bench.setup import Setup
from stockenh.commands.exported import OnnxEngine
from stockenh.commands.measure import Clock, Seconds
from stockenh.config import build
from stockenh.inference.calibration import Calibration
from stockenh.inference.export import Deployed, OnnxModel, quietly, write_int8, write_onnx
from stockenh.inference.predict import Engine, TorchEngine, Views, forecast_with
from stockenh.storage.machine import has_bf16

INFERENCE = "inference"
BATCHES = (1, 256)
VIEWS = 4  # besides the window itself
TEACHER, STUDENT = "timeformer_xl", "student"

AIMS_FP32 = {1: Aim(40, hoped=50), 256: Aim(15)}
AIMS_INT8 = {1: Aim(40, hoped=50), 256: Aim(30)}
AIM_EXPORTED = Aim(5, hoped=10)
AIMS_TTA = {"cpu": Aim(4, at_most=True), "cuda": Aim(1.5, at_most=True)}

Call = Callable[[int], object]  # with a number of windows


def inference(raw: Mapping[str, Any], models: Mapping[str, Any], clock: Clock) -> list[Figure]:
    """The exported student against the eager teacher and its exports, all on the CPU.

    Both take raw bars and give calibrated forecasts. Weights are random: times don't depend on them.
    """
    cpu = torch.device("cpu")
    clock = replace(clock, device=cpu)
    with tempfile.TemporaryDirectory() as folder:
        files = {model: Path(folder, f"{model}.onnx") for model in (TEACHER, STUDENT)}
        setups = {model: Setup.make(raw, models[model], cpu) for model in files}
        calls: dict[str, Call] = {}
        for model, setup in setups.items():
            calls |= _engines(model, setup, files[model])
        found = []
        for batch in BATCHES:
            found += _figures(
                batch, clock.in_turn({key: partial(call, batch) for key, call in calls.items()})
            )
        teacher = setups[TEACHER]
        exported = OnnxEngine(
            OnnxModel(files[TEACHER]),
            teacher.resident,
            teacher.prepared.windows,
            teacher.prepared.embedding,
            teacher.fitted,
        )
        return found + _views(f"{TEACHER}: {VIEWS + 1} views, tta.engine=onnx", exported, teacher, clock)


def _engines(name: str, setup: Setup, file: Path) -> dict[str, Call]:
    """A model in eager fp32, exported in fp32, and in int8."""
    rows = torch.from_numpy(np.resize(setup.prepared.rows["train"], max(BATCHES)))
    tensors = {
        "ohlcv": setup.resident.prices.raw(rows, build.AS_IT_IS),
        "context": torch.from_numpy(setup.prepared.windows.context[rows.numpy()]),
        "embedding": setup.resident.embedding[rows].float(),
    }
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    deployed = Deployed(setup.net().eval(), setup.fitted, _identity(setup), raw_bars=True).eval()
    file_int8 = file.with_suffix(".int8.onnx")
    with quietly():
        write_onnx(deployed, {key: tensor[:2] for key, tensor in tensors.items()}, file)
        write_int8(file, file_int8)

    @torch.inference_mode()
    def eager(batch: int) -> None:
        deployed(*(tensor[:batch] for tensor in tensors.values()))

    def exported(path: Path) -> Call:
        model = OnnxModel(path)
        return lambda batch: model({key: array[:batch] for key, array in arrays.items()})

    return {f"{name} eager": eager, f"{name} onnx": exported(file), f"{name} int8": exported(file_int8)}


def _figures(batch: int, taken: Mapping[str, Seconds]) -> list[Figure]:
    eager, onnx, int8 = taken[f"{TEACHER} eager"], taken[f"{STUDENT} onnx"], taken[f"{STUDENT} int8"]
    best, own = np.minimum(taken[f"{TEACHER} onnx"], taken[f"{TEACHER} int8"]), np.minimum(onnx, int8)
    compared = f"{STUDENT} / eager {TEACHER}, batch {batch}"
    exports = f"best exports, {STUDENT} / {TEACHER}, batch {batch}"
    return [
        *(median(INFERENCE, f"{name}, batch {batch}", "ms", 1000 * s) for name, s in taken.items()),
        median(INFERENCE, f"exported {compared}", "times", eager / onnx, AIMS_FP32[batch]),
        median(INFERENCE, f"int8 {compared}", "times", eager / int8, AIMS_INT8[batch]),
        median(INFERENCE, exports, "times", best / own, AIM_EXPORTED),
    ]


def augmentation(name: str, setup: Setup, clock: Clock) -> list[Figure]:
    """Five views, the window itself among them, against one eager pass in fp32; forecasts in either case."""
    title, eager = f"{name}: {VIEWS + 1} views", _eager_engine(setup)
    found = _views(title, eager, setup, clock)
    if has_bf16(setup.device):
        found += _views(f"{title}, tta.precision=bf16", replace(eager, precision="bf16"), setup, clock)
    return found


def _eager_engine(setup: Setup) -> TorchEngine:
    return TorchEngine(setup.net().eval(), setup.resident, setup.fitted, _identity(setup))


def _identity(setup: Setup) -> Calibration:
    return Calibration.identity(len(setup.prepared.windows.horizons))


def _views(title: str, engine: Engine, setup: Setup, clock: Clock) -> list[Figure]:
    """All views by an engine against one eager pass, at each batch size."""
    noise, one = build.views(setup.config).noise, _eager_engine(setup)
    aim, found = AIMS_TTA.get(setup.device.type), []
    for batch in BATCHES:
        rows = np.resize(setup.prepared.rows["train"], batch)

        def call(engine: Engine, views: int, rows: np.ndarray = rows) -> object:
            return forecast_with(engine, setup.resident, rows, Views(views, noise, 0))

        taken = clock.in_turn({"one": partial(call, one, 0), "many": partial(call, engine, VIEWS)})
        ratio = taken["many"] / taken["one"]
        found.append(median(INFERENCE, f"{title} / one pass, batch {batch}", "times", ratio, aim))
    return found
