"""README and docs name only what exists: pages, anchors, pictures, commands, flags and keys."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest
from hydra._internal.utils import get_args_parser

from stockenh.cli import STRUCTURES, Composed
from stockenh.config import catalog
from stockenh.data.extra import ExtraSettings
from stockenh.storage.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SAMPLE = ROOT / "stockenh/data/sample/PROVENANCE.md"
ALL_PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md")), SAMPLE]
PAGES = [page for page in ALL_PAGES if page.name != "CHANGELOG.md"]  # which also names what is gone
OWN_DATA = (DOCS / "own_data.md").read_text(encoding="utf-8")

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)
PATH = re.compile(r"`((?:stockenh|conf|tests|tools|examples)/[\w./-]+)`")
KEY = re.compile(r"(?<![\w./-])([a-z_]\w*(?:\.\w+)+)=")
CALL = re.compile(r"(?:^|\s|`)(?:\S*/)?stockenh +((?:data )?[a-z][a-z-]*)(.*)")
HYDRA = {flag for action in get_args_parser()._actions for flag in action.option_strings}
ANYWHERE = {"--help", "-h", "--plugin"}
TYPER = {"--version", "--install-completion", "--show-completion"}
SMALL = [
    "model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16", "embedding=none", "device=cpu"
]  # fmt: skip


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def of_page(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as a repository's site and mkdocs.yml make them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}_1")
    return found


def snippets(text: str) -> Iterator[str]:
    """The lines of code blocks but those of other languages, and code within sentences."""
    for language, block in FENCE.findall(text):
        if language in ("", "sh"):
            yield from (line.split("  #")[0] for line in block.replace("\\\n", " ").splitlines())
    yield from INLINE.findall(FENCE.sub("", text))


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that a page names, with its arguments; a command's output in a block is none."""
    for snippet in snippets(text):
        if not (match := CALL.search(snippet)):
            continue
        command, rest = match[1], match[2]
        try:
            words = shlex.split(rest, comments=True)
        except ValueError:  # a part of a quoted argument
            words = rest.split()
        yield command, words


@pytest.fixture(scope="module")
def site_pages() -> Iterator[ModuleType]:
    """tools/site_pages.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools"))
        import site_pages

        yield site_pages


@pytest.fixture(scope="module")
def commands(site_pages) -> dict[str, object]:
    return site_pages.commands()


@pytest.fixture(scope="module")
def keys() -> set[str]:
    """Every key of every command."""
    groups = catalog.groups()
    found = {key.name for root in catalog.roots() for key in catalog.keys_of(root)}
    return found | {key for group in groups for key in catalog.keys_of_options(group)}


def wrong_calls(text: str, commands: dict[str, object]) -> list[str]:
    """Commands that don't exist, flags that their command lacks, and groups or options that don't exist."""
    found, groups = [], catalog.groups()
    own = set(re.findall(r"plugin\(\"\w+\", \"(\w+)\"\)|`conf/\w+/(?P<file>\w+)\.yaml`", text))
    own = {name for pair in own for name in pair}  # options that the page tells how to write
    for name, words in calls(text):
        if name not in commands:
            found.append(f"stockenh {name}")
            continue
        command = commands[name]
        flags = {flag for parameter in command.params for flag in parameter.opts} | ANYWHERE
        flags |= HYDRA if isinstance(command, Composed) else set()
        found += [f"{name} {w}" for w in words if w.startswith("-") and w.split("=")[0] not in flags]
        known = catalog.groups_of(catalog.root_of(name)) if isinstance(command, Composed) else {}
        for word in words:
            group, equals, options = word.partition("=")
            if equals and group in groups:
                if known and group not in known:
                    found.append(f"{name} {group}=")
                listed = {*groups[group], *own, "null"}
                given = [option for option in options.split(",") if re.fullmatch("[a-z]\\w*", option)]
                found += [f"{name} {group}={option}" for option in given if option not in listed]
    return found


def wrong_keys(text: str, keys: set[str]) -> list[str]:
    """Dotted keys of config nodes that no command has."""
    nodes = {key.partition(".")[0] for key in keys if "." in key}
    named = {key for snippet in snippets(text) for key in KEY.findall(snippet)}
    own = set(re.findall(r"^    (\w+): \w+", text, re.MULTILINE)) if "plugin" in text else set()
    return sorted(
        key
        for key in named
        if key.partition(".")[0] in nodes - {"hydra"}
        and key not in keys
        and not key.startswith(STRUCTURES)
        and key.partition(".")[2] not in own
    )


def broken_links(page: Path, text: str) -> list[str]:
    """Links to pages, files or anchors that don't exist, and paths in code that don't."""
    found = []
    for _, link in LINK.findall(FENCE.sub("", text)):
        target, _, anchor = link.partition("#")
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        file = page.parent / target if target else page
        if not file.is_file() or (anchor and anchor not in anchors(read(file))):
            found.append(link)
    new = re.compile("squared|NAME")  # examples of files to write
    return found + [
        path for path in PATH.findall(text) if not new.search(path) and not (ROOT / path).exists()
    ]


@of_page(ALL_PAGES)
def test_links_anchors_and_paths_exist(page):
    assert broken_links(page, read(page)) == []


@of_page(PAGES)
def test_commands_flags_and_options_exist(page, commands):
    assert wrong_calls(read(page), commands) == []


@of_page(PAGES)
def test_keys_exist(page, keys):
    assert wrong_keys(read(page), keys) == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("[a](docs/nowhere.md)", "docs/nowhere.md"),
        ("![a picture](docs/pictures/none.png)", "docs/pictures/none.png"),
        ("[a](docs/data.md#no-such-rule)", "docs/data.md#no-such-rule"),
        ("two\n[lines\nof text](CONTRIBUTING.md#absent)", "CONTRIBUTING.md#absent"),
        ("# Here\n[a](#there)", "#there"),
        ("see `stockenh/absent.py`", "stockenh/absent.py"),
    ],
)
def test_a_broken_link_is_found(text, missing):
    assert broken_links(ROOT / "README.md", text) == [missing]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("```sh\nstockenh learn\n```", "stockenh learn"),
        ("run `stockenh data verify DIR`", "stockenh data verify"),
        ("```sh\nstockenh train --epochs 3\n```", "train --epochs"),
        ("```\n.venv/bin/stockenh runs --multirun\n```", "runs --multirun"),
        ("`torchrun --nnodes=2 -m stockenh train model=resnet`", "train model=resnet"),
        ("`stockenh track model=student`", "track model="),
        ("```sh\nstockenh train \\\n  loss=focal,hinge --multirun\n```", "train loss=hinge"),
    ],
)
def test_a_wrong_command_is_found(text, wrong, commands):
    assert wrong_calls(text, commands) == [wrong]


@pytest.mark.parametrize(
    "text", ["`train.epoch=3`", "```sh\nstockenh train 'data.pth=a b'\n```", "```\nloss.gama=1  # more\n```"]
)
def test_a_wrong_key_is_found(text, keys):
    assert len(wrong_keys(text, keys)) == 1


def test_every_picture_is_on_a_page():
    shown = "".join(read(page) for page in PAGES)
    assert [p.name for p in (DOCS / "pictures").iterdir() if f"pictures/{p.name}" not in shown] == []


def test_pictures_are_small():
    assert [p.name for p in (DOCS / "pictures").iterdir() if p.stat().st_size > 250_000] == []


def test_the_site_s_navigation_has_every_page(site_pages):
    listed = re.findall(r"([\w./]+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE)
    there = {page.name for page in DOCS.glob("*.md")} | set(site_pages.generated())
    assert len(listed) == len(set(listed))
    assert set(listed) == there | {str(SAMPLE.relative_to(ROOT))}


def test_the_generated_reference_has_every_command_group_option_and_key(site_pages, commands, keys):
    text = site_pages.generated()["keys.md"]
    headings = set(HEADING.findall(text))
    assert {f"stockenh {name}" for name in commands} <= headings
    assert {f"{g}={option}" for g, options in catalog.groups().items() for option in options} <= headings
    assert [key for key in keys if f"`{key}`" not in text and not key.startswith(STRUCTURES)] == []
    assert set(re.findall(r"\]\(#([\w-]+)\)", text)) <= anchors(text)


def test_the_generated_reference_has_the_python_names(site_pages):
    import stockenh

    text = site_pages.generated()["api.md"]
    names = set(stockenh.__all__) - {"__version__"}
    assert {f"stockenh.{name}" for name in names} <= set(HEADING.findall(text))
    assert "Run.history" in text and "_call" not in text


def test_the_files_of_a_run_folder_are_described():
    text = read(DOCS / "runs.md")
    files = {
        path.name for path in vars(RunFolder(Path("run"))).values() if isinstance(path, Path) and path.suffix
    }
    assert {"summary.json", "last.pt", "metrics.jsonl"} <= files
    assert [name for name in sorted(files) if name not in text] == []


class Requests(HTMLParser):
    """What a browser fetches when it opens a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        fetched = tag in ("script", "img", "iframe", "source", "video", "object", "embed") or (
            tag == "link" and values.get("rel") not in ("canonical", "prev", "next")
        )
        if fetched:
            self.found += [value for name in ("src", "href", "data") if (value := values.get(name))]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "WARNING" not in done.stdout + done.stderr, done.stdout + done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert {"index.html", "keys.html", "api.html", "tutorial.html"} <= {page.name for page in pages}
    for page in pages:
        requests = Requests()
        requests.feed(read(page))
        assert [url for url in requests.found if re.match(r"(?:\w+:)?//", url)] == [], page.name
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(r"url\([\"']?(?:https?:)?//|@import", read(sheet)), sheet.name


def test_the_tutorial_s_bars_have_the_findings_that_it_shows(here, stockenh):
    text = read(DOCS / "tutorial.md")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/tutorial.md", "exec"), {})
    line = next(line for line in snippets(text) if line.startswith("stockenh data check"))
    out = stockenh(*shlex.split(line)[1:], code=0).out
    shown = next(block for _, block in FENCE.findall(text) if block.startswith("level "))
    for word in ("number-unreadable", "overnight-jump", "copied-bar", "4 of 4 files usable"):
        assert word in out and word in shown


def own_data_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", OWN_DATA, re.DOTALL)


def test_the_example_of_own_data_runs(here, stockenh):
    (code,) = own_data_blocks("python")
    exec(compile(code, "docs/own_data.md", "exec"), {})
    lines = [shlex.split(line) for block in own_data_blocks("sh") for line in block.splitlines()]
    assert [words[1] for words in lines] == ["data", "train", "audit", "tta-predict"]
    for _, command, *arguments in lines:
        small = SMALL if command == "train" else []
        out = stockenh(command, *arguments, *small, code=0).out
    assert "AAA" in out
    assert (here / "run" / "report" / "audit.md").is_file()


def test_the_defaults_of_own_data_are_those_of_the_code():
    settings = ExtraSettings()
    for key, value in (("lag", settings.lag), ("max_age", settings.max_age)):
        assert f"| `data.extra.{key}` | {value} |" in OWN_DATA
