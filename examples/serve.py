"""Forecasts from an exported model with onnxruntime and numpy alone: python serve.py RUN/export"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
manifest = json.loads((folder / "manifest.json").read_text())
model = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

# Some windows of the run's own. Yours: raw bars, context features and embedding, float32, of these shapes.
windows = np.load(folder / "example.npz")
inputs = {name: windows[name] for name in manifest["inputs"]}
ret, up_prob = model.run(["ret", "up_prob"], inputs)

for place, bars in enumerate(manifest["horizons"]):
    print(f"{bars} bars: return {ret[0, place]:+.2%}, up {up_prob[0, place]:.1%}")
assert np.allclose(up_prob, windows["expected_up_prob"], atol=1e-5)
