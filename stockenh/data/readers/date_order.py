"""One order of day and month for a folder: files whose own dates do not prove it follow the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from stockenh.data.readers.columns import Names
from stockenh.data.readers.dates import DateOrder, by_weekends

Layout = tuple[Names, str]
_ENOUGH_DATES: Final = 5  # that run one way in one order only, where other files contradict each other


def one_order(files: Sequence[tuple[Names, DateOrder | None]]) -> dict[int, bool | str]:
    """Whether the day comes first, or why that is unknown, for the files that must be read again.

    files: the names of each file's columns, and what its dates tell. A file without proof follows the files
    of the same layout that have one, else all that have one. Where none has, the dates of all files of a
    layout decide together.
    """
    proofs: dict[Layout, set[bool]] = {}
    doubtful: dict[Layout, list[int]] = {}
    for at, (names, order) in enumerate(files):
        if order is None or order.clash:
            continue
        layout = (names, order.form)
        if order.proof is None:
            doubtful.setdefault(layout, []).append(at)
        else:
            proofs.setdefault(layout, set()).add(order.proof)
    everywhere = set().union(*proofs.values())
    verdicts: dict[int, bool | str] = {}
    for layout, members in doubtful.items():
        known = proofs.get(layout, everywhere)
        orders = {at: order for at in members if (order := files[at][1]) is not None}
        together = None if known else _together(list(orders.values()))
        for at, order in orders.items():
            verdict = _verdict(order, known) if known else together
            read_as = bool(order.likely)
            if isinstance(verdict, str) or (verdict is not None and verdict != read_as):
                verdicts[at] = verdict
            elif verdict is None and read_as:
                verdicts[at] = False
            elif verdict is not None and order.likely is None:
                verdicts[at] = verdict
    return verdicts


def _verdict(order: DateOrder, known: set[bool]) -> bool | str:
    """The order for a file without proof beside files that prove the orders `known`."""
    if len(known) > 1:
        if order.runs is not None and order.count >= _ENOUGH_DATES:
            return order.runs
        return "day and month can't be told apart, and other files of the folder prove both orders"
    (day_first,) = known
    if order.runs is not None and order.runs != day_first:
        first = "day" if day_first else "month"
        return f"other files prove that the {first} comes first, but then this one's dates run both ways"
    return day_first


def _together(orders: Sequence[DateOrder]) -> bool | None:
    """The likely order of files of one layout without any proof; None where nothing decides."""
    runs = {order.runs for order in orders} - {None}
    if runs:
        return runs.pop() if len(runs) == 1 else None
    weekends = (sum(order.weekends[0] for order in orders), sum(order.weekends[1] for order in orders))
    return by_weekends(weekends)
