"""The pages of the docs site that are generated, as a hook of mkdocs (`make docs`).

README.md, CONTRIBUTING.md and CHANGELOG.md become pages. The reference of commands, keys and the Python API
is read from the code when the site is built, so it is never stale.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the checkout whose docs these are, whatever package is installed

from stockenh.config import catalog  # noqa: E402

KEYS, API = "keys.md", "api.md"
# pages outside of docs/, and files that pages link to
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
OUTSIDE = re.compile(r"\]\(((?:\.\./|stockenh/|examples/|tools/|tests/|LICENSE)[^)#]*)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages, and the files outside docs/ that pages link to."""
    from mkdocs.structure.files import File

    for name, text in generated().items():
        files.append(File.generated(config, name, content=text))
    for page in list(files.documentation_pages()):
        for target, _ in OUTSIDE.findall(page.content_string):
            path = target.removeprefix("../")
            new = path not in PAGES.values() and files.get_file_from_path(path) is None
            if new and (ROOT / path).is_file():
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lets a page link to the copies that the site has of files outside docs/."""
    for name, source in PAGES.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return OUTSIDE.sub(lambda link: link[0].replace("](../", "](", 1), markdown)


def generated() -> dict[str, str]:
    """Each generated page by its name in the site."""
    texts = {name: in_site((ROOT / source).read_text(encoding="utf-8")) for name, source in PAGES.items()}
    return texts | {KEYS: "\n".join(keys_page()) + "\n", API: "\n".join(api_page()) + "\n"}


def in_site(text: str) -> str:
    """A page of the repository's root, with its links as they are from docs/."""
    for name, source in PAGES.items():
        text = text.replace(f"]({source}", f"]({name}")
    return text.replace("](docs/", "](")


def commands() -> dict[str, Any]:
    """Every command of the program by its name, `data check` for one of a group."""
    import typer

    from stockenh.cli import app

    def inner(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from inner(command, f"{before}{name} ")
            else:
                yield before + name, command

    return dict(inner(typer.main.get_command(app)))


def keys_page() -> Iterator[str]:
    """Markdown of every command with its keys, then of every group with its options and their keys."""
    roots, groups = catalog.roots(), catalog.groups()
    yield "# Commands and keys\n"
    yield "This page is read from the code and from the comments of `conf/` when the site is built. "
    yield "`stockenh COMMAND --help` prints the same. A command takes the keys in its table and, of each of "
    yield "its groups, the keys of the chosen option: `stockenh train loss=focal loss.gamma=1`. The space, "
    yield "sampler and pruner of a [search](sweeps.md#the-space) and the techniques of an "
    yield "[ablation](ablation.md) are described on their pages.\n"
    for name, command in commands().items():
        root = catalog.root_of(name)
        yield f"## stockenh {name}\n"
        yield from (f"{part}\n" for part in paragraphs(command.help or ""))
        for parameter in command.params:
            if not hasattr(parameter, "name") or parameter.name in ("overrides", "help"):
                continue
            word = parameter.metavar or parameter.name
            label = parameter.opts[0] if parameter.param_type_name == "option" else word
            yield f"- `{label}`: {one_line(parameter.help or '')}\n"
        if root in roots:
            yield from groups_table(root, groups)
            yield from table(k for k in catalog.keys_of(root) if not is_structure(k.name))
    yield from groups_part(groups)


def groups_table(root: str, groups: dict[str, list[str]]) -> Iterator[str]:
    """The groups of a command, each with its default option and a link to its keys."""
    of_root = {group: option for group, option in catalog.groups_of(root).items() if group in groups}
    if of_root:
        yield "| group | option by default |\n|---|---|"
        yield from (
            f"| [`{g}=`](#{g}) | {f'`{option}`' if option else ''} |" for g, option in of_root.items()
        )
        yield ""


def groups_part(groups: dict[str, list[str]]) -> Iterator[str]:
    """A section per config group, with what each option is and the keys that it has."""
    for group, options in groups.items():
        yield f"## {group}\n"
        for option in options:
            (file,) = (
                catalog.OptionFile.read(f) for f in (catalog.conf_dir() / group).glob(f"{option}.yaml")
            )
            yield f"### {group}={option}\n"
            yield head_comment(file.text) + "\n"
            yield from table(k for k in catalog.option_keys(file, f"{group}.") if not is_structure(k.name))


def is_structure(name: str) -> bool:
    """Whether a key has a structure below it, which the page of its command describes."""
    from stockenh.cli import STRUCTURES

    return name.startswith(STRUCTURES)


def table(keys: Iterable[catalog.Key]) -> Iterator[str]:
    """A table of keys, or nothing if there are none."""
    rows = [f"| `{key.name}` | {code(key.default)} | {cell(key.comment)} |" for key in keys]
    if rows:
        yield "| key | default | meaning |\n|---|---|---|"
        yield from rows
        yield ""


def head_comment(text: str) -> str:
    """The comment at the head of a YAML file, without Hydra's own line."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            lines.append(line.removeprefix("#").strip())
    return escape(" ".join(lines))


def api_page() -> Iterator[str]:
    """Markdown of the public classes and functions, with signatures and docstrings."""
    source = ast.parse((ROOT / "stockenh/commands/api.py").read_text(encoding="utf-8"))
    package = ast.parse((ROOT / "stockenh/__init__.py").read_text(encoding="utf-8"))
    yield "# Python API\n"
    yield "The names of `import stockenh`, read from the code. [From Python](python.md) shows them at work.\n"
    public = public_names(package)
    for node in [*source.body, *package.body]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public:
            yield from described(node, "stockenh.", "##")


def public_names(package: ast.Module) -> list[str]:
    """`__all__` of a module."""
    for node in package.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def described(node: ast.FunctionDef | ast.ClassDef, before: str, level: str) -> Iterator[str]:
    """A heading, a signature and a docstring; of a class those of its public methods too."""
    yield f"{level} {before}{node.name}\n"
    if isinstance(node, ast.FunctionDef) and not is_property(node):
        result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        arguments = re.sub(r"^(self|cls)(, )?", "", ast.unparse(node.args))
        yield f"```python\n{node.name}({arguments}){result}\n```\n"
    doc = re.sub(r"\n(?=[a-z_]+: )", "\n\n", ast.get_docstring(node) or "")  # a paragraph per argument
    yield from (f"{escape(part)}\n" for part in paragraphs(doc))
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                yield from described(inner, f"{node.name}.", "###")


def is_property(node: ast.FunctionDef) -> bool:
    return any(getattr(decorator, "id", "") == "property" for decorator in node.decorator_list)


def paragraphs(text: str) -> list[str]:
    return [one_line(part) for part in re.split(r"\n\s*\n", text) if part.strip()]


def one_line(text: str) -> str:
    return " ".join(text.split())


def code(text: str) -> str:
    return f"`{cell(text)}`" if text else ""


def cell(text: str) -> str:
    return escape(text).replace("|", "\\|")


def escape(text: str) -> str:
    return text.replace("<", "&lt;")
