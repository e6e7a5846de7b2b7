"""The config's own values as the first trial of a search, so that it begins at what it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from stockenh.commands.sweep.space import MOST_CANDIDATES, Line, Lookup, Space, Values
from stockenh.errors import ConfigError


def base_values(space: Space, config: Lookup) -> tuple[Values, dict[str, str]]:
    """The config's own values as a study stores them, and why others are left out; both by name.

    A helper has the value from which the config's own derived keys follow. What is left out is drawn.
    """
    stored: Values = {}
    left_out: dict[str, str] = {}
    drawn = {name: line for name, line in space.parameters.items() if line.value is None}
    for name, line in drawn.items():
        if line.helper:
            continue
        try:
            stored[name] = line.stored(config(name))
        except KeyError:  # of an option that is not the config's own
            continue
        except ConfigError as error:
            left_out[name] = str(error)
    helpers = {name: line for name, line in drawn.items() if line.helper}
    try:
        found, wrong = _helpers(space, config, helpers)
    except (ConfigError, KeyError) as error:
        return stored, left_out | dict.fromkeys(helpers, str(error))
    return stored | found, left_out | wrong


def _helpers(space: Space, config: Lookup, helpers: Mapping[str, Line]) -> tuple[Values, dict[str, str]]:
    """Values of the helpers from which the config's derived keys follow; else which keys do not follow."""
    wrong: dict[str, str] = {}
    tried = itertools.product(*(line.candidates for line in helpers.values()))
    for chosen in itertools.islice(tried, MOST_CANDIDATES):
        given = dict(zip(helpers, chosen, strict=True))

        def own(name: str, given: Mapping[str, Any] = given) -> Any:
            return given[name] if name in given else config(name)

        keys = space.follow(config, own)[1]
        derived = {name: value for name, value in keys.items() if space.parameters[name].value is not None}
        wrong = {
            name: f"{config(name)} does not follow from the others"
            for name, v in derived.items()
            if v != config(name)
        }
        if not wrong:
            return {name: helpers[name].stored(value) for name, value in given.items()}, {}
    return {}, wrong
