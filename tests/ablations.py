"""What tests of ablations share."""

from __future__ import annotations

import pytest

from stockenh.ablation import ablate, cost
from stockenh.multirun import worker


def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the cells done here, one after the other, as a pool of one worker would; memory is not measured."""

    def launch(one, size, arguments, ended, remain) -> None:
        while remain():
            if one.work(0) == 0:
                return

    monkeypatch.setattr(ablate, "launch", launch)
    monkeypatch.setattr(worker, "_die_with", lambda boss: None)
    monkeypatch.setattr(cost, "peak_memory", lambda *_: 1000)
