"""`stockenh train` in one of several processes that torchrun has started."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from stockenh import world
from stockenh.errors import StockenhError, TrainingError
from stockenh.tasks import training

if TYPE_CHECKING:
    from stockenh.training.processes import Team

GRID_FLAGS = {"-m", "--multirun"}


def train(arguments: list[str]) -> None:
    """Trains alone; or leads, where this is the first process of several; or follows.

    Raises SystemExit in those that follow, with the exit code of the first.
    """
    place = world.place()
    if place is None:
        training.train(arguments)
        return
    if GRID_FLAGS & set(arguments):
        world.refuse_several("a grid of --multirun")
    from stockenh.training.processes import Team

    if place.leads:
        _lead(Team(place), arguments)
        return
    # a stop is the leader's to honour, whom the same signal reaches
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(_follow(Team(place)))


def _lead(team: Team, arguments: list[str]) -> None:
    from stockenh.run.together import Leader, leading

    leader, code = Leader(team), StockenhError.exit_code
    try:
        with leading(leader):
            training.train(arguments)
        code = 0
    except StockenhError as error:
        code = error.exit_code
        raise
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    except RuntimeError as error:
        if not leader.lost:
            raise
        raise TrainingError(_what(team, error)) from None
    finally:
        if not leader.lost:
            team.dismiss(code)


def _follow(team: Team) -> int:
    from stockenh.run.follow import follow

    try:
        code = follow(team)
    except Exception as error:
        if not team.is_broken(error):
            print(f"stockenh: {_what(team, error)}", file=sys.stderr)
        return StockenhError.exit_code
    team.part()
    return code


def _what(team: Team, error: Exception) -> str:
    """One line for what ended a step halfway in this process."""
    if team.is_broken(error):
        return (
            "another process of this run is gone, or can't be reached; what it said stands above. The last "
            "checkpoint is kept: go on with resume=RUN, with as many processes as you like"
        )
    first = (str(error).splitlines() or [""])[0]
    return f"process {team.place.rank} of {team.place.size}: {type(error).__name__}: {first}"
