"""The search space: what is drawn, under what condition, and what follows from it.

    model.d_model: {type: categorical, choices: [128, 256]}
    head_width:    {type: categorical, choices: [16, 32], helper: true}     # no key of the config
    model.heads:   {value: model.d_model // head_width}                     # derived
    optimizer.lr:  {type: float, low: 1e-5, high: 1e-2, log: true}
    loss.gamma:    {type: float, low: 1, high: 4, when: loss == 'focal'}    # conditional

Parameters are drawn in the order of the YAML; an expression may name those above it and keys of the config.
"""

from __future__ import annotations

import ast
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import simpleeval  # type: ignore[import-untyped]
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, QuotedString, RangeSweep
from pydantic import BeforeValidator, Field, StrictBool

from stockenh.config.catalog import groups
from stockenh.config.overrides import hydra_text, refuse_odd, suggest
from stockenh.config.schema import PositiveFinite, literals, settings_of
from stockenh.errors import ConfigError

if TYPE_CHECKING:
    import optuna


def _remainder(left: Any, right: Any) -> Any:
    """`%` of numbers only: that of a text is a format, which may have any length."""
    if isinstance(left, str):
        raise TypeError("a text has no remainder")
    return left % right


# What an expression may do. simpleeval's own + and * refuse texts and lists beyond a bounded length.
_OPERATORS = {
    kind: simpleeval.DEFAULT_OPERATORS[kind]
    for kind in (
        ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt,
        ast.GtE, ast.USub, ast.Not,
    )
} | {ast.Mod: _remainder, ast.In: lambda a, b: a in b, ast.NotIn: lambda a, b: a not in b}  # fmt: skip
_FUNCTIONS = {"min": min, "max": max, "round": round, "int": int}
_NODES = (
    ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.List, ast.Tuple, ast.Call, ast.Constant,
)  # fmt: skip


class Expression:
    """`model.d_model // head_width`, `loss == 'focal' and train.batch_size > 64`.

    A search space may be untrusted. Raises ConfigError where the text is anything but names, numbers, words,
    lists, + - * / // %, comparisons, and, or, not, min, max, round and int.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text, mode="eval").body
            self.names = frozenset(_names(self._tree))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise ConfigError(
                f"'{text}' is no expression of a search space: names, numbers, + - * / // %, comparisons, "
                f"and, or, not, min, max, round, int"
            ) from None

    def __str__(self) -> str:
        return self.text

    def value(self, values: Mapping[str, Any]) -> Any:
        """The expression's value, given those of its names. Raises ConfigError."""
        evaluator = simpleeval.EvalWithCompoundTypes(_OPERATORS, _FUNCTIONS)
        nodes = {kind: evaluator.nodes[kind] for kind in _NODES}
        evaluator.nodes = nodes | dict.fromkeys((ast.Name, ast.Attribute), lambda n: values[ast.unparse(n)])
        try:
            return evaluator.eval(self.text, self._tree)
        except (
            ArithmeticError,
            TypeError,
            ValueError,
            RecursionError,
            simpleeval.InvalidExpression,
        ) as error:
            raise ConfigError(f"'{self.text}': {error}") from None


def _names(node: ast.AST) -> Iterator[str]:
    """The dotted names of an expression. Raises ValueError at anything that an expression may not hold."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = ast.unparse(node)
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError
        yield name
        return
    inner = ast.iter_child_nodes(node)
    match node:
        case ast.Call(func=ast.Name(id=called), keywords=[]) if called in _FUNCTIONS:
            inner = iter(node.args)
        case ast.Constant(value=bool() | int() | float() | str() | None):
            pass
        case ast.Call() | ast.Constant():
            raise ValueError
        case _ if type(node) not in (*_NODES, *_OPERATORS, ast.And, ast.Or, ast.Load):
            raise ValueError
    for part in inner:
        yield from _names(part)


MOST_CANDIDATES = 1000  # values of a helper
STEP_TOLERANCE = 1e-6  # of a step

Values = dict[str, Any]
Lookup = Callable[[str], Any]  # a key's value in the config; raises KeyError


def _number(value: Any) -> Any:
    """YAML reads 1e3 as text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_number)]
Text = Annotated[str, BeforeValidator(str)]


class Line:
    """One line of a space. when: draws it only where this holds; helper: no key of the config."""

    value: str | None = None  # of a derived one
    when: str | None
    helper: bool
    corners: Sequence[Any] = ()  # the ends of its range, or all its choices

    @property
    def names(self) -> frozenset[str]:
        """What its expressions refer to. Raises ConfigError."""
        texts = [text for text in (self.value, self.when) if text is not None]
        return frozenset().union(*(Expression(text).names for text in texts))

    @property
    def candidates(self) -> Sequence[Any]:
        """Values of a helper that are tried where the config's own keys follow from one of them."""
        return self.corners

    def draw(self, name: str, trial: optuna.trial.BaseTrial) -> Any:
        """A value for this trial, of a line that is not derived."""
        raise NotImplementedError

    def stored(self, value: Any) -> Any:
        """What a study stores of a value of this line. Raises ConfigError where it has none such."""
        raise NotImplementedError


@dataclass(frozen=True)
class Range(Line):
    """Numbers from low to high, which belong to it; step None is continuous."""

    type: str
    low: Finite
    high: Finite
    step: PositiveFinite | None = None
    log: StrictBool = False
    when: Text | None = None
    helper: StrictBool = False

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ConfigError(f"low={self.low:g} lies above high={self.high:g}")
        if self.log and self.low <= 0:
            raise ConfigError(f"log=true with low={self.low:g}: a log scale must begin above 0")
        if self.log and self.step is not None:
            raise ConfigError(f"log=true and step={self.step:g} can't be combined")

    @property
    def corners(self) -> Sequence[Any]:  # type: ignore[override]
        return (self.low, self.high) if self.low < self.high else (self.low,)

    def draw(self, name: str, trial: optuna.trial.BaseTrial) -> Any:
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def stored(self, value: Any) -> Any:
        number = _number(value)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ConfigError(f"{value} is no number")
        if not self.low <= number <= self.high:
            raise ConfigError(f"{value} lies outside {self.low:g} to {self.high:g}")
        steps = (number - self.low) / self.step if self.step else 0.0
        if abs(steps - round(steps)) > STEP_TOLERANCE:
            raise ConfigError(f"{value} is no step of {self.step:g} from {self.low:g}")
        return number


@dataclass(frozen=True)
class WholeRange(Range):
    """Whole numbers from low to high, which belong to it."""

    low: Whole
    high: Whole
    step: Annotated[Whole, Field(ge=1)] | None = None

    def draw(self, name: str, trial: optuna.trial.BaseTrial) -> Any:
        return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)

    def stored(self, value: Any) -> Any:
        number = super().stored(value)
        if number != int(number):
            raise ConfigError(f"{value} is no whole number")
        return int(number)

    @property
    def candidates(self) -> Sequence[Any]:
        return range(self.low, self.high + 1, self.step or 1)[:MOST_CANDIDATES]


@dataclass(frozen=True)
class Choice(Line):
    """One of some values, numbers, words or lists."""

    type: str
    choices: Annotated[list[Any], Field(min_length=1)]
    when: Text | None = None
    helper: StrictBool = False

    def __post_init__(self) -> None:
        if len({_label(choice) for choice in self.choices}) < len(self.choices):
            raise ConfigError(f"choices={self.choices} names a value twice")

    @property
    def corners(self) -> Sequence[Any]:  # type: ignore[override]
        return self.choices

    def draw(self, name: str, trial: optuna.trial.BaseTrial) -> Any:
        labels = [_label(choice) for choice in self.choices]
        return self.choices[labels.index(trial.suggest_categorical(name, labels))]

    def stored(self, value: Any) -> Any:
        label = _label(value)
        # true is 1 to a list, and no choice of a number
        if not any(label == own and isinstance(label, bool) == isinstance(own, bool)
                   for own in map(_label, self.choices)):  # fmt: skip
            raise ConfigError(f"{value} is none of {', '.join(map(str, self.choices))}")
        return label


@dataclass(frozen=True)
class Derived(Line):
    """What follows from other values."""

    value: Text = ""
    when: Text | None = None
    helper: StrictBool = False


TYPES: dict[str, type[Line]] = {"float": Range, "int": WholeRange, "categorical": Choice}


@dataclass(frozen=True)
class Space:
    """The parameters of a search by name, in the order in which they are drawn."""

    parameters: Mapping[str, Line]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Space:
        """The space that the node `sweep.params` describes. Raises ConfigError naming the parameter."""
        found = _used({str(name): _parameter(f"sweep.params.{name}", node) for name, node in params.items()})
        if all(line.value is not None for line in found.values()):
            raise ConfigError(
                "sweep.params has nothing to draw: take sweep=default, or name ranges such as "
                "'optimizer.lr=tag(log,interval(1e-5,1e-2))' model.layers=1,2"
            )
        later = set(found)
        for name, line in found.items():
            if unknown := sorted(line.names & later):
                raise ConfigError(
                    f"sweep.params.{name}: its expression needs {unknown[0]}, which must stand above it"
                )
            later.discard(name)
        return cls(found)

    def draw(self, trial: optuna.trial.BaseTrial, config: Lookup) -> tuple[Values, Values]:
        """(all values by name, those that are keys of the config)."""
        return self.follow(config, lambda name: self.parameters[name].draw(name, trial))

    def overrides(self, trial: optuna.trial.BaseTrial, config: Lookup) -> list[str]:
        """The values of `draw` that are keys of the config, as overrides; no value is an interpolation."""
        keys = self.draw(trial, config)[1]
        return [f"{key}={hydra_text(literals(value))}" for key, value in keys.items()]

    def corners(self, config: Lookup) -> Iterator[tuple[Values, Values]]:
        """As `draw`, with combinations of the ends of all ranges: every one of those that shape the model or
        an expression, and with the first of them each end of the others."""
        ends = {name: line.corners for name, line in self.parameters.items() if line.value is None}
        needed = _needed(self.parameters)
        shaping = {n: own for n, own in ends.items() if n.partition(".")[0] == "model" or n in needed}
        lowest = {name: own[0] for name, own in ends.items()}
        # lazily: many parameters have more combinations than memory holds
        combinations = (dict(zip(shaping, own, strict=True)) for own in itertools.product(*shaping.values()))
        others = ({name: end} for name, own in ends.items() if name not in shaping for end in own[1:])
        for chosen in itertools.chain(combinations, others):
            yield self.follow(config, (lowest | chosen).__getitem__)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers with every default written out, for reports and to compare two spaces."""
        return {name: dict(vars(line)) for name, line in self.parameters.items()}

    def follow(self, config: Lookup, choose: Callable[[str], Any]) -> tuple[Values, Values]:
        """As `draw`, with values chosen by name."""
        values: Values = {}
        keys: Values = {}
        for name, line in self.parameters.items():
            known = {used: _lookup(name, used, values, config) for used in line.names}
            if line.when is not None and not Expression(line.when).value(known):
                continue
            values[name] = choose(name) if line.value is None else Expression(line.value).value(known)
            refuse_odd({f"sweep.params.{name}": values[name]})
            if not line.helper:
                _require_option(name, values[name])
                keys[name] = values[name]
        return values, keys


_options = functools.cache(groups)


def _require_option(key: str, value: Any) -> None:
    """Raises ConfigError where a group has no such option: a path would compose YAML from anywhere."""
    options = _options().get(key)
    if options is not None and value not in options:
        raise ConfigError(f"sweep.params.{key}: no such {key}: {value}. {suggest(str(value), options, True)}")


def _needed(parameters: Mapping[str, Line]) -> frozenset[str]:
    """What expressions refer to."""
    return frozenset().union(*(line.names for line in parameters.values()))


def _used(parameters: dict[str, Line]) -> dict[str, Line]:
    """Without helpers that nothing refers to, such as one whose derived value the command line gives."""
    needed = _needed(parameters)
    kept = {name: line for name, line in parameters.items() if not line.helper or name in needed}
    return kept if len(kept) == len(parameters) else _used(kept)


def _lookup(parameter: str, name: str, values: Values, config: Lookup) -> Any:
    if name in values:
        return values[name]
    try:
        return config(name)
    except KeyError:
        raise ConfigError(
            f"sweep.params.{parameter}: its expression names {name}, which is neither a parameter "
            f"that is drawn here nor a key of the config"
        ) from None


def _parameter(where: str, node: Any) -> Line:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: write {{type: float, low: ..., high: ...}}, not {node!r}")
    if "value" in node:
        return settings_of(where, Derived, {key: given for key, given in node.items() if key != "type"})
    if (kind := node.get("type")) is None:
        raise ConfigError(f"{where} lacks a type ({', '.join(TYPES)}) or a value")
    if kind not in TYPES:
        raise ConfigError(f"{where}.type={kind}: no such type. {suggest(str(kind), TYPES, True)}")
    try:
        return settings_of(where, TYPES[kind], node)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(where) else f"{where}: {text}") from None


def _label(choice: Any) -> Any:
    """What a study stores of a choice: scalars as they are, lists as text."""
    if choice is None or isinstance(choice, bool | int | float | str):
        return choice
    return str(choice)


def params_of(key: str, sweep: Any) -> dict[str, Any]:
    """The line of `sweep.params` that an override with several values stands for: `a,b`, `range(3,8)`,
    `interval(1e-5,1e-2)`, and `tag(log,interval(...))` for a log scale. Raises ConfigError."""
    if isinstance(sweep, ChoiceSweep):
        return {"type": "categorical", "choices": [_element(value) for value in sweep.list]}
    if isinstance(sweep, IntervalSweep):
        return {"type": "float", "low": sweep.start, "high": sweep.end, "log": "log" in sweep.tags}
    if isinstance(sweep, RangeSweep):
        start, stop, step = sweep.start, sweep.stop, sweep.step
        if stop is None:
            start, stop = 0, start
        whole = all(isinstance(value, int) for value in (start, stop, step))
        # a range leaves its end out, as in Hydra's own sweeper
        count = math.ceil((stop - start) / step) if start is not None else 0
        if start is None or count < 1:
            raise ConfigError(f"{key}: its range holds no value")
        node = {"type": "int" if whole else "float", "low": start, "high": start + (count - 1) * step}
        log = "log" in sweep.tags
        return node | ({"log": True} if log else {"step": step})
    raise ConfigError(f"{key}: a search draws from a,b or choice(...), range(...) and interval(...)")


def _element(value: Any) -> Any:
    return value.text if isinstance(value, QuotedString) else value
