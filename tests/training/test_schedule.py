"""Schedules: the base recipe's one cycle, SWA's own rate, and resuming at any step."""

import pytest
import torch

from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError
from stockenh.training.optimizers import Constant, OneCycle, Schedule, with_swa

State = list[tuple[float, tuple[float, float]]]


def optimizer():
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=7.0)


def run(schedule, adam, steps):
    """Rate and betas of so many steps."""
    found = []
    for _ in range(steps):
        found.append((schedule.lr, adam.param_groups[0]["betas"]))
        schedule.step()
    return found


def rates(plan, steps):
    return [plan(step)[0] for step in range(steps)]


@pytest.mark.parametrize(("warmup", "steps"), [(0.3, 2), (0.3, 3), (0.3, 77), (0.1, 2), (0.1, 40)])
def test_it_is_torch_s_own_cycle_in_rate_and_momentum_to_the_last_bit(warmup, steps):
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


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_a_run_of_any_length_has_a_schedule(steps):
    found = rates(OneCycle(warmup=0.1).plan(peak=1e-3, steps=steps), steps + 1)
    assert all(0 < rate <= 1e-3 + 1e-12 for rate in found)


PLANS = {
    "one cycle": OneCycle().plan(1e-3, 100),
    "constant": Constant().plan(1e-3, 100),
    "swa": with_swa(OneCycle().plan(1e-3, 100), 60, 1e-4, 10),
}


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("done", [0, 1, 29, 59, 60, 65, 77])
def test_resumed_at_any_step_it_goes_on_with_the_same_bits(name, done):
    adam, first, second = optimizer(), optimizer(), optimizer()
    whole = run(Schedule(adam, PLANS[name]), adam, 99)
    started, resumed = Schedule(first, PLANS[name]), Schedule(second, PLANS[name])
    run(started, first, done)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(started.state_dict())
    assert run(resumed, second, 99 - done) == whole[done:]


def test_more_epochs_stretch_the_cycle_from_the_step_reached():
    adam, plan = optimizer(), OneCycle().plan(peak=1e-3, steps=200)
    schedule = Schedule(adam, plan)
    schedule.load_state_dict({"taken": 100})
    assert [rate for rate, _ in run(schedule, adam, 99)] == rates(plan, 199)[100:]


def test_constant_stays_at_the_peak_with_the_optimizer_s_own_momentum():
    adam = optimizer()
    assert run(Schedule(adam, Constant().plan(peak=0.5, steps=5)), adam, 5) == [(0.5, (0.9, 0.999))] * 5


def test_swa_has_its_own_rate_and_momentum_is_reset():
    adam = optimizer()
    found = run(Schedule(adam, with_swa(OneCycle().plan(1.0, 100), 40, rate=0.1, anneal_steps=10)), adam, 60)
    assert found[29][0] == pytest.approx(1.0)
    assert found[39][1][0] < 0.9  # OneCycle is in the middle of its cycle
    assert {betas for _, betas in found[40:]} == {(0.9, 0.999)}
    assert found[45][0] == pytest.approx(0.1 + (found[40][0] - 0.1) * 0.5, rel=1e-6)  # half of the cosine
    assert [rate for rate, _ in found[50:]] == [0.1] * 10
    at_once = with_swa(OneCycle().plan(1.0, 100), 5, rate=0.1, anneal_steps=0)
    assert rates(at_once, 9)[4:6] == [OneCycle().plan(1.0, 100)(4)[0], 0.1]


@pytest.mark.parametrize("first", [0, 5])
def test_it_is_torch_s_swa_rate_to_the_last_bit(first):
    adam, cycle = optimizer(), OneCycle().plan(1.0, 20)
    adam.param_groups[0]["lr"] = cycle(max(first - 1, 0))[0]
    reference = torch.optim.swa_utils.SWALR(adam, 0.1, anneal_epochs=7)
    for rate in rates(with_swa(cycle, first, 0.1, anneal_steps=7), 20)[first:]:
        assert rate == adam.param_groups[0]["lr"]
        adam.step()
        reference.step()


@pytest.mark.parametrize(
    "values", [{"warmup": 0.0}, {"warmup": 1.0}, {"start_factor": 0.5}, {"end_factor": 0.0}]
)
def test_wrong_settings_are_named(values):
    with pytest.raises(ConfigError, match=f"schedule.{next(iter(values))}="):
        settings_of("schedule", OneCycle, values)
