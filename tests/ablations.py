"""What tests of ablations share."""

from __future__ import annotations

import pytest

from stockenh.commands.ablate import perform


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the measurement of memory, which takes processes of its own."""
    monkeypatch.setattr(perform, "training_memory", lambda *_: 1000)
