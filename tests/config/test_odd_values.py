"""Odd values of every key: a ConfigError of one or two short lines or success, whatever the value is."""

from __future__ import annotations

import copy
import os
import random
from typing import Any

import pytest
import yaml

from stockenh.config.catalog import groups, keys_of, keys_of_options, roots
from stockenh.config.compose import compose
from stockenh.config.overrides import value_of
from stockenh.config.schema import GROUPS, parse, plain
from stockenh.errors import ConfigError

DIGITS, DEEP = "9" * 5000, 200
VALUES = [
    DIGITS, f"-{DIGITS}", "[" * DEEP + "]" * DEEP, "{a:" * DEEP + "1" + "}" * DEEP, "[1,2,3]", "{a:1}", "1e9",
    "1e12", "1e18", "1e400", "-1", "0", "nan", "inf", "-inf", "null", "true", "''", "x" * 200_000,
    "18446744073709551616", "[1000000000]", "[nan]", "[null]", "${x}", "???", "1e-400", "[]", "{}",
    "{_target_:os.system}", "x" * 5000,
]  # fmt: skip
LEARN = ("train", "find_lr")
IN_ALL = int(os.environ.get("ODD_VALUES", "60"))  # of thousands
IN_FILES = 2 * IN_ALL


def overrides() -> list[tuple[str, ...]]:
    """(root config, overrides) for every key, option and value, in the order of a fixed shuffle."""
    own = [(root, f"{key.name}={value}") for root in roots() for key in keys_of(root) for value in VALUES]
    of_groups = [
        ("train", f"{group}={option}", f"{key}={value}")
        for group, options in groups().items()
        for option in options
        for key in [group, *keys_of_options(group, option=option)]
        for value in VALUES
    ]
    of_hydra = [("train", f"{key}={v}") for key in ("hydra.verbose", "hydra.output_subdir") for v in VALUES]
    found: list[tuple[str, ...]] = [*own, *of_groups, *of_hydra]
    random.Random(0).shuffle(found)
    return found


def require_short(error: ConfigError) -> None:
    assert len(str(error)) < 20_000 and len(str(error).splitlines()) <= 2, str(error)[:300]


def test_any_override_is_taken_or_refused_in_two_lines():
    for root, *given in overrides()[:IN_ALL]:
        try:
            raw = plain(compose(given, root))
            if root in LEARN:
                parse(raw)
        except ConfigError as error:
            require_short(error)


def test_any_value_of_a_run_folders_config_is_taken_or_refused_in_two_lines():
    whole, rng = plain(compose([])), random.Random(0)
    places = [(node, key) for node in (*GROUPS, "train", "tta", "finder") for key in whole[node]]
    deep: Any = []
    for _ in range(DEEP):
        deep = [deep]
    huge: list[Any] = [deep, 10**4000, -(10**19), float("nan"), float("inf"), "x" * 200_000, {1: deep}, b"x"]
    plain_values = [yaml.safe_load(v) for v in VALUES if not v.startswith(("[[", "{a:{", "9", "-9", "{_"))]
    for _ in range(IN_FILES):
        raw = copy.deepcopy(whole)
        node, key = rng.choice([*places, ("", rng.choice(list(whole)))])
        (raw[node] if node else raw)[key] = rng.choice([*huge, *plain_values])
        try:
            parse(raw)
        except ConfigError as error:
            require_short(error)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (f"seed={DIGITS}", "seed: a whole number of more than 18 digits"),
        ("seed=" + "[" * DEEP + "]" * DEEP, "seed: more than 20 lists or mappings"),
        ("seed=" + "{a:" * DEEP + "1" + "}" * DEEP, "seed: more than 20 lists or mappings"),
        ("seed=18446744073709551616", "seed: a whole number"),
        ("seed=4294967296", "seed=4294967296 must be below 4294967296"),
        (f"device={'x' * 200_000}", "device: 200,007 characters"),
        ("split=[1,2,3]", "split=[1,2,3]: no such split"),
        ("hydra.verbose=10000000", "hydra.verbose=10000000: write true, false"),
        ("model.d_model=1e9", "model.d_model=1000000000.0 must be at most 65536"),
        ("data.horizons=[1000000000]", "data.horizons=1000000000 must be at most 1000000"),
        ("train.batch_size=1e12", "must be at most 1000000000"),
        ("train.epochs=1e18", "must be at most 1000000000"),
        ("threads=100000", "threads=100000 must be at most 1024"),
        ("train.patience=nan", "train.patience=nan is not a number"),
        ("optimizer.lr=inf", "optimizer.lr=inf"),
    ],
)
def test_sizes_that_no_machine_has_are_refused(refused, here, given, message):
    assert message in refused("train", given)
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["data=synthetic", "data.bars=1e12"], "data.bars=1000000000000.0 must be at most"),
        (["data=synthetic", "data.bars=1e6", "data.symbols=1e5"], "GiB of memory, and this machine has"),
        (
            [
                "model=timeformer_xl",
                "model.d_model=65536",
                "model.ffn=65536",
                "model.layers=20",
                "data=synthetic_small",
            ],
            "parameters needs about",
        ),
    ],
)
def test_what_does_not_fit_the_machine_is_refused_by_arithmetic(refused, here, given, message):
    assert message in refused("train", *given)


def test_a_value_that_is_read_alone_is_checked_too():
    with pytest.raises(ConfigError, match="more than 20 lists"):
        value_of("resume=" + "[" * DEEP + "]" * DEEP)
    assert value_of(f"run=/runs/{'1' * 100}") == f"/runs/{'1' * 100}"
