"""Work on many files or series at once, on all cores: in processes, for threads wait for Python's lock.

The standard library's pool is not used: it imports the user's script again, and its processes outlive a
killed parent. These end with the pipe that they are asked through.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from stockenh.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")
Process = subprocess.Popen[bytes]

_CODE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from stockenh.data.processes import serve; serve()"
)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def grouped(sizes: Sequence[int], least: int) -> list[slice]:
    """Consecutive items in groups whose sizes sum to at least `least`, the last group excepted."""
    groups, begin, total = [], 0, 0
    for end, size in enumerate(sizes, 1):
        total += size
        if total >= least or end == len(sizes):
            groups.append(slice(begin, end))
            begin, total = end, 0
    return groups


def in_processes(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(work, items)` with a process per core, in the order of the items.

    work and items are pickled; each item should take much longer than that. Those of an iterator are released
    once they are done. With one core or one item, all is done in this process. Raises what `work` raises, and
    DataError where a process ends before it has answered.
    """
    waiting = deque(items)
    count = min(available_cores(), len(waiting))
    if count < 2:
        yield from map(work, _drained(waiting))
        return
    processes = [_start() for _ in range(count)]
    free: SimpleQueue[Process] = SimpleQueue()
    for process in processes:
        free.put(process)

    def ask(item: Item) -> Any:
        process = free.get()
        try:
            return _answer(process, (work, item))
        finally:
            free.put(process)

    with ThreadPoolExecutor(count, thread_name_prefix="stockenh-data") as threads:
        try:
            yield from threads.map(ask, _drained(waiting))
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _drained(items: deque[Item]) -> Iterator[Item]:
    while items:
        yield items.popleft()


def serve() -> None:
    """Answers what is asked through the standard input, until it is closed."""
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while True:
        try:
            work, item = pickle.load(asked)
        except EOFError:
            return
        try:
            answer: tuple[Any, Exception | None] = (work(item), None)
        except Exception as error:
            answer = (None, error)
        try:
            pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            os._exit(1)  # whoever asked is gone


def _start() -> Process:
    """A process with the modules of this one, in a session of its own: Ctrl-C does not reach it."""
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "POLARS_MAX_THREADS": "1"},
        start_new_session=True,
    )


def _answer(process: Process, question: object) -> Any:
    assert process.stdin and process.stdout
    try:
        pickle.dump(question, process.stdin, pickle.HIGHEST_PROTOCOL)
        process.stdin.flush()
        result, error = pickle.load(process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        raise DataError(
            "a process that reads bars ended before it was done, perhaps for lack of memory: try again with "
            "fewer files, or on one core (taskset -c 0 stockenh ...)"
        ) from None
    if error is not None:
        raise error
    return result
