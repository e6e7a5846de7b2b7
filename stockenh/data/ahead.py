"""Work done ahead of whoever asks for it, in order, by one thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Generator[Result, None, None]:
    """work(item) of each item, in order; up to `ahead` results are made before they are asked for.

    What `work` raises is raised here, with its own traceback, when the item's turn has come. The thread ends
    with the items, with an error, and when the generator is closed.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="stockenh-ahead") as thread:
        try:
            for item in items:
                pending.append(thread.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for one in pending:
                one.cancel()
