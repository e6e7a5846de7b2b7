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
from numpy.typing import NDArray
from torch import Tensor

from stockenh.commands.bench.clock import Aim, Clock, Figure, Floats, median
from stockenh.commands.bench.setup import Bed
from stockenh.commands.trained import OnnxEngine
from stockenh.config import build
from stockenh.inference.calibration import Calibration
from stockenh.inference.export import Deployed, OnnxModel, quietly, write_int8, write_onnx
from stockenh.inference.tta import Engine, TorchEngine, Views, forecast_with
from stockenh.storage.machine import has_bf16

PART = "inference"
BATCHES = (1, 256)
VIEWS = 4  # besides the window itself
TEACHER, STUDENT = "timeformer_xl", "student"

AIMS_FP32 = {1: Aim(40, hoped=50), 256: Aim(15)}
AIMS_INT8 = {1: Aim(40, hoped=50), 256: Aim(30)}
AIM_EXPORTED = Aim(5, hoped=10)
AIMS_TTA = {"cpu": Aim(4, at_most=True), "cuda": Aim(1.5, at_most=True)}

Call = Callable[[int], object]


def inference(raw: Mapping[str, Any], models: Mapping[str, Any], clock: Clock) -> list[Figure]:
    """The exported student against the eager teacher and its exports, all on the CPU.

    Both take raw bars and give calibrated forecasts. Weights are random: times don't depend on them.
    """
    cpu = torch.device("cpu")
    clock = replace(clock, device=cpu)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calls: dict[str, Call] = {}
        beds = {model: Bed.make(raw, models[model], cpu) for model in (TEACHER, STUDENT)}
        for model, bed in beds.items():
            calls |= _engines(model, bed, folder)
        found = []
        for batch in BATCHES:
            taken = clock.in_turn({key: partial(call, batch) for key, call in calls.items()})
            found += _figures(batch, taken)
        return found + _exported_views(beds[TEACHER], OnnxModel(_file(folder, TEACHER)), clock)


def _engines(name: str, bed: Bed, folder: Path) -> dict[str, Call]:
    """A model in eager fp32, exported in fp32, and in int8, each called with a number of windows."""
    rows = torch.from_numpy(np.resize(bed.prepared.rows["train"], max(BATCHES)))
    tensors = {
        "ohlcv": bed.resident.prices.raw(rows, build.AS_IT_IS),
        "context": torch.from_numpy(bed.prepared.windows.context[rows.numpy()]),
        "embedding": bed.resident.embedding[rows].float(),
    }
    arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
    net, horizons = bed.net().eval(), len(bed.prepared.windows.horizons)
    deployed = Deployed(net, bed.fitted, Calibration.identity(horizons), raw_bars=True).eval()
    fp32, int8 = _file(folder, name), folder / f"{name}.int8.onnx"
    with quietly():
        write_onnx(deployed, {key: tensor[:2] for key, tensor in tensors.items()}, fp32)
        write_int8(fp32, int8)
    return {
        f"{name} eager": _eager(deployed, tensors),
        f"{name} onnx": _served(OnnxModel(fp32), arrays),
        f"{name} int8": _served(OnnxModel(int8), arrays),
    }


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.onnx"


def _eager(deployed: Deployed, tensors: Mapping[str, Tensor]) -> Call:
    @torch.inference_mode()
    def call(batch: int) -> None:
        deployed(*(tensors[name][:batch] for name in ("ohlcv", "context", "embedding")))

    return call


def _served(model: OnnxModel, inputs: Mapping[str, NDArray[np.float32]]) -> Call:
    return lambda batch: model({name: array[:batch] for name, array in inputs.items()})


def _figures(batch: int, taken: Mapping[str, Floats]) -> list[Figure]:
    eager = taken[f"{TEACHER} eager"]
    best = np.minimum(taken[f"{TEACHER} onnx"], taken[f"{TEACHER} int8"])
    own = np.minimum(taken[f"{STUDENT} onnx"], taken[f"{STUDENT} int8"])
    times = [median(PART, f"{name}, batch {batch}", "ms", 1000 * s) for name, s in taken.items()]
    compared = f"{STUDENT} / eager {TEACHER}, batch {batch}"
    return [
        *times,
        median(PART, f"exported {compared}", "times", eager / taken[f"{STUDENT} onnx"], AIMS_FP32[batch]),
        median(PART, f"int8 {compared}", "times", eager / taken[f"{STUDENT} int8"], AIMS_INT8[batch]),
        median(PART, f"best exports, {STUDENT} / {TEACHER}, batch {batch}", "times",
               best / own, AIM_EXPORTED),
    ]  # fmt: skip


def augmentation(name: str, bed: Bed, clock: Clock) -> list[Figure]:
    """Five views, the window itself among them, against one eager pass in fp32; forecasts in either case."""
    eager = _torch_engine(bed)
    engines = {"": eager}
    if has_bf16(bed.device):
        engines[", tta.precision=bf16"] = replace(eager, precision="bf16")
    return [
        _views(f"{name}: {VIEWS + 1} views{of} / one pass", engine, eager, bed, clock, batch)
        for of, engine in engines.items()
        for batch in BATCHES
    ]


def _exported_views(bed: Bed, model: OnnxModel, clock: Clock) -> list[Figure]:
    """The same by the exported fp32 file, `tta.engine=onnx`, against the same eager pass."""
    exported = OnnxEngine(model, bed.resident, bed.prepared.windows, bed.prepared.embedding)
    title = f"{TEACHER}: {VIEWS + 1} views, tta.engine=onnx / one pass"
    return [_views(title, exported, _torch_engine(bed), bed, clock, batch) for batch in BATCHES]


def _torch_engine(bed: Bed) -> TorchEngine:
    identity = Calibration.identity(len(bed.prepared.windows.horizons))
    return TorchEngine(bed.net().eval(), bed.resident, bed.fitted, identity)


def _views(title: str, many: Engine, one: Engine, bed: Bed, clock: Clock, batch: int) -> Figure:
    rows = np.resize(bed.prepared.rows["train"], batch)
    noise = build.views(bed.config).noise

    def call(engine: Engine, count: int) -> Callable[[], object]:
        return lambda: forecast_with(engine, bed.resident, rows, Views(count, noise, 0))

    taken = clock.in_turn({"one": call(one, 0), "many": call(many, VIEWS)})
    aim = AIMS_TTA.get(bed.device.type)
    return median(PART, f"{title}, batch {batch}", "times", taken["many"] / taken["one"], aim)
