"""Work on many files or series at once, on all cores."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`map(work, items)` with one thread per core, in the order of the items.

    Threads suffice: numpy, scipy and polars release the interpreter's lock while they compute. An exception
    of `work`, or Ctrl-C, ends it once the items in progress are done.
    """
    count = min(available_cores(), len(items))
    if count < 2:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(count, thread_name_prefix="stockenh-data") as threads:
        yield from threads.map(work, items)
