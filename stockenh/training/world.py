"""Which of how many processes this is, where torchrun or its like has started several."""

from __future__ import annotations

import os
from dataclasses import dataclass

from stockenh.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """One process among `size`, the one numbered `rank` of all and `local_rank` of its own machine."""

    rank: int
    local_rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, prints and decides."""
        return self.rank == 0


def place() -> Place | None:
    """This process's place by the environment; None where it is alone.

    Raises ConfigError where WORLD_SIZE speaks of several and the rest of what torchrun sets is missing.
    """
    size = os.environ.get("WORLD_SIZE", "1")
    if size == "1":
        return None
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if lacking := [name for name in needed if name not in os.environ]:
        raise ConfigError(
            f"WORLD_SIZE={size} without {', '.join(lacking)}: start several processes with torchrun "
            f"--nproc-per-node=N -m stockenh train ..., or unset WORLD_SIZE"
        )
    try:
        return Place(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(size))
    except ValueError:
        raise ConfigError(f"WORLD_SIZE={size}, RANK and LOCAL_RANK must be whole numbers") from None


def refuse_several(what: str) -> None:
    """Raises ConfigError where several processes were started for something that one does.

    Of several, one says so and the others leave without a word.
    """
    found = place()
    if found is None:
        return
    if not found.leads:
        raise SystemExit(ConfigError.exit_code)
    raise ConfigError(
        f"{what} takes one process, and torchrun has started {found.size}: several make the steps of a "
        f"single stockenh train. Start this without torchrun"
    )
