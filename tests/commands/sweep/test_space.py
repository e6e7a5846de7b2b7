"""A search space: its YAML, what is drawn, its corners, and the expressions that it may hold."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stockenh.commands.sweep.base import base_values
from stockenh.commands.sweep.search import _refuse_outside
from stockenh.commands.sweep.space import Expression, Space, params_of
from stockenh.config.catalog import conf_dir
from stockenh.errors import ConfigError

NOTHING: dict[str, object] = {}
DEFAULT = yaml.safe_load(Path(conf_dir(), "sweep", "default.yaml").read_text())["sweep"]["params"]


def trials(space: Space, n: int, known: dict[str, object] = NOTHING) -> list[tuple[dict, dict]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [space.draw(study.ask(), known.__getitem__) for _ in range(n)]


def test_default_space_is_that_of_the_specification_and_has_no_invalid_heads():
    space = Space.of(DEFAULT)
    drawn = [keys for _, keys in trials(space, 200)]
    assert {k["model.d_model"] for k in drawn} == {128, 256, 384}
    assert {k["model.layers"] for k in drawn} == {3, 4, 5, 6, 7, 8}
    assert all(k["model.d_model"] % (2 * k["model.heads"]) == 0 for k in drawn)
    assert all(0.1 <= k["model.dropout"] <= 0.3 for k in drawn)
    assert all(
        1e-5 <= k["optimizer.lr"] <= 1e-2 and 1e-3 <= k["optimizer.weight_decay"] <= 1.0 for k in drawn
    )
    assert min(k["optimizer.lr"] for k in drawn) < 3e-5  # on a log scale; a flat one has 1 in 500 there
    assert all("head_width" not in k for k in drawn)


def test_conditions_draw_a_parameter_only_where_they_hold():
    space = Space.of(
        {
            "loss": {"type": "categorical", "choices": ["focal", "huber_bce"]},
            "loss.gamma": {"type": "float", "low": 1, "high": 4, "when": "loss == 'focal'"},
        }
    )
    for _, keys in trials(space, 50):
        assert ("loss.gamma" in keys) == (keys["loss"] == "focal")


def test_expressions_may_name_keys_of_the_config():
    space = Space.of(
        {
            "model.heads": {"type": "categorical", "choices": [2, 4]},
            "model.ffn": {"value": "2 * model.d_model"},
        }
    )
    assert {keys["model.ffn"] for _, keys in trials(space, 9, {"model.d_model": 64})} == {128}
    with pytest.raises(ConfigError, match=r"sweep.params.model.ffn.*names model.d_model"):
        trials(space, 1)


def test_steps_and_choices_that_are_lists():
    space = Space.of(
        {
            "train.batch_size": {"type": "int", "low": 32, "high": 128, "step": 32},
            "model.conv_dilations": {"type": "categorical", "choices": [[1], [1, 2, 4]]},
        }
    )
    drawn = [keys for _, keys in trials(space, 60)]
    assert {k["train.batch_size"] for k in drawn} == {32, 64, 96, 128}
    assert {tuple(k["model.conv_dilations"]) for k in drawn} == {(1,), (1, 2, 4)}


def test_helpers_that_nothing_refers_to_are_not_drawn():
    left = {name: node for name, node in DEFAULT.items() if name != "model.heads"}
    assert "head_width" not in Space.of(left).parameters
    assert "head_width" in Space.of(DEFAULT).parameters


def test_corners_are_all_ends_of_what_shapes_the_model_and_each_end_of_the_rest():
    corners = [values for values, _ in Space.of(DEFAULT).corners(NOTHING.__getitem__)]
    shaped = {(c["model.d_model"], c["head_width"], c["model.layers"], c["model.dropout"]) for c in corners}
    assert len(shaped) == 3 * 3 * 2 * 2
    assert {c["optimizer.lr"] for c in corners} == {1e-5, 1e-2}
    assert len(corners) == 36 + 2
    many = Space.of({f"model.x{n}": {"type": "int", "low": 0, "high": 1} for n in range(60)})
    assert len(next(many.corners(NOTHING.__getitem__))[0]) == 60  # of 2 ** 60, which are never all made


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"a": {"type": "float", "low": 2, "high": 1}}, r"sweep.params.a: low=2 lies above high=1"),
        ({"a": {"type": "float", "low": 0, "high": 1, "log": True}}, "log=true with low=0: a log scale must"),
        ({"a": {"type": "int", "low": 1, "high": 9, "log": True, "step": 2}}, "can't be combined"),
        ({"a": {"type": "int", "low": 1.5, "high": 9}}, "low=1.5 is not a whole number"),
        ({"a": {"type": "float", "low": "x", "high": 9}}, "a.low=x is not a number"),
        ({"a": {"type": "float", "low": 1}}, "a.high must be given"),
        ({"a": {"type": "flaot", "low": 1, "high": 2}}, "a.type=flaot: no such type. Nearest: float"),
        ({"a": {"low": 1, "high": 2}}, r"lacks a type \(float, int, categorical\) or a value"),
        ({"a": {"type": "float", "low": 1, "hihg": 2}}, "a.hihg: no such setting of Range. Nearest: high"),
        ({"a": {"type": "categorical", "choices": []}}, "a.choices=.*name one or more"),
        ({"a": {"type": "categorical", "choices": [1, 1]}}, "names a value twice"),
        ({"a": 3}, "write {type: float"),
        ({}, "nothing to draw"),
        ({"a": {"value": "1"}}, "nothing to draw"),
        ({"a": {"type": "int", "low": 1, "high": 2, "when": "b > 1"},
          "b": {"type": "int", "low": 1, "high": 2}}, "needs b, which must stand above it"),
    ],
)  # fmt: skip
def test_what_is_no_space(params, said):
    with pytest.raises(ConfigError, match=said):
        Space.of(params)


@pytest.mark.parametrize(
    ("override", "node"),
    [
        ("a=1,2", {"type": "categorical", "choices": [1, 2]}),
        ("a=focal,'x y'", {"type": "categorical", "choices": ["focal", "x y"]}),
        ("a=range(3,8)", {"type": "int", "low": 3, "high": 7, "step": 1}),
        ("a=range(0,1,0.25)", {"type": "float", "low": 0, "high": 0.75, "step": 0.25}),
        ("a=interval(0.1,0.3)", {"type": "float", "low": 0.1, "high": 0.3, "log": False}),
        ("a=tag(log,interval(1e-5,1e-2))", {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}),
    ],
)
def test_values_of_the_command_line_are_parameters(override, node):
    parsed = OverridesParser.create().parse_override(override)
    assert params_of("a", parsed.value()) == node
    assert list(Space.of({"a": node}).parameters) == ["a"]


VALUES = {"model.d_model": 384, "head_width": 64, "loss": "focal", "n": 0}


def test_names_are_dotted():
    assert Expression("min(model.d_model, 2) + head_width").names == {"model.d_model", "head_width"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("model.d_model // head_width", 6),
        ("model.d_model / 100", 3.84),
        ("model.d_model % 100 + 1", 85),
        ("loss == 'focal' and head_width > 32", True),
        ("loss in ['plain', 'focal']", True),
        ("not loss == 'focal'", False),
        ("32 < head_width <= 64", True),
        ("-head_width", -64),
        ("min(head_width, 3 * 8)", 24),
        ("n == 0 or 1 / n > 2", True),  # the second half is not computed
    ],
)
def test_values(text, value):
    assert Expression(text).value(VALUES) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "().__class__", "open('x')", "[x for x in (1, 2)]", "lambda: 1",
        "f'{head_width}'", "a = 1", "2 ** 9999999", "min(*[1, 2])", "b'x'", "", "(" * 500 + ")" * 500,
        "'{}'.format(1)", "(1, 2)[0].real", "min(1, key=print)", "head_width ** 2",
        "head_width if 1 else 2", "{1: 2}", "(yield)",
    ],
)  # fmt: skip
def test_what_could_act_is_no_expression(text):
    with pytest.raises(ConfigError, match="no expression of a search space"):
        Expression(text)


@pytest.mark.parametrize(
    "text", ["'a' * 10000000000", "[0] * 10000000000", "'%10000000000d' % 1", "+".join(["1"] * 5000)]
)
def test_what_would_take_all_memory_is_refused(text):
    with pytest.raises(ConfigError):
        Expression(text).value({})


def test_division_by_zero_names_the_expression():
    with pytest.raises(ConfigError, match=r"'head_width // n'.*zero"):
        Expression("head_width // n").value(VALUES)


@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(-50, 50))
def test_arithmetic_is_pythons(a, b, c):
    found = Expression("(a // b) * b + a % b - c * a").value({"a": a, "b": b, "c": c})
    assert found == a - c * a


@pytest.mark.parametrize("line", [{"value": "'../../x'"}, {"type": "categorical", "choices": ["../../x"]}])
def test_a_group_s_option_is_checked_where_it_is_drawn(line):
    """Not only at the corners, where a condition may not hold."""
    hidden = {"type": "float", "low": 0, "high": 1, "helper": True}
    space = Space.of({"h": hidden, "loss": {**line, "when": "0 < h and h < 1"}})
    assert not any("loss" in keys for _, keys in space.corners(NOTHING.__getitem__))
    with pytest.raises(ConfigError, match=r"sweep.params.loss: no such loss: ../../x"):
        trials(space, 1)


def test_no_value_that_is_drawn_is_an_interpolation():
    params = {"h": {"type": "int", "low": 0, "high": 1, "helper": True}}
    space = Space.of({**params, "model.name": {"value": r"'\\' * h + '$' + '{oc.env:HOME}'"}})
    for h in (0, 1):
        (override,) = space.overrides(optuna.trial.FixedTrial({"h": h}), NOTHING.__getitem__)
        parsed = OverridesParser.create().parse_override(override).value()
        config = OmegaConf.create({"name": getattr(parsed, "text", parsed)})
        assert config.name == "\\" * h + "${oc.env:HOME}"


def test_a_derived_number_has_no_more_digits_than_a_setting():
    text = "*".join(["999999999999"] * 400)
    with pytest.raises(ConfigError, match="19 digits"):
        trials(Space.of({"x": {"type": "int", "low": 0, "high": 1}, "model.d_model": {"value": text}}), 1)


@pytest.mark.parametrize("name", ["++hydra.x.y", "model@hydra", "hydra/job_logging", "data._target_"])
def test_a_parameter_is_a_plain_key(name):
    with pytest.raises(ConfigError, match="is no key of the config"):
        _refuse_outside(name)


CONFIG = {
    "model.d_model": 192, "model.heads": 6, "model.layers": 4, "model.conv_dilations": [1, 2],
    "model.dropout": 0.1, "loss": "huber_bce", "optimizer.lr": "1e-3", "optimizer.weight_decay": "auto",
    "train.ema": True,
}  # fmt: skip
HEADS = {
    "model.d_model": {"type": "categorical", "choices": [128, 192, 256]},
    "head_width": {"type": "categorical", "choices": [16, 32, 64], "helper": True},
    "model.heads": {"value": "model.d_model // head_width"},
}


@pytest.mark.parametrize(
    ("params", "stored", "left_out"),
    [
        (
            {"optimizer.lr": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True}},
            {"optimizer.lr": 1e-3},
            {},
        ),
        (HEADS, {"model.d_model": 192, "head_width": 32}, {}),
        (
            HEADS | {"head_width": {"type": "int", "low": 8, "high": 64, "step": 8, "helper": True}},
            {"model.d_model": 192, "head_width": 32},
            {},
        ),
        (
            HEADS | {"head_width": {"type": "categorical", "choices": [16, 64], "helper": True}},
            {"model.d_model": 192},
            {"model.heads": "6 does not follow from the others"},
        ),
        (
            HEADS | {"model.d_model": {"type": "categorical", "choices": [128, 256]}},
            {"head_width": 32},
            {"model.d_model": "192 is none of 128, 256"},
        ),
        (
            {"model.layers": {"type": "int", "low": 5, "high": 8}},
            {},
            {"model.layers": "4 lies outside 5 to 8"},
        ),
        (
            {"model.layers": {"type": "int", "low": 1, "high": 9, "step": 2}},
            {},
            {"model.layers": "no step of 2"},
        ),
        ({"model.layers": {"type": "float", "low": 1, "high": 9}}, {"model.layers": 4}, {}),
        (
            {"model.dropout": {"type": "int", "low": 0, "high": 1}},
            {},
            {"model.dropout": "0.1 is no whole number"},
        ),
        (
            {"model.dropout": {"type": "float", "low": 0, "high": 0.3, "step": 0.1}},
            {"model.dropout": 0.1},
            {},
        ),
        (
            {"optimizer.weight_decay": {"type": "float", "low": 0, "high": 1}},
            {},
            {"optimizer.weight_decay": "auto"},
        ),
        (
            {"model.conv_dilations": {"type": "categorical", "choices": [[], [1, 2]]}},
            {"model.conv_dilations": "[1, 2]"},
            {},
        ),
        (
            {"train.ema": {"type": "categorical", "choices": [0, 1]}},
            {},
            {"train.ema": "True is none of 0, 1"},
        ),
        (
            {
                "loss": {"type": "categorical", "choices": ["huber_bce", "focal"]},
                "loss.gamma": {"type": "float", "low": 1, "high": 4, "when": "loss == 'focal'"},
            },
            {"loss": "huber_bce"},
            {},
        ),
    ],
)
def test_the_config_s_own_values(params, stored, left_out):
    """As a study stores them; what does not lie in the space is left out with its reason."""
    found, why = base_values(Space.of(params), CONFIG.__getitem__)
    assert found == stored
    assert why.keys() == left_out.keys()
    assert all(text in why[name] for name, text in left_out.items())
    if not left_out:
        trial = optuna.trial.FixedTrial(found)
        drawn = Space.of(params).draw(trial, CONFIG.__getitem__)[1]
        assert {name: float(v) if name == "optimizer.lr" else v for name, v in drawn.items()} == {
            name: float(CONFIG[name]) if name == "optimizer.lr" else CONFIG[name] for name in drawn
        }
