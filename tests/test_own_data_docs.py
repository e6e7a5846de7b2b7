"""The code of docs/own_data.md runs as it is written."""

import re
import shlex
from pathlib import Path

from stockenh.data.extra import ExtraSettings

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "own_data.md").read_text(encoding="utf-8")
SMALL = [
    "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "embedding=none", "device=cpu"
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_example_runs(here, stockenh):
    (code,) = blocks("python")
    exec(compile(code, "docs/own_data.md", "exec"), {})
    lines = [shlex.split(line) for block in blocks("sh") for line in block.splitlines()]
    assert [words[1] for words in lines] == ["data", "train", "audit", "tta-predict"]
    for _, command, *arguments in lines:
        small = SMALL if command == "train" else []
        out = stockenh(command, *arguments, *small, code=0).out
    assert "AAA" in out
    assert (here / "run" / "report" / "audit.md").is_file()


def test_the_defaults_are_those_of_the_code():
    settings = ExtraSettings()
    for key, value in (("lag", settings.lag), ("max_age", settings.max_age)):
        assert f"| `data.extra.{key}` | {value} |" in TEXT
