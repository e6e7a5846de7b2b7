"""Expressions of a search space: what they compute, and what they refuse to be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockenh.commands.sweep.expression import Expression
from stockenh.errors import ConfigError

VALUES = {"model.d_model": 384, "head_width": 64, "loss": "focal", "n": 0}


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


def test_names_are_dotted():
    assert Expression("min(model.d_model, 2) + head_width").names == {"model.d_model", "head_width"}


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "open('x')",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "f'{head_width}'",
        "a = 1",
        "2 ** 9999999",
        "min(*[1, 2])",
        "b'x'",
        "",
        "(" * 500 + ")" * 500,
    ],
)
def test_what_could_act_is_no_expression(text):
    with pytest.raises(ConfigError, match="no expression of a search space"):
        Expression(text)


def test_division_by_zero_names_the_expression():
    with pytest.raises(ConfigError, match=r"'head_width // n'.*zero"):
        Expression("head_width // n").value(VALUES)


@given(st.integers(-1000, 1000), st.integers(1, 1000), st.integers(-50, 50))
def test_arithmetic_is_pythons(a, b, c):
    found = Expression("(a // b) * b + a % b - c * a").value({"a": a, "b": b, "c": c})
    assert found == a - c * a
