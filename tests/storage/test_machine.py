"""What the machine has left, within a container's limit."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from stockenh.storage import machine


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        ({"max": "max", "current": "5", "stat": ""}, None),
        ({"max": "1000", "current": "600", "stat": "anon 500\ninactive_file 50\n"}, 450),
        ({"max": "1000", "current": "1200", "stat": "anon 1200\n"}, 0),
    ],
)
def test_a_containers_limit_counts_pages_that_can_be_dropped_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], left: int | None
) -> None:
    for name, content in files.items():
        (tmp_path / f"memory.{name}").write_text(content)
    assert machine._container_memory(tmp_path) == left
    monkeypatch.setattr(machine, "_container_memory", lambda: left)
    free = machine.free_memory(torch.device("cpu"))
    assert free == left if left is not None else 2**20 < free <= psutil.virtual_memory().total
