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
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import simpleeval  # type: ignore[import-untyped]
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, QuotedString, RangeSweep

from stockenh.config.overrides import suggest
from stockenh.errors import ConfigError

if TYPE_CHECKING:
    import optuna

TYPES = ("float", "int", "categorical")
FIELDS = {
    "float": {"low", "high", "step", "log"},
    "int": {"low", "high", "step", "log"},
    "categorical": {"choices"},
    "derived": {"value"},
}
COMMON = {"type", "when", "helper"}


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


Values = dict[str, Any]
Lookup = Callable[[str], Any]  # a key's value in the config; raises KeyError


@dataclass(frozen=True)
class Parameter:
    """One line of a space. low and high belong to it; step None is continuous; helper: no config key."""

    name: str
    kind: str  # of TYPES, or "derived"
    low: float = 0.0
    high: float = 0.0
    step: float | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    value: Expression | None = None
    when: Expression | None = None
    helper: bool = False

    @property
    def names(self) -> frozenset[str]:
        """What its expressions refer to."""
        return frozenset().union(*(e.names for e in (self.value, self.when) if e is not None))

    def draw(self, trial: optuna.Trial) -> Any:
        """A value of a parameter that is not derived."""
        if self.kind == "categorical":
            # a list is no value that a study can store
            labels = [_label(choice) for choice in self.choices]
            return self.choices[labels.index(trial.suggest_categorical(self.name, labels))]
        if self.kind == "int":
            step = int(self.step or 1)
            return trial.suggest_int(self.name, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)

    @property
    def corners(self) -> tuple[Any, ...]:
        """The ends of its range, or all its choices."""
        if self.kind == "categorical":
            return self.choices
        ends = (self.low, self.high) if self.low < self.high else (self.low,)
        return tuple(int(end) for end in ends) if self.kind == "int" else ends

    def to_dict(self) -> dict[str, Any]:
        """What its line of YAML says, every default written out."""
        if self.kind == "derived":
            own: dict[str, Any] = {"value": str(self.value)}
        elif self.kind == "categorical":
            own = {"type": self.kind, "choices": list(self.choices)}
        else:
            own = {"type": self.kind, "low": self.low, "high": self.high, "step": self.step, "log": self.log}
        return own | {"when": str(self.when) if self.when else None, "helper": self.helper}


@dataclass(frozen=True)
class Space:
    """The parameters of a search, in the order in which they are drawn."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Space:
        """The space that the node `sweep.params` describes. Raises ConfigError naming the parameter."""
        found = _used(tuple(_parameter(str(name), node) for name, node in params.items()))
        drawn = [p for p in found if p.kind != "derived"]
        if not drawn:
            raise ConfigError(
                "sweep.params has nothing to draw: take sweep=default, or name ranges such as "
                "'optimizer.lr=tag(log,interval(1e-5,1e-2))' model.layers=1,2"
            )
        later = {p.name for p in found}
        for parameter in found:
            if unknown := sorted(parameter.names & later):
                raise ConfigError(
                    f"sweep.params.{parameter.name}: its expression needs {unknown[0]}, which must stand "
                    f"above it"
                )
            later.discard(parameter.name)
        return cls(found)

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.parameters]

    def draw(self, trial: optuna.Trial, config: Lookup) -> tuple[Values, Values]:
        """(all values by name, those that are keys of the config)."""
        return self._follow(config, lambda parameter: parameter.draw(trial))

    def corner(self, chosen: Mapping[str, Any], config: Lookup) -> tuple[Values, Values]:
        """As `draw`, with the values chosen."""
        return self._follow(config, lambda parameter: chosen[parameter.name])

    def corners(self, config: Lookup) -> Iterator[tuple[Values, Values]]:
        """Combinations of the ends of all ranges: every one of those that shape the model or an expression,
        and with the first of them each end of the others."""
        drawn = [p for p in self.parameters if p.kind != "derived"]
        needed = frozenset().union(*(p.names for p in self.parameters))
        shaping = [p for p in drawn if p.name.partition(".")[0] == "model" or p.name in needed]
        others = [p for p in drawn if p not in shaping]
        lowest = {p.name: p.corners[0] for p in drawn}
        for ends in itertools.product(*(p.corners for p in shaping)):
            yield self.corner(lowest | dict(zip((p.name for p in shaping), ends, strict=True)), config)
        for other in others:
            for end in other.corners[1:]:
                yield self.corner(lowest | {other.name: end}, config)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, for reports and to compare two spaces."""
        return {p.name: p.to_dict() for p in self.parameters}

    def _follow(self, config: Lookup, choose: Callable[[Parameter], Any]) -> tuple[Values, Values]:
        values: Values = {}
        keys: Values = {}
        for parameter in self.parameters:
            names = {name: _lookup(parameter, name, values, config) for name in parameter.names}
            if parameter.when is not None and not parameter.when.value(names):
                continue
            chosen = parameter.value.value(names) if parameter.value else choose(parameter)
            values[parameter.name] = chosen
            if not parameter.helper:
                keys[parameter.name] = chosen
        return values, keys


def _used(parameters: tuple[Parameter, ...]) -> tuple[Parameter, ...]:
    """Without helpers that nothing refers to, such as one whose derived value the command line gives."""
    needed = frozenset().union(*(p.names for p in parameters))
    kept = tuple(p for p in parameters if not p.helper or p.name in needed)
    return kept if len(kept) == len(parameters) else _used(kept)


def _lookup(parameter: Parameter, name: str, values: Values, config: Lookup) -> Any:
    if name in values:
        return values[name]
    try:
        return config(name)
    except KeyError:
        raise ConfigError(
            f"sweep.params.{parameter.name}: its expression names {name}, which is neither a parameter "
            f"that is drawn here nor a key of the config"
        ) from None


def _parameter(name: str, node: Any) -> Parameter:
    where = f"sweep.params.{name}"
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}: write {{type: float, low: ..., high: ...}}, not {node!r}")
    kind = "derived" if "value" in node else node.get("type")
    if kind is None:
        raise ConfigError(f"{where} lacks a type ({', '.join(TYPES)}) or a value")
    if kind not in FIELDS:
        raise ConfigError(f"{where}.type={kind}: no such type. {suggest(str(kind), TYPES, True)}")
    for key in node:
        if key not in FIELDS[kind] | COMMON:
            near = suggest(str(key), sorted(FIELDS[kind] | COMMON), all_options=True)
            raise ConfigError(f"{where}.{key}: no such setting of a {kind} parameter. {near}")
    when = Expression(str(node["when"])) if node.get("when") is not None else None
    helper = node.get("helper", False)
    if not isinstance(helper, bool):
        raise ConfigError(f"{where}.helper={helper} is not true or false")
    if kind == "derived":
        return Parameter(name, kind, value=Expression(str(node["value"])), when=when, helper=helper)
    if kind == "categorical":
        return Parameter(name, kind, choices=_choices(where, node.get("choices")), when=when, helper=helper)
    low, high, step, log = _range(where, kind, node)
    return Parameter(name, kind, low, high, step, log, when=when, helper=helper)


def _choices(where: str, choices: Any) -> tuple[Any, ...]:
    if not isinstance(choices, list | tuple) or not choices:
        raise ConfigError(f"{where}.choices must be a list of values: choices: [...]")
    if len({_label(choice) for choice in choices}) < len(choices):
        raise ConfigError(f"{where}.choices={list(choices)} names a value twice")
    return tuple(choices)


def _range(where: str, kind: str, node: Mapping[str, Any]) -> tuple[float, float, float | None, bool]:
    for end in ("low", "high"):
        if end not in node:
            raise ConfigError(f"{where}.{end} must be given")
    low, high = (_number(f"{where}.{end}", kind, node[end]) for end in ("low", "high"))
    step = None if node.get("step") is None else _number(f"{where}.step", kind, node["step"])
    log = node.get("log", False)
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log={log} is not true or false")
    if low > high:
        raise ConfigError(f"{where}: low={low:g} lies above high={high:g}")
    if log and low <= 0:
        raise ConfigError(f"{where}: log=true with low={low:g}: a log scale must begin above 0")
    if log and step is not None:
        raise ConfigError(f"{where}: log=true and step={step:g} can't be combined")
    if step is not None and not step > 0:
        raise ConfigError(f"{where}.step={step:g} must be above 0")
    return low, high, step, log


def _number(where: str, kind: str, value: Any) -> float:
    if isinstance(value, str):  # YAML reads 1e-5 as text
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{where}={value} is not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where}={value} is not a number")
    if kind == "int":
        if value != int(value):
            raise ConfigError(f"{where}={value} is not a whole number, and the parameter is of type int")
        return int(value)
    return float(value)


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
