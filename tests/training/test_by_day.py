"""Batches of whole days, and the losses that compare the windows of a day."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import CPU, assert_resumes
from random_bars import smooth_series
from scipy.special import ndtri
from scipy.stats import pearsonr, rankdata

from stockenh.data.bars import Bars
from stockenh.data.batches import Counts, DateBatches, DeviceWindows, Micro
from stockenh.data.fitted import Fitted
from stockenh.data.placement import StreamedWindows
from stockenh.data.prices import NoAugment
from stockenh.data.windows import index_windows
from stockenh.errors import ConfigError
from stockenh.training.losses import Distilled
from stockenh.training.losses.by_day import normal_scores
from stockenh.training.losses.listwise import Listwise
from stockenh.training.losses.rank_ic import RankIC
from stockenh.training.step import Objective

LOSSES = (RankIC, Listwise)
BY_DATE = "train.batch=date"


def panel():
    """Five symbols; the last two begin later, so that days differ in width."""
    series = []
    for number, bars in enumerate((40, 40, 40, 30, 25)):
        time, ohlcv = smooth_series(number, 40)
        series.append((f"S{number}", time[-bars:], ohlcv[-bars:]))
    bars = Bars.from_series(series)
    return index_windows(bars, np.zeros((len(bars), 1), np.float32), ("a",), (1, 3), 12)


def batches(windows, kind=DeviceWindows, **settings):
    rows = np.flatnonzero(windows.labelled)
    ready = kind(windows, np.zeros((len(windows), 0), np.float16), Fitted.fit(windows, rows), CPU)
    chosen = {"batch_size": 8, "accumulate": 1, "seed": 3, "augment": NoAugment(), **settings}
    return DateBatches(ready, rows, **chosen)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(8, 1), (8, 3), (1, 1), (1, 2), (5, 2), (10_000, 1)])
def test_a_day_is_never_divided_and_comes_once_an_epoch(batch_size, accumulate):
    windows = panel()
    found = batches(windows, batch_size=batch_size, accumulate=accumulate)
    rows = np.flatnonzero(windows.labelled)
    widths = np.unique(windows.asof[rows], return_counts=True)[1]
    assert len(set(widths)) > 1
    orders = []
    for epoch in (0, 1, 4):
        seen, sizes, days_seen = [], [], []
        for step in range(found.steps):
            group = found.group(epoch, step)
            own = found.rows_of(epoch, step).numpy()
            assert group.windows == len(own) and len(group.micros) <= accumulate
            start = 0
            for micro in group.micros:
                of_micro = own[start : start + len(micro.x_ctx)]
                start += len(micro.x_ctx)
                days = windows.asof[of_micro]
                assert len(np.unique(days)) == int(micro.day.max()) + 1
                assert all(len(np.unique(days[micro.day == d])) == 1 for d in micro.day.unique())
                days_seen += np.unique(days).tolist()
                sizes.append(len(of_micro))
            seen += own.tolist()
        assert sorted(seen) == rows.tolist() and len(set(days_seen)) == len(days_seen) == len(widths)
        assert np.mean(sizes[:-1] or sizes) >= min(batch_size, len(rows)) * 0.7
        orders.append(seen)
    assert len(set(map(tuple, orders))) == 3 or found.steps == 1


def test_where_days_are_as_wide_a_batch_takes_days_until_it_is_full():
    windows = panel().take(np.flatnonzero(panel().symbol < 3))
    for batch_size, expected in ((3, 3), (4, 6), (6, 6), (7, 9)):
        sizes = {len(batches(windows, batch_size=batch_size).rows_of(0, step)) for step in range(3)}
        assert sizes == {expected}


@pytest.mark.parametrize("first", [0, 2])
def test_streamed_and_resident_groups_are_the_same_from_any_step(first):
    windows = panel()
    streamed, resident = (batches(windows, kind, accumulate=2) for kind in (StreamedWindows, DeviceWindows))
    expected = [resident.group(1, step) for step in range(first, resident.steps)]
    for one, other in zip(streamed.groups(1, first), expected, strict=True):
        assert one.count == other.count and len(one.micros) == len(other.micros)
        for a, b in zip(one.micros, other.micros, strict=True):
            assert torch.equal(a.day, b.day) and torch.equal(a.x_price, b.x_price)
            assert torch.equal(a.y_ret, b.y_ret)


def micro(y, day, labelled=None):
    y = torch.tensor(y, dtype=torch.float32)
    there = torch.ones_like(y) if labelled is None else torch.tensor(labelled, dtype=torch.float32)
    empty = torch.zeros(len(y), 0)
    return Micro(empty, empty, empty, y * there, 0.5 + 0.5 * (y * there).sign(), there, day=torch.tensor(day))


def output(ret):
    ret = torch.tensor(ret, dtype=torch.float32)
    return {"ret": ret, "up_logits": torch.zeros_like(ret), "up_prob": torch.full_like(ret, 0.5)}


def by_hand(loss, forecast, y):
    """Of one day and horizon."""
    scores = ndtri((rankdata(y) - 0.5) / len(y))
    if isinstance(loss, RankIC):
        return 1 - pearsonr(forecast, scores)[0]
    wanted, found = (np.exp(x) / np.exp(x).sum() for x in (scores, np.array(forecast)))
    return -(wanted * np.log(found)).sum()


RET = [[0.1], [0.5], [-0.2], [0.3], [0.9], [1.0], [0.2], [0.0], [7.0]]
Y = [[0.3], [0.1], [-0.4], [0.3], [2.0], [-1.0], [0.4], [0.0], [9.0]]
DAY = [0, 0, 0, 0, 1, 1, 1, 2, 2]  # the last day has too few rows


@pytest.mark.parametrize("kind", LOSSES)
def test_the_mean_over_days_by_hand(kind):
    loss, target = kind(return_weight=1.0, direction_weight=0.5), micro(Y, DAY)
    objective, ret, y = Objective(loss), np.array(RET)[:, 0], np.array(Y)[:, 0]
    days = [by_hand(loss, ret[a:b], y[a:b]) for a, b in pairwise([0, 4, 7])]
    count = loss.count([target], Counts.of([target]))
    found = float(objective(output(RET), target, count))
    # a tie has no direction, and the cross-entropy of 0.5 is log 2 for the rest
    assert found == pytest.approx(np.mean(days) + 0.5 * math.log(2), rel=1e-5)
    assert int(count.labels) == 2 and int(count.moves) == 8


@pytest.mark.parametrize("kind", LOSSES)
def test_rows_without_a_label_and_horizons_of_their_own(kind):
    loss = kind(return_weight=1.0, direction_weight=0.0)
    y = [[1.0, 1.0], [2.0, 9.0], [3.0, -1.0], [0.0, 5.0], [4.0, 0.0]]
    labelled = [[1, 1], [1, 0], [1, 1], [0, 1], [1, 0]]
    ret = [[0.1, 0.2], [0.5, 100.0], [0.2, 0.3], [-50.0, 0.4], [0.7, 100.0]]
    target = micro(y, [0] * 5, labelled)
    first = by_hand(loss, [0.1, 0.5, 0.2, 0.7], [1.0, 2.0, 3.0, 4.0])
    second = by_hand(loss, [0.2, 0.3, 0.4], [1.0, -1.0, 5.0])
    found = Objective(loss)(output(ret), target, loss.count([target], Counts.of([target])))
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("kind", LOSSES)
def test_accumulated_micro_batches_are_the_mean_over_all_days(kind):
    loss = kind(return_weight=1.0, direction_weight=0.3)
    whole = micro(Y, DAY)
    parts = [micro(Y[:4], DAY[:4]), micro(Y[4:], [0, 0, 0, 1, 1])]
    objective = Objective(loss)
    one = objective(output(RET), whole, loss.count([whole], Counts.of([whole])))
    count = loss.count(parts, Counts.of(parts))
    pieces = zip((RET[:4], RET[4:]), parts, strict=True)
    several = sum(objective(output(ret), part, count) for ret, part in pieces)
    assert float(several) == pytest.approx(float(one), rel=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("ret", [RET, [[0.0]] * 9, [[1e4]] * 9])
def test_gradients_are_finite_and_days_too_short_have_none(kind, ret):
    target = micro(Y, DAY)
    out = output(ret)
    out["ret"].requires_grad_()
    loss = kind(direction_weight=0.0)
    Objective(loss)(out, target, loss.count([target], Counts.of([target]))).backward()
    assert out["ret"].grad.isfinite().all() and (out["ret"].grad[7:] == 0).all()
    alone = micro(Y[7:], [0, 0])
    out = output(ret[7:])
    out["ret"].requires_grad_()
    found = Objective(loss)(out, alone, loss.count([alone], Counts.of([alone])))
    found.backward()
    assert float(found.detach()) == 0 and (out["ret"].grad == 0).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_a_day_without_any_label_adds_nothing(kind):
    loss, found = kind(direction_weight=0.0), []
    for absent in (0, 4):
        labelled = [[1.0]] * len(Y) + [[0.0]] * absent
        target = micro([*Y, *[[1.0]] * absent], [*DAY, *[max(DAY) + 1] * absent], labelled)
        out = output([*RET, *[[0.5]] * absent])
        out["ret"].requires_grad_()
        total = Objective(loss)(out, target, loss.count([target], Counts.of([target])))
        total.backward()
        found.append((float(total.detach()), out["ret"].grad))
    assert found[1][0] == pytest.approx(found[0][0]) and found[1][1].isfinite().all()
    assert (found[1][1][len(Y) :] == 0).all()


def test_scores_of_ties_and_of_absent_rows():
    y, present = torch.tensor([[2.0], [1.0], [1.0], [5.0]]), torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    scores = normal_scores(y, present, torch.ones(4, 4))
    expected = ndtri((np.array([3, 1.5, 1.5]) - 0.5) / 3)
    assert scores[:, 0].tolist() == pytest.approx([*expected, 0], abs=1e-6)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_student_of_weight_0_has_the_loss_of_the_labels(kind):
    loss, target = kind(), micro(Y, DAY)
    objective, student = Objective(loss), Objective(Distilled(loss, 2.0, 0.0))
    taught = Micro(**{**vars(target), "teacher": object()})
    count = student.loss.count([taught], Counts.of([taught]))
    assert count == loss.count([target], Counts.of([target]))
    assert float(student(output(RET), taught, count)) == float(objective(output(RET), target, count))


def test_random_batches_are_refused_naming_both_keys(small):
    for name in ("rank_ic", "listwise"):
        with pytest.raises(ConfigError, match=f"loss={name} .*train.batch=random.*train.batch=date"):
            small(f"loss={name}")


def test_the_days_change_the_order_alone(small):
    """Off is the plain loop: the golden runs pin it. On, one step over everything is the same loss."""
    one_step = ["train.batch_size=100000", "model.dropout=0"]
    plain, by_date = small(*one_step), small(*one_step, BY_DATE)
    loss, _ = plain.learner.step(plain.batches.group(0, 0))
    other, _ = by_date.learner.step(by_date.batches.group(0, 0))
    assert float(loss) == pytest.approx(float(other), rel=1e-5)


@pytest.mark.parametrize("loss", ["huber_bce", "rank_ic", "listwise"])
def test_it_resumes_within_an_epoch_to_the_same_bits(small, loss, tmp_path):
    def make():
        return small(f"loss={loss}", BY_DATE, "train.accumulate=2")

    made = make()
    made.steps(0, 3)
    assert_resumes(made, tmp_path / "last.pt", make, lambda learner: learner.steps(3, learner.batches.steps))


def test_a_network_learns_the_order_of_a_day():
    """Labels follow the first of two features: both losses find it."""
    torch.manual_seed(0)
    x = torch.randn(60, 2)
    day = torch.arange(60) // 10
    target = micro((3 * x[:, :1]).tolist(), day.tolist())
    for loss in (RankIC(1.0, 0.0), Listwise(1.0, 0.0)):
        weight = torch.tensor([[0.0], [1.0]], requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=0.5)
        count = loss.count([target], Counts.of([target]))
        for _ in range(60):
            out = {"ret": x @ weight, "up_logits": torch.zeros(60, 1)}
            optimizer.zero_grad()
            Objective(loss)(out, target, count).backward()
            optimizer.step()
        first, second = weight.detach()[:, 0].tolist()
        assert first > 3 * abs(second)
