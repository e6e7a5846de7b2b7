"""What tests of ablations share."""

from __future__ import annotations

import pytest
from workers import work_here

from stockenh.commands.ablate import cost


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the cells done here, one after the other, as a pool of one worker would; memory is not measured."""
    work_here(monkeypatch)
    monkeypatch.setattr(cost, "training_memory", lambda *_: 1000)
