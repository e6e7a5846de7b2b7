"""From a deployed network to files, and an ONNX file at work.

Legend: B windows, H horizons.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stockenh.errors import StockenhError
from stockenh.export.deployed import Deployed, onnx_form
from stockenh.files import write_atomic

ONNX, PROGRAM, INT8 = "model.onnx", "model.pt2", "model.int8.onnx"
OPSET = 23  # the first with attention and rotary positions
Arrays = Mapping[str, NDArray[np.float32]]


class ExportError(StockenhError):
    """A model that can't be exported, or whose export says something else."""


def write_onnx(deployed: Deployed, example: Mapping[str, Tensor], path: Path) -> None:
    """One ONNX file, batch dynamic, inputs and outputs by name. example: at least two windows."""
    program = torch.onnx.export(
        onnx_form(deployed).eval(),
        kwargs=_inputs(example),
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=_dynamic(example),
        input_names=list(example),
        output_names=list(deployed(**_inputs(example))),
        verbose=False,
        external_data=False,
    )
    if program is None:
        raise ExportError("torch gave no ONNX program")
    write_atomic(path, program.model_proto.SerializeToString())


def write_program(deployed: Deployed, example: Mapping[str, Tensor], path: Path) -> None:
    """A `torch.export` program, batch dynamic, for `torch.export.load` or AOTInductor."""
    program = torch.export.export(
        deployed, (), kwargs=_inputs(example), dynamic_shapes=_dynamic(example), strict=False
    )
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomic(path, content.getbuffer())


def write_int8(fp32: Path, path: Path) -> None:
    """The ONNX file `fp32` with weights of 8 bits; activations are quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        # attention's own products would lose most, and onnxruntime takes this operator for another
        quantize_dynamic(fp32, made, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        write_atomic(path, made.read_bytes())


@contextmanager
def quietly() -> Iterator[None]:
    """Exporters talk about what they skip; errors still come through."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


class OnnxModel:
    """An ONNX file at work on a CPU; nothing of torch runs. Raises ExportError where it can't be loaded."""

    def __init__(self, path: Path, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise ExportError(f"{path} can't be loaded: {str(error).splitlines()[0]}") from None
        self.prices = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, inputs: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name, from inputs by name."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        return dict(zip(self.outputs, self.session.run(None, given), strict=True))


def _inputs(example: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of `Deployed.forward` for inputs by their exported names."""
    return {"prices" if name in ("ohlcv", "prices") else name: tensor for name, tensor in example.items()}


def _dynamic(example: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    return {name: {0: batch} for name in _inputs(example)}
