"""Export: a trained network with its pre- and postprocessing as one graph, from raw inputs to forecasts.

Legend: B windows, T bars, E embedding width, F context features, K categories of a symbol, H horizons,
Q quantiles, L tokens, D width.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from stockenh.data.fitted import CLIP, Fitted
from stockenh.data.prices import FLAT, normalise
from stockenh.errors import StockenhError
from stockenh.inference.calibration import Calibration
from stockenh.inference.ensemble import MEMBERS
from stockenh.models.layers import CrossAttention, GatedResidualNetwork, SelfAttention, in_other_forms
from stockenh.storage.files import write_atomic

ONNX, PROGRAM, INT8 = "model.onnx", "model.pt2", "model.int8.onnx"
FEATURES = "features.onnx"  # from raw bars to the inputs of the others
OPSET = 23  # the first with attention and rotary positions
Arrays = Mapping[str, NDArray[np.float32] | NDArray[np.int64]]


class Deployed(nn.Module):
    """Normalises prices, standardises context, runs the network, scales returns, calibrates probabilities.

    All arithmetic is fp32; a run's own forecasts scale and calibrate in fp64.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor
    temperature: Tensor
    bias: Tensor

    def __init__(self, net: nn.Module, fitted: Fitted, calibration: Calibration, raw_bars: bool) -> None:
        super().__init__()
        self.net = net
        self.prepare: Callable[[Tensor], Tensor] = normalise if raw_bars else torch.nn.Identity()
        for name, values in (
            ("mean", fitted.context_mean),
            ("std", fitted.scale.tolist()),
            ("unit", fitted.return_std),
            ("temperature", calibration.temperature),
            ("bias", calibration.bias),
        ):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.has_missing = fitted.has_missing

    def forward(
        self,
        prices: Tensor,
        context: Tensor,
        embedding: Tensor | None = None,
        category: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """`ret` (B, H) in raw units, `up_prob` (B, H) calibrated; where the network has them, `quantiles`
        (B, H, Q) of returns in raw units, and `member_up_prob` (B, K, H) of an ensemble.

        prices (B, T, 5): open, high, low, close, volume, raw or normalised; context (B, F) raw features, NaN
        where an own column is missing; embedding (B, E), omitted where the network has none. All fp32.
        category (B, K): int64, the place of each category among those that the run knows, from 1; 0: none of
        them; omitted where it knows none.
        """
        x_ctx = ((context - self.mean) / self.std).clamp(-CLIP, CLIP)
        if self.has_missing:
            x_ctx = torch.where(torch.isnan(context), 0.0, x_ctx)
        if category is not None:
            x_ctx = torch.cat([x_ctx, category.to(x_ctx.dtype)], 1)
        out = self.net(self.prepare(prices), context[:, :0] if embedding is None else embedding, x_ctx)
        made = {
            "ret": out["ret"] * self.unit,
            "up_prob": torch.sigmoid(out["up_logits"] / self.temperature + self.bias),
        }
        if "quantiles" in out:
            made["quantiles"] = out["quantiles"] * self.unit[:, None]
        if MEMBERS in out:
            made[MEMBERS] = out[MEMBERS]
        return made


def onnx_form(deployed: Deployed) -> Deployed:
    """An equivalent copy of fewer operators, with ONNX's own for attention and rotary positions (opset 23).

    At batch 1 the number of operators bounds the speed of a small network.
    """
    deployed = in_other_forms(
        deployed,
        {
            SelfAttention: _OnnxSelfAttention,
            CrossAttention: _OnnxCrossAttention,
            GatedResidualNetwork: _one_product,
        },
    )
    if deployed.prepare is normalise:
        deployed.prepare = _normalise_at_once
    return deployed


def _normalise_at_once(raw: Tensor) -> Tensor:
    """`normalise` with one pass of arithmetic for prices and volume together; (B, T, 5) to (B, T, 5)."""
    price, volume = raw.split((4, 1), -1)
    volume = volume.log1p()
    low = torch.cat([price.amin((1, 2), True), volume.amin(1, True)], -1)  # (B, 1, 2)
    high = torch.cat([price.amax((1, 2), True), volume.amax(1, True)], -1)
    span = high - low
    scale = torch.where(span <= FLAT * high.abs(), 0.0, 2 / span)
    of_column = torch.tensor([0, 0, 0, 0, 1])
    low, half, scale = (x.index_select(-1, of_column) for x in (low, 0.5 * span, scale))
    return (torch.cat([price, volume], -1) - low - half) * scale


class _OnnxSelfAttention(nn.Module):
    """`SelfAttention` in evaluation; (B, L, D) to (B, L, D)."""

    cos: Tensor
    sin: Tensor

    def __init__(self, plain: SelfAttention) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = plain.heads, plain.qkv, plain.out
        half = plain.rotary.cos.shape[-1] // 2
        self.register_buffer("cos", plain.rotary.cos[None, :, :half].clone())
        self.register_buffer("sin", plain.rotary.sin[None, :, half:].clone())  # its first half is negative

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).split(x.shape[-1], -1)
        cos, sin = (table.expand(x.shape[0], -1, -1) for table in (self.cos, self.sin))
        q, k = (torch.onnx.ops.rotary_embedding(y, cos, sin, num_heads=self.heads) for y in (q, k))
        mixed: Tensor = self.out(_attention(q, k, v, self.heads))
        return mixed


class _OnnxCrossAttention(nn.Module):
    """`CrossAttention` in evaluation; (B, L, D) and a memory (B, M, D) to (B, L, D).

    The keys' bias adds the same to all scores of a token, which does not change a softmax; the values' bias
    passes through it unchanged and is added to the output's bias.
    """

    def __init__(self, plain: CrossAttention) -> None:
        super().__init__()
        self.heads, self.q = plain.heads, plain.q
        self.kv = _linear(plain.kv.weight)
        of_values = plain.kv.bias.chunk(2)[1]
        self.out = _linear(plain.out.weight, plain.out.bias + plain.out.weight @ of_values)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        k, v = self.kv(memory).split(x.shape[-1], -1)
        mixed: Tensor = self.out(_attention(self.q(x), k, v, self.heads))
        return mixed


def _one_product(plain: GatedResidualNetwork) -> nn.Module:
    """Merges the last two products of a gated residual network: in evaluation nothing is between them."""
    weight = plain.gate.weight.double()
    bias = plain.gate.bias + (weight @ plain.linear.bias.double()).float()
    plain.gate = _linear((weight @ plain.linear.weight.double()).float(), bias)
    plain.linear = nn.Identity()  # type: ignore[assignment]
    return plain


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach())
    return made


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    mixed: Tensor = torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)[0]
    return mixed


class ExportError(StockenhError):
    """A model that can't be exported, or whose export gives other results."""


def write_onnx(deployed: Deployed, example: Mapping[str, Tensor], path: Path, strict: bool = False) -> None:
    """One ONNX file, batch dynamic, inputs and outputs by name. example: at least two windows.

    strict: whether `write_program` needed it
    """
    form = onnx_form(deployed).eval()
    options: dict[str, Any] = {
        "dynamo": True,
        "opset_version": OPSET,
        "input_names": list(example),
        "output_names": list(deployed(**_inputs(example))),
        "verbose": False,
        "external_data": False,
    }
    if strict:  # by itself the exporter would fix the batch
        program = torch.onnx.export(_exported(form, example)[0], **options)
    else:
        dynamic = _dynamic(example)
        program = torch.onnx.export(form, kwargs=_inputs(example), dynamic_shapes=dynamic, **options)
    if program is None:
        raise ExportError("torch returned no ONNX program")
    write_atomic(path, program.model_proto.SerializeToString())


def write_program(deployed: Deployed, example: Mapping[str, Tensor], path: Path) -> bool:
    """A `torch.export` program, batch dynamic, for `torch.export.load` or AOTInductor; whether it took
    `strict`. Raises ExportError."""
    program, strict = _exported(deployed, example)
    content = io.BytesIO()
    torch.export.save(program, content)
    write_atomic(path, content.getbuffer())
    return strict


def _exported(deployed: Deployed, example: Mapping[str, Tensor]) -> tuple[torch.export.ExportedProgram, bool]:
    """The program, batch dynamic, and whether it took `strict`. Raises ExportError.

    Networks of a user's own may need `strict`, which reads their Python: with it even len(x) is dynamic.
    """
    for strict in (False, True):
        try:
            program = torch.export.export(
                deployed, (), kwargs=_inputs(example), dynamic_shapes=_dynamic(example), strict=strict
            )
            return program, strict
        except Exception as error:
            failed = error
    lines = [line.strip() for line in str(failed).splitlines() if line.strip()]
    raise ExportError(
        f"torch.export can't follow the network: {' '.join(lines[:1]) or type(failed).__name__} A forward "
        f"must work for any number of windows, without .item(), numpy or an if on what tensors hold"
    )


def write_int8(fp32: Path, path: Path) -> None:
    """The ONNX file `fp32` with weights of 8 bits; activations are quantised at run time."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(fp32)
    # onnxruntime below 1.32 transposes weights and then finds that their shapes are not those noted here
    model.graph.ClearField("value_info")
    with tempfile.TemporaryDirectory() as folder:
        bare, made = Path(folder) / "fp32.onnx", Path(folder) / path.name
        onnx.save(model, bare)
        # attention's products would lose most accuracy, and onnxruntime mistakes the operator for another
        quantize_dynamic(bare, made, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)
        write_atomic(path, made.read_bytes())


@contextmanager
def quietly() -> Iterator[None]:
    """Silences what exporters log below errors."""
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
    """An ONNX file on a CPU, without torch. Raises ExportError where it can't be loaded."""

    def __init__(self, path: Path, threads: int = 1, content: bytes | None = None) -> None:
        """content: of the file, where it was read already; an untrusted one is checked."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            if content is None:
                content = path.read_bytes()
            else:
                _require_bounded_graph(content)
            self.session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise ExportError(f"{path} can't be loaded: {_reason(error)}") from None
        self.path = path
        self.prices = self.session.get_inputs()[0].name
        self.outputs = [output.name for output in self.session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Outputs by name, from inputs by name. Raises ExportError where the graph does not take them."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        try:
            return dict(zip(self.outputs, self.session.run(None, given), strict=True))
        except Exception as error:
            raise ExportError(f"{self.path} can't be run: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# What an export never has, and what could run without end or read other files.
_UNBOUNDED = {"If", "Loop", "Scan", "SequenceMap"}


def _require_bounded_graph(content: bytes) -> None:
    """Raises ValueError where a graph has loops, branches, functions of its own or weights in other files."""
    import onnx

    model = onnx.load_model_from_string(content)
    loops = sorted({node.op_type for node in model.graph.node} & _UNBOUNDED)
    if loops or model.functions:
        raise ValueError(f"it has {', '.join(loops) or 'functions'}, which no export of a run has")
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    sparse = [*model.graph.sparse_initializer, *(a.sparse_tensor for a in attributes)]
    tensors = [*model.graph.initializer, *(t for a in attributes for t in (a.t, *a.tensors))]
    tensors += [part for tensor in sparse for part in (tensor.values, tensor.indices)]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ValueError("its weights lie in another file")


def _inputs(example: Mapping[str, Tensor]) -> dict[str, Any]:
    """Keyword arguments of `Deployed.forward` for inputs by their exported names."""
    return {"prices" if name in ("ohlcv", "prices") else name: tensor for name, tensor in example.items()}


def _dynamic(example: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    return {name: {0: batch} for name in _inputs(example)}
