"""What `stockenh COMMAND --help` prints below Typer's text: the command's config groups and keys."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table

from stockenh.config.catalog import Key, groups, groups_of, keys_of


def print_keys(root: str) -> None:
    """Prints a root config's groups with their options, and its keys with default and comment."""
    console, known = Console(), groups()
    chosen = {group: option for group, option in groups_of(root).items() if group in known}
    console.print(" Config groups and their options (stockenh ... GROUP=OPTION):")
    for group, option in chosen.items():
        default = f"   [dim](default: {option})[/dim]" if option is not None else ""
        console.print(f"   [bold]{group}[/bold]={' | '.join(known[group])}{default}", highlight=False)
    if keys := keys_of(root):
        console.print("\n Keys (KEY=VALUE); a key of a group is GROUP.KEY, such as data.path:")
        console.print(_table(keys))


def _table(keys: Iterable[Key]) -> Table:
    table = Table("key", "default", "what it is", box=box.SIMPLE, padding=(0, 1), header_style="dim")
    for key in keys:
        table.add_row(key.name, key.default, key.comment, style=None)
    return table
