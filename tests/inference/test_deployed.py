"""The deployed graph: what stands before and after the network by hand, and ONNX's operators say the same."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from stockenh.data.fitted import Fitted
from stockenh.inference.calibration import Calibration
from stockenh.inference.export import (
    Deployed,
    ExportError,
    OnnxModel,
    quietly,
    write_int8,
    write_onnx,
    write_program,
)
from stockenh.models import InputSpec
from stockenh.models.tft import TftSettings
from stockenh.models.timeformer import TimeFormerSettings

SPEC = InputSpec(lookback=20, price=5, embedding=16, context=2, horizons=2)
FITTED = Fitted(["a", "b"], [1.0, -2.0], [0.5, 4.0], [0.02, 0.03], [0.5, 0.5])
CALIBRATION = Calibration((2.0, 1.0), (0.25, 0.0))


class Last(nn.Module):
    """TeacherOutput with the last normalised close and the first context feature."""

    def forward(self, x_price, x_embedding, x_ctx):
        ret = x_price[:, -1, 3:4].repeat(1, 2)
        return {"ret": ret, "up_logits": x_ctx, "up_prob": torch.sigmoid(x_ctx)}


def deployed(embedding=16, **settings):
    torch.manual_seed(0)
    small = {"d_model": 16, "heads": 2, "layers": 2, "ffn": 16, "head_hidden": 8, "patch": 5, **settings}
    net = TimeFormerSettings(**small).build(InputSpec(20, 5, embedding, 2, 2)).eval()
    for parameter in net.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Deployed(net, FITTED, CALIBRATION, raw_bars=True).eval()


def deployed_tft():
    torch.manual_seed(0)
    settings = TftSettings(d_model=8, heads=2, lstm_layers=1, fusion_layers=1)
    return Deployed(settings.build(SPEC).eval(), FITTED, CALIBRATION, raw_bars=True).eval()


def onnx_file(model, path, embedding=16):
    with quietly():
        write_onnx(model, windows(2, embedding), path)
    return path


def windows(count, embedding=16):
    """Raw bars with a flat window and one without volume among them."""
    rng = np.random.default_rng(count)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (count, 20, 1)), 1))
    bars = np.concatenate(
        [close * rng.uniform(0.98, 1.02, (count, 20, 4)), rng.uniform(1e3, 1e9, (count, 20, 1))], 2
    )
    bars[0, :, :4] = 17.0
    bars[-1, :, 4] = 0.0
    made = {"prices": bars, "context": rng.normal(0, 30, (count, 2))}
    made["embedding"] = rng.normal(size=(count, embedding))
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in made.items()}


def test_what_stands_before_and_after_by_hand():
    prices = torch.tensor([[[10.0, 12, 8, 9, 0], [9, 11, 9, 11, 0]]])
    out = Deployed(Last(), FITTED, CALIBRATION, raw_bars=True)(prices, torch.tensor([[2.0, 100.0]]))
    close = 2 * (11 - 8) / (12 - 8) - 1
    np.testing.assert_allclose(out["ret"], [[0.02 * close, 0.03 * close]], rtol=1e-6)
    standardised = [(2 - 1) / 0.5, 5.0]  # (100 + 2) / 4 is clipped
    expected = [1 / (1 + math.exp(-(standardised[0] / 2 + 0.25))), 1 / (1 + math.exp(-standardised[1]))]
    np.testing.assert_allclose(out["up_prob"], [expected], rtol=1e-6)
    normalised = torch.full((1, 2, 5), 0.25)  # stays as it came
    out = Deployed(Last(), FITTED, CALIBRATION, raw_bars=False)(normalised, torch.zeros(1, 2))
    np.testing.assert_allclose(out["ret"], [[0.25 * 0.02, 0.25 * 0.03]], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "embedding"),
    [
        (deployed, 16),
        *(pytest.param(*case, marks=pytest.mark.deep) for case in (
            (deployed_tft, 16),
            (partial(deployed, 0), 0),
            (partial(deployed, conv_dilations=[], embedding_tokens=2, heads=4), 16),
            (partial(deployed, bar_returns=True), 16),
        )),
    ],
    ids=["default", "quantiles", "no embedding", "no convolutions", "returns of the bars"],
)
def test_both_files_say_what_the_network_says_at_any_batch(tmp_path, make, embedding):
    model = make()
    onnx = OnnxModel(onnx_file(model, tmp_path / "m.onnx", embedding))
    with quietly():
        write_program(model, windows(2, embedding), tmp_path / "m.pt2")
        program = torch.export.load(tmp_path / "m.pt2").module()
    for count in (1, 2, 3, 300):
        given = windows(count, embedding)
        with torch.no_grad():
            own, exported = model(**given), program(**given)
        served = onnx({name: tensor.numpy() for name, tensor in given.items()})
        for name in {"ret", "up_prob", "quantiles"} & own.keys():
            np.testing.assert_allclose(exported[name], own[name], atol=1e-6)
            np.testing.assert_allclose(served[name], own[name], atol=1e-6)
    assert float(own["up_prob"].std()) > 0.01
    if "quantiles" in own:  # in raw units
        assert own["quantiles"].shape == (300, 2, 3)
        np.testing.assert_allclose(own["quantiles"][..., 1], own["ret"], rtol=1e-6)


def test_attention_is_one_operator_and_weights_are_kept(tmp_path):
    import onnx

    model = deployed()
    before = [p.clone() for p in model.parameters()]
    nodes = onnx.load(onnx_file(model, tmp_path / "m.onnx")).graph.node
    kinds = [node.op_type for node in nodes]
    assert kinds.count("Attention") == 3 and kinds.count("RotaryEmbedding") == 4 and "Softmax" not in kinds
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_8_bits_are_a_quarter_of_the_size_and_near(tmp_path):
    fp32, int8 = onnx_file(deployed(d_model=64, ffn=256), tmp_path / "m.onnx"), tmp_path / "m8.onnx"
    with quietly():
        write_int8(fp32, int8)
    assert int8.stat().st_size < 0.5 * fp32.stat().st_size
    given = {name: tensor.numpy() for name, tensor in windows(64).items()}
    forecasts = [OnnxModel(path)(given)["up_prob"] for path in (fp32, int8)]
    assert 0 < np.abs(forecasts[0] - forecasts[1]).max() < 0.05


def test_what_is_no_onnx_file_is_refused_in_a_line(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ExportError, match=r"m\.onnx can't be loaded"):
        OnnxModel(tmp_path / "m.onnx")
