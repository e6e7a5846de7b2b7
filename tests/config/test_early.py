"""Settings read from the source of their class agree with the class itself."""

import dataclasses
import importlib
import typing

import pytest

from stockenh.config.catalog import groups, option_values
from stockenh.config.early import skeleton
from stockenh.config.schema import GROUPS

OPTIONS = [(group, option) for group in GROUPS for option in groups()[group]]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_the_fields_read_early_are_those_of_the_class(group, option):
    target = option_values(group, option)["_target_"]
    module, _, name = target.rpartition(".")
    cls, early = getattr(importlib.import_module(module), name), skeleton(module, name)
    fields = {f.name for f in dataclasses.fields(cls) if f.init}
    assert {f.name for f in dataclasses.fields(early)} == fields if early else not fields
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(early) if early else ():
        assert field.type is typing.Any or str(field.type) == str(hints[field.name])


@pytest.mark.parametrize(
    "target", ["os.system", "stockenh.nowhere.X", "stockenh.cli.train", "stockenh..X", "a"]
)
def test_what_is_no_dataclass_of_the_package_has_no_fields(target):
    module, _, name = target.rpartition(".")
    assert skeleton(module, name) is None
