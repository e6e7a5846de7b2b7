"""`stockenh find-lr`: a learning-rate range test, or a grid of them, each in a folder of its own."""

from __future__ import annotations

from typing import Any

from stockenh.commands.finished import require_own_folder
from stockenh.config import compose
from stockenh.config.schema import parse
from stockenh.storage.run_folder import RunFolder


def find_lr(arguments: list[str]) -> None:
    """Leaves lr_finder.json and its picture in a folder of its own."""
    compose.run("find_lr", _find_lr, arguments)


def _find_lr(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.find_lr.range_test import find_lr as find
    from stockenh.config import build
    from stockenh.report.terminal import console

    require_own_folder(folder, "a range test")
    folder.refuse_if_run()
    config = parse(raw)
    find(config, folder, build.device(config.device), console())
