"""The sweepers as Hydra finds them."""

from __future__ import annotations

import subprocess
import sys

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


def test_hydra_lists_both_sweepers_and_not_what_they_are_made_of() -> None:
    names = [f"{found.__module__}.{found.__name__}" for found in Plugins.instance().discover(Sweeper)]
    assert sorted(name for name in names if "stockenh" in name) == [
        "hydra_plugins.stockenh_ablate.sweeper.AblationSweeper",
        "hydra_plugins.stockenh_optuna.sweeper.OptunaSweeper",
    ]


def test_to_be_listed_they_need_nothing_else_of_the_program() -> None:
    program = (
        "import sys, hydra_plugins.stockenh_ablate.sweeper, hydra_plugins.stockenh_optuna.sweeper\n"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('stockenh', 'torch', 'optuna')))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split() == []
