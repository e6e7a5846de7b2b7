"""What tests of searches and ablations share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stockenh.commands.multirun import pool as launch
from stockenh.commands.multirun import worker
from stockenh.commands.multirun.worker import Worker


def work_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has jobs done in this process, one after the other, as a pool of one worker would."""

    def pool(one: Worker, size: int, ended: Callable[[], int], remain: Callable[[], bool]) -> None:
        while remain():
            if one.work(0) == 0:
                return

    monkeypatch.setattr(launch, "run_pool", pool)
    monkeypatch.setattr(worker, "_die_with", lambda boss: None)
