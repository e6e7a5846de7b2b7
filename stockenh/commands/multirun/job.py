"""What a job is told when it trains as part of something larger: whom it reports to, and what it may see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

# The part of the data that a job of a search is judged on: the test part stays unseen.
JUDGED = ("val",)


class Assignment(Protocol):
    """One job of many, given to this process."""

    number: int
    overrides: list[str]  # what tells this job from the others
    stopped: bool  # given back: the worker takes no other

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """An epoch is complete; True ends the job. Raises Interrupted where it is to be taken up later."""

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """The job has run to its end; validation: {"loss": ..., "h3": {...}} of the weights it keeps."""

    def fail(self, why: str) -> None:
        """The job has ended in an error, which does not concern the others."""

    def give_back(self) -> None:
        """The job was stopped and has saved where it was."""


_CURRENT: ContextVar[Assignment | None] = ContextVar("assignment", default=None)


def current() -> Assignment | None:
    """The assignment that the job at hand works on; Hydra calls a job with nothing but its config."""
    return _CURRENT.get()


@contextmanager
def working_on(assignment: Assignment) -> Iterator[None]:
    """Within, `current()` is this assignment."""
    token = _CURRENT.set(assignment)
    try:
        yield
    finally:
        _CURRENT.reset(token)
