"""OneCycle as the base recipe describes it."""

import math

import pytest
import torch

from stockenh.errors import ConfigError
from stockenh.training.schedules import Constant, OneCycle, Schedule


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=7.0)


def rates(schedule: Schedule, on: torch.optim.Optimizer, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.lr)
        on.step()
        schedule.step()
    return found


def test_the_cycle_starts_at_a_tenth_peaks_at_30_percent_and_ends_at_a_hundredth_of_the_start() -> None:
    on = optimizer()
    found = rates(OneCycle().build(on, peak=1e-3, steps=100), on, 99)
    assert found[0] == pytest.approx(1e-4)
    assert found[29] == pytest.approx(1e-3)
    assert max(found) == found[29]
    assert on.param_groups[0]["lr"] == pytest.approx(1e-6)
    # a cosine: half-way up the rate is half-way between start and peak
    assert found[10] == pytest.approx(1e-4 + (1e-3 - 1e-4) * (1 - math.cos(math.pi * 10 / 29)) / 2)


def test_momentum_cycles_the_other_way() -> None:
    on = optimizer()
    schedule = OneCycle().build(on, peak=1e-3, steps=10)
    assert on.param_groups[0]["betas"][0] == pytest.approx(0.95)
    rates(schedule, on, 2)
    assert on.param_groups[0]["betas"][0] == pytest.approx(0.85)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_run_of_any_length_has_a_schedule(steps: int) -> None:
    on = optimizer()
    schedule = OneCycle(warmup=0.1).build(on, peak=1e-3, steps=steps)
    assert all(0 < rate <= 1e-3 + 1e-12 for rate in rates(schedule, on, steps - 1))


@pytest.mark.parametrize("settings", [OneCycle(), Constant()])
@pytest.mark.parametrize("at", [0, 1, 29, 30, 77])
def test_taken_up_at_any_step_it_goes_on_with_the_same_bits(settings: OneCycle | Constant, at: int) -> None:
    on = optimizer()
    whole = rates(settings.build(on, peak=1e-3, steps=100), on, 99)
    first, second = optimizer(), optimizer()
    begun = settings.build(first, peak=1e-3, steps=100)
    rates(begun, first, at)
    taken_up = settings.build(second, peak=1e-3, steps=100)
    second.load_state_dict(first.state_dict())
    taken_up.load_state_dict(begun.state_dict())
    assert rates(taken_up, second, 99 - at) == whole[at:]


def test_more_epochs_lay_the_cycle_anew_from_the_step_reached() -> None:
    longer, short = optimizer(), optimizer()
    expected = rates(OneCycle().build(longer, peak=1e-3, steps=200), longer, 199)
    schedule = OneCycle().build(short, peak=1e-3, steps=200)
    schedule.load_state_dict({"taken": 100})
    assert rates(schedule, short, 99) == pytest.approx(expected[100:])


def test_constant_stays_at_the_peak() -> None:
    on = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    assert rates(Constant().build(on, peak=0.5, steps=5), on, 5) == [0.5] * 5


@pytest.mark.parametrize(
    "values", [{"warmup": 0.0}, {"warmup": 1.0}, {"start_factor": 0.5}, {"end_factor": 0.0}]
)
def test_wrong_settings_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"schedule.{next(iter(values))}="):
        OneCycle(**values)
