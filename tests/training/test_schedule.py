"""Schedules: the base recipe's one cycle, SWA's own rate, and resuming at any step."""

import math

import pytest
import torch

from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError
from stockenh.training.optimizers import Constant, OneCycle, Plan, Schedule, with_swa

State = list[tuple[float, tuple[float, float]]]


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=7.0)


def run(schedule: Schedule, on: torch.optim.Optimizer, steps: int) -> State:
    """Rate and betas of so many steps."""
    found = []
    for _ in range(steps):
        found.append((schedule.lr, on.param_groups[0]["betas"]))
        schedule.step()
    return found


def rates(plan: Plan, steps: int) -> list[float]:
    return [plan(step)[0] for step in range(steps)]


def test_the_cycle_starts_at_a_tenth_peaks_at_30_percent_and_ends_at_a_hundredth_of_the_start() -> None:
    found = rates(OneCycle().plan(peak=1e-3, steps=100), 100)
    assert found[0] == pytest.approx(1e-4)
    assert found[29] == max(found) == pytest.approx(1e-3)
    assert found[99] == pytest.approx(1e-6)
    # a cosine: half-way up the rate is half-way between start and peak
    assert found[10] == pytest.approx(1e-4 + (1e-3 - 1e-4) * (1 - math.cos(math.pi * 10 / 29)) / 2)


@pytest.mark.parametrize(("warmup", "steps"), [(0.3, 2), (0.3, 3), (0.3, 77), (0.1, 2), (0.1, 40)])
def test_it_is_torch_s_own_cycle_to_the_last_bit(warmup: float, steps: int) -> None:
    ours, theirs = optimizer(), optimizer()
    schedule = Schedule(ours, OneCycle(warmup=warmup).plan(1e-3, steps))
    reference = torch.optim.lr_scheduler.OneCycleLR(
        theirs, 1e-3, total_steps=steps, pct_start=warmup, div_factor=10, final_div_factor=100
    )
    for _ in range(steps):
        assert schedule.lr == theirs.param_groups[0]["lr"]
        assert ours.param_groups[0]["betas"] == theirs.param_groups[0]["betas"]
        theirs.step()
        schedule.step()
        reference.step()


def test_momentum_cycles_the_other_way() -> None:
    on = optimizer()
    betas = [betas[0] for _, betas in run(Schedule(on, OneCycle().plan(peak=1e-3, steps=10)), on, 10)]
    assert betas[0] == pytest.approx(0.95) and betas[2] == pytest.approx(0.85)
    assert betas[9] == pytest.approx(0.95)


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_run_of_any_length_has_a_schedule(steps: int) -> None:
    found = rates(OneCycle(warmup=0.1).plan(peak=1e-3, steps=steps), steps + 1)
    assert all(0 < rate <= 1e-3 + 1e-12 for rate in found)


PLANS = {
    "one cycle": OneCycle().plan(1e-3, 100),
    "constant": Constant().plan(1e-3, 100),
    "swa": with_swa(OneCycle().plan(1e-3, 100), 60, 1e-4, 10),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("done", [0, 1, 29, 59, 60, 65, 77])
def test_resumed_at_any_step_it_goes_on_with_the_same_bits(name: str, done: int) -> None:
    on, first, second = optimizer(), optimizer(), optimizer()
    whole = run(Schedule(on, PLANS[name]), on, 99)
    started, resumed = Schedule(first, PLANS[name]), Schedule(second, PLANS[name])
    run(started, first, done)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(started.state_dict())
    assert run(resumed, second, 99 - done) == whole[done:]


def test_more_epochs_stretch_the_cycle_from_the_step_reached() -> None:
    on, plan = optimizer(), OneCycle().plan(peak=1e-3, steps=200)
    schedule = Schedule(on, plan)
    schedule.load_state_dict({"taken": 100})
    assert [rate for rate, _ in run(schedule, on, 99)] == rates(plan, 199)[100:]


def test_constant_stays_at_the_peak_with_the_optimizer_s_own_momentum() -> None:
    on = optimizer()
    assert run(Schedule(on, Constant().plan(peak=0.5, steps=5)), on, 5) == [(0.5, (0.9, 0.999))] * 5


def test_swa_has_its_own_rate_and_momentum_is_reset() -> None:
    on = optimizer()
    found = run(Schedule(on, with_swa(OneCycle().plan(1.0, 100), 40, rate=0.1, anneal_steps=10)), on, 60)
    assert found[29][0] == pytest.approx(1.0)
    assert found[39][1][0] < 0.9  # OneCycle is in the middle of its cycle
    assert {betas for _, betas in found[40:]} == {(0.9, 0.999)}
    assert found[45][0] == pytest.approx(0.1 + (found[40][0] - 0.1) * 0.5, rel=1e-6)  # half of the cosine
    assert [rate for rate, _ in found[50:]] == [0.1] * 10
    at_once = with_swa(OneCycle().plan(1.0, 100), 5, rate=0.1, anneal_steps=0)
    assert rates(at_once, 9)[4:6] == [OneCycle().plan(1.0, 100)(4)[0], 0.1]


@pytest.mark.parametrize("first", [0, 5])
def test_it_is_torch_s_swa_rate_to_the_last_bit(first: int) -> None:
    on, cycle = optimizer(), OneCycle().plan(1.0, 20)
    on.param_groups[0]["lr"] = cycle(max(first - 1, 0))[0]
    reference = torch.optim.swa_utils.SWALR(on, 0.1, anneal_epochs=7)
    for rate in rates(with_swa(cycle, first, 0.1, anneal_steps=7), 20)[first:]:
        assert rate == on.param_groups[0]["lr"]
        on.step()
        reference.step()


@pytest.mark.parametrize(
    "values", [{"warmup": 0.0}, {"warmup": 1.0}, {"start_factor": 0.5}, {"end_factor": 0.0}]
)
def test_wrong_settings_are_named(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"schedule.{next(iter(values))}="):
        settings_of("schedule", OneCycle, values)
