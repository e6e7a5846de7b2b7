"""Makes an option of a config group of a settings class that a plugin registers.

The class is checked as those of this package are. Its fields, defaults and comments become a YAML file in
memory, in the style of conf/, which help, completion and composing read.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from hydra.core.config_store import ConfigStore
from pydantic import PydanticUserError, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation
from pydantic.json_schema import PydanticJsonSchemaWarning
from pydantic_core import PydanticSerializationError

from stockenh.config import catalog, registry
from stockenh.config.overrides import suggest
from stockenh.config.registry import Option, Plugin
from stockenh.config.schema import GROUPS, literals, setting_names
from stockenh.errors import ConfigError, StockenhError
from stockenh.storage.untrusted import bounded

_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,100}")
_SCALARS = (bool, int, float, str, list, tuple)


def made(plugin: Plugin, group: Any, name: Any, kind: Any) -> Option:
    """The option, all checked. Raises ConfigError naming the plugin and what to change."""
    what = f"the plugin {plugin.name}"
    if group not in GROUPS:
        raise ConfigError(f"{what} registers {group}={name}: no such group. {suggest(str(group), GROUPS)}")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"{what} registers {group}={name}: a name has letters, digits, _ and - only")
    what = f"{what}, {group}={name}"
    other = registry.OPTIONS.get((group, name))
    if other is not None and other.plugin.name == plugin.name == "__main__":  # a cell that runs again
        withdraw(other)
        other = None
    if other is not None or name in catalog.groups().get(group, ()):
        whose = f"the plugin {other.plugin.name} has" if other is not None else "stockenh has"
        raise ConfigError(f"{what}: {whose} a {group} of this name already; register another name")
    _make_settings(what, group, name, kind)
    try:
        text = _yaml_of(Option(plugin, group, name, kind, "").target, kind)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}") from None
    return Option(plugin, group, name, kind, text)


def provide(option: Option) -> None:
    """Lets configs choose the option from now on."""
    registry.OPTIONS[option.group, option.name] = option
    node = literals(yaml.safe_load(option.text))
    ConfigStore.instance().store(option.name, node, group=option.group, provider=option.plugin.name)


def withdraw(option: Option) -> None:
    """The inverse."""
    registry.OPTIONS.pop((option.group, option.name), None)
    ConfigStore.instance().repo.get(option.group, {}).pop(f"{option.name}.yaml", None)


def _make_settings(what: str, group: str, name: str, kind: Any) -> None:
    """Makes the class a dataclass and one of its group's, where it can be. Raises ConfigError."""
    if not isinstance(kind, type):
        raise ConfigError(f"{what}: register the dataclass of its settings, not a {type(kind).__name__}")
    module = sys.modules.get("torch")
    if module is not None and issubclass(kind, module.nn.Module):
        raise ConfigError(
            f"{what}: {kind.__name__} is the network itself: register the dataclass of its settings, whose "
            f"build(self, inputs) returns the network"
        )
    if any(option.kind is kind for option in registry.OPTIONS.values()):
        raise ConfigError(f"{what}: {kind.__name__} has a name already; register one name for each class")
    if "__dataclass_fields__" not in vars(kind):
        try:
            dataclasses.dataclass(frozen=True)(kind)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{what}: {kind.__name__} can't be a dataclass: {error}") from None
    names = {f.name for f in dataclasses.fields(kind)}
    typed = {*names, *vars(kind).get("__annotations__", {}), *_base_names(group)}
    for key, value in vars(kind).items():
        if not key.startswith("_") and key not in typed and type(value) in _SCALARS:
            raise ConfigError(
                f"{what}: {key} of {kind.__name__} is no setting without a type: write "
                f"{key}: {type(value).__name__} = {value!r}"
            )
    base = base_of(group)
    if group == "model":
        if not issubclass(kind, base):
            _adopt(base, kind)
        if callable(getattr(kind, "build", None)):
            _adapt_networks(what, kind)
    if group == "target":
        kind.name = name  # type: ignore[attr-defined]
    if not issubclass(kind, base):
        raise ConfigError(f"{what}: {kind.__name__} must inherit from {GROUPS[group]}")
    lacking = sorted(key for key in base.__abstractmethods__ if not _has_method(kind, key))
    if lacking:
        raise ConfigError(f"{what}: {kind.__name__} lacks {', '.join(f'{key}()' for key in lacking)}")
    for key in vars(base).get("__annotations__", {}):
        if key not in names and not hasattr(kind, key):
            raise ConfigError(f"{what}: {kind.__name__} lacks {key}: write {key}: float = 0.5")
    if group in _PAIRS:
        _check_pairs(what, kind, *_PAIRS[group])


def _unwrapped(method: Any) -> Any:
    """The method of the plugin itself, also where its class was registered before."""
    return getattr(method, "own", method)


def _has_method(kind: type, key: str) -> bool:
    found = getattr(kind, key, None)
    return found is not None and not getattr(found, "__isabstractmethod__", False)


def base_of(group: str) -> Any:
    """The base class of a group's settings."""
    module, _, name = GROUPS[group].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _base_names(group: str) -> set[str]:
    return set(dir(base_of(group))) | {
        key for c in base_of(group).__mro__ for key in vars(c).get("__annotations__", {})
    }


def _adopt(base: Any, kind: type) -> None:
    """Makes a class that inherits from nothing one of the base's, with what that has by default."""
    for key, value in vars(base).items():
        if (
            not key.startswith("_")
            and not hasattr(kind, key)
            and not getattr(value, "__isabstractmethod__", False)
        ):
            setattr(kind, key, value)
    base.register(kind)


# Methods that return two arrays, and what each must have a value for.
_PAIRS = {
    "loss": (
        "elements",
        "two tensors (windows, horizons), the losses of returns and of direction, not reduced",
    ),
    "target": ("values", "two arrays (windows, horizons), the target and its direction"),
}


def _check_pairs(what: str, kind: Any, method: str, meaning: str) -> None:
    """Makes a method raise ConfigError where it does not return what it must: a mean would be broadcast."""
    own, file = _unwrapped(getattr(kind, method)), _source_file(kind)

    def checked(self: Any, first: Any, *more: Any) -> Any:
        with named_errors(what, file):
            found = own(self, first, *more)
        wanted = first["ret"].shape if method == "elements" else first.shape
        parts = found if isinstance(found, tuple | list) else (found,)
        shapes = [tuple(getattr(part, "shape", ())) for part in parts]
        if shapes != [tuple(wanted)] * 2:
            raise ConfigError(
                f"{what}: {method}() must return {meaning}: twice {tuple(wanted)} here, not "
                f"{' and '.join(map(str, shapes))}"
            )
        return tuple(parts)

    checked.own = own  # type: ignore[attr-defined]
    setattr(kind, method, checked)


def _source_file(kind: Any) -> str | None:
    """The file that defines a class; None for one that was typed into an interpreter."""
    try:
        return inspect.getsourcefile(kind)
    except (OSError, TypeError):
        return None


def _adapt_networks(what: str, kind: Any) -> None:
    """Makes `build` return networks with this package's form of output, and `try_out` try one."""
    own, unused = _unwrapped(kind.build), dict[str, bool]()
    file = _source_file(kind)

    def build(self: Any, inputs: Any) -> Any:
        import torch

        from stockenh.models.own import UNUSED, adapted

        with named_errors(what, file):
            try:
                net = adapted(own(self, inputs), inputs)
            except Exception as error:
                if torch.get_default_device().type != "meta" or "overflow" in str(error):
                    raise
                # not every initialisation works without memory
                with torch.device("cpu"), torch.random.fork_rng([]):
                    net = adapted(own(self, inputs), inputs)
        setattr(net, UNUSED, unused.get(repr((self, inputs)), False))
        return net

    def try_out(self: Any, inputs: Any) -> None:
        import torch

        from stockenh.models.own import try_out

        if (key := repr((self, inputs))) in unused:
            return
        sizes = (
            f" (lookback {inputs.lookback}, embedding {inputs.embedding}, context {inputs.context}, horizons "
            f"{inputs.horizons})"
        )
        with torch.device("cpu"), torch.random.fork_rng([]):
            net = self.build(inputs)
            with named_errors(what, file, sizes):
                odd, unused[key] = try_out(net, inputs)
        if odd is not None:
            registry.warn(f"{what}: {odd}")

    build.own = own  # type: ignore[attr-defined]
    kind.build, kind.try_out = build, try_out


@contextlib.contextmanager
def named_errors(what: str, file: str | None, more: str = "") -> Iterator[None]:
    """Raises ConfigError in one line, with the line of the file, for whatever is raised within."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except StockenhError as error:
        raise ConfigError(f"{what}: {error}") from None
    except BaseException as error:
        raise ConfigError(f"{what}: {describe(error, file)}{more}") from error


def describe(error: BaseException, file: str | None) -> str:
    """Where an error comes from, within a file or package if it passed there, and what it is."""
    text = (str(error).strip().splitlines() or [""])[0]
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename is not None:
        return f"{Path(error.filename).name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    own = [f for f in frames if file is not None and f.filename.startswith(file)] or frames[-1:]
    return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {reason}" if own else reason


def _yaml_of(target: str, kind: Any) -> str:
    """The YAML of an option as conf/ has it. Raises ConfigError for a field that no YAML can hold."""
    comments = _comments(kind)
    doc = (inspect.getdoc(kind) or "").partition("\n")[0]
    lines = [f"# {doc}" if doc else f"# {kind.__name__}", f"_target_: {_flow(target)}"]
    known = _setting_names(kind)
    for f in dataclasses.fields(kind):
        if f.name not in known:
            continue
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            value = "???"
        else:
            given = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
            value = _flow(_dumped(kind, f.name, given))
        comment = comments.get(f.name, "")
        lines.append(f"{f.name}: {value}" + (f"  # {comment}" if comment else ""))
    return "\n".join(lines) + "\n"


def _dumped(cls: Any, key: str, value: Any) -> Any:
    """A setting as YAML has it. Raises ConfigError for what no YAML can hold."""
    kind = get_type_hints(cls, include_extras=True)[key]
    try:
        return bounded(TypeAdapter(kind).dump_python(value, mode="json"))
    except (PydanticSchemaGenerationError, PydanticSerializationError, ValueError) as error:
        raise ConfigError(
            f"{key}: its default is none that YAML can hold ({error})".splitlines()[0]
        ) from None


def _setting_names(cls: Any) -> list[str]:
    """The keys of a settings dataclass. Raises ConfigError for a type that no value of YAML can have."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PydanticJsonSchemaWarning)
            return setting_names(cls)
    except (PydanticUserError, PydanticUndefinedAnnotation, NameError, TypeError) as error:
        raise ConfigError(f"{cls.__name__}: {error}".splitlines()[0]) from None


def _flow(value: Any) -> str:
    """A value on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=2**31, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _comments(kind: type) -> dict[str, str]:
    """What the source says of each field: behind it, on the lines above it, or in the docstring."""
    found: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if "__dataclass_fields__" in vars(cls):
            found |= _own_comments(cls)
    return found


def _own_comments(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
        tokens = [
            t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
        ]
    except (OSError, TypeError, SyntaxError, StopIteration, tokenize.TokenError):
        return {}
    lines = source.splitlines()
    comments = {t.start[0]: t.string.lstrip("# ").strip() for t in tokens}
    alone = {t.start[0] for t in tokens if lines[t.start[0] - 1].lstrip().startswith("#")}
    found: dict[str, str] = {}
    for node in body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        above, line = list[str](), node.lineno - 1
        while line in alone:
            above.insert(0, comments[line])
            line -= 1
        behind = comments.get(node.end_lineno or node.lineno)
        said = re.search(rf"^\s*{node.target.id}:\s+(\S.*)$", inspect.getdoc(cls) or "", re.MULTILINE)
        if text := behind or " ".join(above) or (said[1].strip() if said else ""):
            found[node.target.id] = text
    return found
