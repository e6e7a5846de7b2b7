"""Which of several processes this is, where torchrun or the like has started several. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stockenh.errors import ConfigError


@dataclass(frozen=True)
class Rank:
    """One process: the number `rank` of `size` in all, and `local_rank` on its own machine."""

    rank: int
    local_rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, prints and decides."""
        return self.rank == 0


def own_rank() -> Rank | None:
    """This process's rank according to the environment; None for a single process.

    Raises ConfigError where WORLD_SIZE is above 1 and the other variables of torchrun are missing.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return None
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE={size} without {', '.join(missing)}: start several processes with torchrun "
            f"--nproc-per-node=N -m stockenh train ..., or unset WORLD_SIZE"
        )
    try:
        return Rank(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(size))
    except ValueError:
        raise ConfigError(f"WORLD_SIZE={size}, RANK and LOCAL_RANK must be whole numbers") from None


def refuse_several(what: str) -> None:
    """Raises ConfigError under torchrun, for what takes one process. Only the first process prints it."""
    own = own_rank()
    if own is None:
        return
    if not own.is_first:
        raise SystemExit(ConfigError.exit_code)
    raise ConfigError(
        f"{what} takes one process, and torchrun has started {own.size}: only stockenh train can use "
        f"several. Start this without torchrun"
    )
