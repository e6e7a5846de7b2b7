"""Trains and honestly judges deep models that forecast stocks from daily bars."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from stockenh.commands.api import Evaluation, Run, evaluate, forecast, train

__all__ = ["Evaluation", "Run", "__version__", "evaluate", "forecast", "plugin", "train"]

__version__ = "0.2.0"

Kind = TypeVar("Kind", bound=type)

# OpenMP's threads spin while they wait for each other. Beside another busy process that costs far more
# than it saves: on two cores with two neighbours a small model trained 17 times slower. OpenMP reads this
# when torch is loaded, so it must stand here.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def plugin(group: str, name: str) -> Callable[[Kind], Kind]:
    """Makes a dataclass of settings the option `group=name`, see docs/own_model.md.

    group: a config group such as model, loss or target. The class stays as it is; whoever names its file with
    --plugin can choose it.
    """

    def registered(kind: Kind) -> Kind:
        from stockenh.config import plugins

        plugins.register(group, name, kind)
        return kind

    return registered


def __getattr__(name: str) -> Any:
    """The verbs of docs/python.md, imported on demand: the command line starts without them."""
    if name in __all__:
        from stockenh.commands import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
