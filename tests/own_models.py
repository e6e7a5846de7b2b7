"""The plugins of docs/own_model.md and of examples/, and the settings that make their models small."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/own_model.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(# (\w+\.py)\n.*?)```", GUIDE, re.DOTALL)
SETTINGS = {
    "mine": ["model.patch=5", "model.width=8", "model.heads=2", "model.layers=1"],
    "lstm_attention": ["model.hidden=4"],
}
KEY = {"mine": "model.width", "lstm_attention": "model.hidden"}
