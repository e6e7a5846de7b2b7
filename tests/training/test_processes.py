"""What the processes of a run add up to: the gradient that one process has, whatever their number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
import torch
from conftest import Small

from stockenh.data.batches import Group, TrainBatches
from stockenh.training.distributed import RankBatches
from stockenh.training.world import Rank

NO_DROPOUT = "model.dropout=0"


def shares(made: Small, size: int) -> list[RankBatches]:
    y_ret = made.prepared.windows.y_ret
    return [RankBatches(made.batches, y_ret, Rank(rank, rank, size)) for rank in range(size)]


def gradient(made: Small, groups: list[Group]) -> tuple[float, torch.Tensor]:
    """The loss and the gradient that these groups add up to."""
    made.learner.optimizer.zero_grad()
    loss = torch.zeros(())
    for group in groups:
        for part in made.learner.losses(group):
            part.backward()
            loss += part.detach()
    found = [p.grad.flatten() for p in made.learner.model.parameters() if p.grad is not None]
    return float(loss), torch.cat(found)


def group_of_one_row(made: Small) -> tuple[TrainBatches, int]:
    """Batches whose last group has a single row, and its number."""
    rows = made.batches.rows[: 2 * made.batches.group_size + 1]
    batches = TrainBatches(
        made.resident, rows.numpy(), batch_size=32, accumulate=1, seed=1, augment=made.batches.augment
    )
    assert len(batches.rows_of(0, 2)) == 1
    return batches, 2


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("size", [2, 3])
def test_gradients_of_all_shares_are_that_of_the_whole_group(
    small: Callable[..., Small], accumulate: int, size: int
) -> None:
    made = small(NO_DROPOUT, f"train.accumulate={accumulate}", "model.learned_task_weights=true")
    for step in (0, made.batches.steps - 1):
        whole = made.batches.group(0, step)
        parts = [batches.group(0, step) for batches in shares(made, size)]
        assert all(part.count == whole.count and part.windows == whole.windows for part in parts)
        expected, found = gradient(made, [whole]), gradient(made, parts)
        assert found[0] == pytest.approx(expected[0], rel=1e-6)
        assert torch.allclose(found[1], expected[1], rtol=1e-4, atol=1e-6)


def test_a_process_without_a_row_adds_nothing(small: Callable[..., Small]) -> None:
    made = small(NO_DROPOUT)
    batches, last = group_of_one_row(made)
    y_ret = made.prepared.windows.y_ret
    parts = [RankBatches(batches, y_ret, Rank(rank, rank, 3)).group(0, last) for rank in range(3)]
    assert [float(part.micros[0].labelled.sum()) > 0 for part in parts] == [True, False, False]
    loss, empty = gradient(made, parts[1:])
    assert loss == 0 and not empty.any()
    whole = batches.group(0, last)
    assert torch.allclose(gradient(made, parts)[1], gradient(made, [whole])[1], rtol=1e-5, atol=1e-7)


def test_four_processes_pass_once_over_what_one_accumulates(small: Callable[..., Small]) -> None:
    made = small("train.accumulate=4", "train.batch_size=16")
    assert len(made.batches.group(0, 0).micros) == 4
    assert [len(batches.group(0, 0).micros) for batches in shares(made, 4)] == [1, 1, 1, 1]


@pytest.mark.parametrize(("rows", "size"), [(10, 2), (10, 3), (2, 4), (1, 2), (64, 1)])
def test_shares_hold_every_row_once_and_differ_by_one_at_most(
    small: Callable[..., Small], rows: int, size: int
) -> None:
    all_rows = torch.arange(100, 100 + rows)
    parts = [batches.share(all_rows) for batches in shares(small(), size)]
    assert torch.equal(torch.cat(parts), all_rows)
    lengths = [len(part) for part in parts]
    assert max(lengths) - min(lengths) <= 1


def draws(batches: TrainBatches, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The noisy prices of step 2 and a random number of its forward pass, starting at step `first`."""
    with contextlib.closing(batches.groups(1, first)) as groups:
        group = next(group for step, group in enumerate(groups, first) if step == 2)
        return group.micros[0].x_price, torch.rand(1)


def test_a_rank_draws_by_the_place_in_the_run_wherever_it_was_resumed(small: Callable[..., Small]) -> None:
    made = small("augment=noise")
    y_ret, found = made.prepared.windows.y_ret, []
    for rank in (1, 2):
        batches = RankBatches(made.batches, y_ret, Rank(rank, rank, 3))
        one, other = draws(batches, 0), draws(batches, 2)
        assert all(map(torch.equal, one, other))
        found.append(one[1])
    assert found[0] != found[1]


def test_rank_0_goes_on_from_its_random_state(small: Callable[..., Small]) -> None:
    made = small()
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    assert draws(RankBatches(made.batches, made.prepared.windows.y_ret, Rank(0, 0, 3)), 2)[1] == expected
