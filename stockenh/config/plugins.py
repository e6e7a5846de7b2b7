"""Loads plugins: files and modules that the command line names, and entry points of installed packages.

A plugin registers settings classes as options of config groups, see `stockenh.plugin`. It runs as a part of
the program, so nothing that a run folder says ever leads here.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import types
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from stockenh.config import registry
from stockenh.config.options import describe, made, named_errors, provide, withdraw
from stockenh.config.registry import FLAG, Plugin
from stockenh.errors import ConfigError
from stockenh.report.terminal import PLUGIN_FLAGS

ENTRY_POINTS = "stockenh.plugins"
OFF = "STOCKENH_NO_INSTALLED_PLUGINS"
LARGEST_BYTES = 2**22  # of a file
_MODULE = "stockenh_plugin_"  # the start of the name under which a file is a module
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")

Handed = tuple[str, str | None]  # what --plugin takes, and a file's source, of which each character is a byte

_named: list[Handed] = []
_files: dict[str, Plugin] = {}  # by the name of the module that a file is
_collected: list[tuple[str, str, Any]] = []  # group, name, class; not yet options
_by_module: dict[str, list[tuple[str, str, Any]]] = {}  # what an imported module has registered
_beside: set[str] = set()  # modules in the folder of a file
_done: set[str] = set()  # what is loaded of what is named and installed
_is_loaded = False


def register(group: str, name: str, kind: Any) -> None:
    """Called by the decorator `stockenh.plugin`; all is checked once the plugin is loaded."""
    global _is_loaded
    _collected.append((group, name, kind))
    _is_loaded = False


def use(handed: Sequence[Handed | str]) -> None:
    """Names the plugins of a command; those of another command before are none of its options any more."""
    global _is_loaded
    wanted = [(h, None) if isinstance(h, str) else h for h in handed]
    absolute = [(os.path.abspath(os.path.expanduser(w)) if _is_file(w) else w, s) for w, s in wanted]
    for option in [*registry.OPTIONS.values()]:
        if option.plugin.flag is not None:
            withdraw(option)
    for name in (*_files, *_beside):
        sys.modules.pop(name, None)
    for known in (_files, _beside, _done, registry.BROKEN, registry.WARNED):
        known.clear()
    _named[:] = dict.fromkeys(absolute)
    PLUGIN_FLAGS[:] = flags()
    _is_loaded = False


def handed() -> list[Handed]:
    """For `use` in another process, which so runs the same code even if a file has changed since."""
    return list(_named)


def take(given: Sequence[Handed]) -> None:
    """`use` and `load` in a job that may be in a process of its own; does nothing in the command's own."""
    given = [(name, source) for name, source in given]
    if given != _named:
        use(given)
    load()


def flags() -> list[str]:
    """The arguments by which another command gets the same plugins."""
    return [word for name, _ in _named for word in (FLAG, name)]


def load(installed: bool = True) -> None:
    """Loads what is named and what is installed; does nothing where that is done.

    Raises ConfigError naming a plugin of the command line that can't be used. An installed one is left out
    with a line on standard error.
    """
    global _is_loaded
    if _is_loaded:
        return
    try:
        _load_all(installed)
    except ConfigError:
        _collected.clear()
        raise
    _is_loaded = installed


def _load_all(installed: bool) -> None:
    _adopt(None)  # what registered itself before, such as in a notebook
    for number, (word, source) in enumerate(_named):
        if word in _done:
            continue
        if _is_file(word):
            _named[number] = (word, _load_file(Path(word), source))
        else:
            _load_module(word)
        _done.add(word)
    if installed and not os.environ.get(OFF):
        for point in metadata.entry_points(group=ENTRY_POINTS):
            if (module := point.value.partition(":")[0].strip()) not in _done:
                _load_installed(point, module)
                _done.add(module)


def blame(error: BaseException) -> str | None:
    """`the plugin mynet.py, line 31: RuntimeError: ...` for an error of a plugin's own code; else None."""
    files = {getattr(sys.modules.get(o.kind.__module__), "__file__", None) for o in registry.OPTIONS.values()}
    files |= {word for word, _ in _named}
    ours = [f.filename for f in traceback.extract_tb(error.__traceback__) if f.filename in files]
    return f"the plugin {describe(error, ours[-1])}" if ours else None


def _is_file(word: str) -> bool:
    return word.endswith((".py", ".ipynb")) or os.sep in word or (not _NAME.fullmatch(word))


def _load_file(path: Path, source: str | None) -> str:
    """Runs a file as a module; returns its source. Raises ConfigError."""
    what = f"{FLAG} {path.name}"
    if source is None:
        source = _read(path, what)
    content = source.encode("latin-1")
    name = _MODULE + re.sub(r"\W", "_", path.stem)
    if name in _files:
        raise ConfigError(f"{what}: another plugin of this name is given; rename one of the files")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    plugin = Plugin(path.name, hashlib.sha256(content).hexdigest(), str(path))
    sys.modules[name] = module
    _files[name] = plugin
    with named_errors(what, str(path)), _importing_beside(path):
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    _adopt(plugin)
    _require_options([o for o in registry.OPTIONS.values() if o.plugin == plugin], what)
    return source


def _read(path: Path, what: str) -> str:
    if path.suffix == ".ipynb":
        raise ConfigError(f"{what} is a notebook: save the cells that define the model as a .py file")
    if not path.exists():
        raise ConfigError(f"{what}: no such file: {path}")
    if not path.is_file():
        raise ConfigError(f"{what} is no file: name the .py file that has the model")
    if path.suffix != ".py":
        raise ConfigError(f"{what} is no Python file: name one that ends in .py, or an installed module")
    if path.stat().st_size > LARGEST_BYTES:
        raise ConfigError(f"{what} has more than {LARGEST_BYTES:,} bytes: it is no plugin")
    return path.read_bytes().decode("latin-1")


def _load_module(name: str) -> None:
    """Imports a module that the command line names. Raises ConfigError."""
    what = f"{FLAG} {name}"
    try:
        found = importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        found = False
    except BaseException as error:  # of a package above it
        raise ConfigError(f"{what}: {describe(error, None)}") from None
    if not found:
        near = f"; the file is {FLAG} {name}.py" if Path(f"{name}.py").is_file() else ""
        raise ConfigError(f"{what}: no module of this name is installed, and it is no FILE.py{near}")
    _import(what, name, name, None)


def _load_installed(point: metadata.EntryPoint, module: str) -> None:
    """Imports the module of an entry point, or prints why it is left out."""
    dist, before = point.dist, set(registry.OPTIONS)
    which = f"{dist.name} {dist.version}" if dist is not None else point.value
    try:
        _import(module, module, None, dist)
    except ConfigError as error:
        _collected.clear()
        for key in set(registry.OPTIONS) - before:
            withdraw(registry.OPTIONS[key])
        registry.BROKEN[module] = str(error)
        registry.warn(
            f"the installed plugin {point.name} ({which}) is left out: {error}. {OFF}=1 turns them all off"
        )


def _import(what: str, name: str, flag: str | None, dist: metadata.Distribution | None) -> None:
    """Makes options of what a module registers, now or when it was first imported. Raises ConfigError."""
    _collected.clear()
    with named_errors(what, _folder_of(name)):
        importlib.import_module(name)
    _by_module[name] = [*_collected] or _by_module.get(name, [])
    known = {option.kind: option for option in registry.OPTIONS.values()}
    _collected[:] = [(group, of, kind) for group, of, kind in _by_module[name] if kind not in known]
    _adopt(None, flag, dist)
    _require_options([o for o in registry.OPTIONS.values() if _is_of(o.kind, name)], what)


def _is_of(kind: type, name: str) -> bool:
    """Whether a class lies in a module or package, or was registered when that was imported."""
    registered = any(kind is of for _, _, of in _by_module.get(name, ()))
    return registered or f"{kind.__module__}.".startswith(f"{name}.")


def _folder_of(module: str) -> str | None:
    """The file of a module, or the folder of a package; None where there is none."""
    with contextlib.suppress(ImportError, ValueError, AttributeError):
        spec = importlib.util.find_spec(module)
        if spec is not None and spec.origin is not None:
            return str(Path(spec.origin).parent) if spec.submodule_search_locations else spec.origin
    return None


def _require_options(options: Sequence[registry.Option], what: str) -> None:
    if not options:
        raise ConfigError(
            f'{what} registers nothing: put @stockenh.plugin("model", "NAME") above the dataclass of the '
            f"settings"
        )


def _adopt(file: Plugin | None, flag: str | None = None, dist: metadata.Distribution | None = None) -> None:
    """Makes options of all that has registered itself. Raises ConfigError."""
    collected = [*_collected]
    _collected.clear()
    for group, name, kind in collected:
        plugin = file or _plugin_of(kind, flag, dist)
        provide(made(plugin, group, name, kind))


def _plugin_of(kind: Any, flag: str | None, dist: metadata.Distribution | None) -> Plugin:
    name = getattr(kind, "__module__", "unknown")
    if name in _files:
        return _files[name]
    content = None
    with contextlib.suppress(TypeError, OSError):
        content = Path(inspect.getsourcefile(kind) or "").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest() if content is not None else None
    return Plugin(name, sha256, flag, *((dist.name, dist.version) if dist is not None else ()))


def _own_files(folder: Path, name: str) -> tuple[str, str]:
    """Where a module of a folder is, not one of an environment that lies in the folder."""
    top = folder / name.partition(".")[0]
    return str(top.with_suffix(".py")), str(top / "__init__.py")


@contextlib.contextmanager
def _importing_beside(path: Path) -> Iterator[None]:
    """Within, modules in the folder of a file can be imported, if no installed one has their name."""
    folder, before = str(path.parent), set(sys.modules)
    sys.path.append(folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
        for name in set(sys.modules) - before:
            top = sys.modules.get(name.partition(".")[0])
            if getattr(top, "__file__", None) in _own_files(path.parent, name):
                _beside.add(name)
