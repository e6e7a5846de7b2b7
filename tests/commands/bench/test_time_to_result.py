"""The time to a result: paired by seed, to the plain recipe's best validation loss."""

import pytest
import torch

from stockenh.commands.bench import plain_recipe, result
from stockenh.commands.measure import Clock

CLOCK = Clock(torch.device("cpu"))
PLAIN = [(10.0, 0.7), (20.0, 0.5), (30.0, 0.6)]  # seconds, validation loss


@pytest.fixture
def figures(monkeypatch):
    """The figures of recipes whose curves, one per seed, are given."""

    def measure(own, plain=PLAIN):
        def curve(config, clock, until=None):
            if until is None:
                return plain
            points = own[config["seed"] - 1]
            reached = [i for i, (_, loss) in enumerate(points) if loss <= until]
            return points[: reached[0] + 1] if reached else points

        monkeypatch.setattr(result, "curve", curve)
        monkeypatch.setattr(result, "_config", lambda raw, seed, clock: {"seed": seed})
        return result.time_to_result("net", {}, {}, range(1, len(own) + 1), CLOCK)

    return measure


def test_the_ratio_is_of_the_times_to_the_same_loss(figures):
    plain, own, ratio = figures([[(4.0, 0.6), (8.0, 0.5)], [(4.0, 0.4)], [(2.0, 0.9), (6.0, 0.3)]])
    assert (plain.value, own.value, ratio.value) == (20.0, 6.0, 0.3)
    assert ratio.met is True and ratio.rounds == 3
    assert "2 against 2, 1 against 2, 2 against 2" in ratio.note


def test_a_seed_that_never_reaches_the_loss_counts_as_infinite(figures):
    *_, ratio = figures([[(4.0, 0.5)], [(4.0, 0.6)], [(12.0, 0.5)]])
    assert ratio.value == 0.6 and ratio.met is False
    assert "1 seed of 3 never reached it" in ratio.note and "never against 2" in ratio.note
    plain, ratio = figures([[(4.0, 0.6)]])
    assert (plain.value, ratio.value, ratio.met) == (20.0, None, None)


def test_the_plain_recipe_shares_the_data_alone():
    recipe = plain_recipe(
        {"data": "synthetic_small", "data.bars": "300", "optimizer.lr": "1", "model": "student"}
    )
    assert recipe["data"]["bars"] == 300
    assert recipe["optimizer"]["weight_decay"] == 1e-5 and recipe["train"]["batch_size"] == 64


def test_both_recipes_are_trained(stockenh, here, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the whole session
    monkeypatch.setattr("stockenh.commands.bench.training.BLOCK", {"cpu": 2**20})
    small = ["data=synthetic_small", "data.bars=300", "data.symbols=3", "device=cpu", "hydra.run.dir=made"]
    answer = stockenh("bench", "bench=result", "bench.models=[student]", "bench.seeds=[1]", *small, code=0)
    said = " ".join(answer.out.split())
    assert "this recipe / plain" in said
    assert "one of each recipe per seed" in said and "DataLoader" not in said  # which this part does not use
    assert not [path for path in here.iterdir() if path.name != "made"]


def test_without_a_validation_part_there_is_nothing_to_compare(refused, here, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # of the whole session
    monkeypatch.setattr("stockenh.commands.bench.training.BLOCK", {"cpu": 2**20})
    small = ["data=synthetic_small", "data.bars=300", "data.symbols=3", "split=all", "device=cpu"]
    assert "must hold a part out" in refused("bench", "bench=result", "bench.models=[student]", *small)
