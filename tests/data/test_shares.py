"""Shares of a training group are the group, each row once, with the counts of the whole."""

from __future__ import annotations

import pytest
import torch

from stockenh.data.batches import Share


@pytest.mark.parametrize(("rows", "size"), [(10, 2), (10, 3), (2, 4), (1, 2), (64, 1)])
def test_shares_hold_every_row_once_and_differ_by_one_at_most(rows: int, size: int) -> None:
    all_rows = torch.arange(100, 100 + rows)
    shares = [Share(rank, size).of(all_rows) for rank in range(size)]
    assert torch.equal(torch.cat(shares), all_rows)
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
