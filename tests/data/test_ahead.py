from __future__ import annotations

import threading
import traceback
from contextlib import closing

import pytest

from stockenh.data.placement import prefetch


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stockenh-prefetch")]


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(prefetch(lambda x: x * x, range(50), 3)) == [x * x for x in range(50)]
    assert list(prefetch(lambda x: x, [], 3)) == []
    assert running() == []


@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_no_more_than_so_many_are_begun_before_their_turn(ahead: int) -> None:
    begun: list[int] = []
    with closing(prefetch(begun.append, range(20), ahead)) as results:
        for turn, _ in enumerate(results):
            assert len(begun) <= turn + 1 + ahead


def test_the_next_item_is_worked_on_while_nobody_asks() -> None:
    second = threading.Event()
    with closing(prefetch(lambda x: second.set() if x == 1 else None, range(9), 2)) as results:
        next(results)
        assert second.wait(10)


def test_an_error_comes_at_its_items_turn_with_its_own_traceback() -> None:
    def fails_at_three(x: int) -> int:
        if x == 3:
            raise OSError("the disk is gone")
        return x

    got = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        for x in prefetch(fails_at_three, range(9), 4):
            got.append(x)
    assert got == [0, 1, 2]
    assert "fails_at_three" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert running() == []


def test_closing_ends_the_thread_and_leaves_the_rest_undone() -> None:
    done: list[int] = []
    results = prefetch(done.append, range(1000), 2)
    next(results)
    assert len(running()) == 1
    results.close()
    assert running() == [] and len(done) <= 3
