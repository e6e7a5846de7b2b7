"""Draws docs/pictures/architecture.svg: the packages of stockenh/ as floors, and which imports which.

python tools/architecture.py [FILE]

Imports are read from the code. An arrow that other arrows imply is left out: if A imports B and B imports
C, the picture has no arrow from A to C.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "pictures" / "architecture.svg"
# what each floor has, from high to low; an import goes down only
FLOORS = {
    "cli": "the command line",
    "commands": "a module or folder per command: compute, then show",
    "config": "compose (Hydra), check, build objects",
    "report": "tables, figures, pages, trackers",
    "evaluation": "scores, intervals, baselines: arrays in, figures out",
    "inference": "forecasts, noisy views, calibration, export",
    "training": "loop, step, losses, schedules, averages, checkpoints",
    "models": "networks and their layers",
    "embedding": "the kernel embedding and Kronos",
    "data": "readers, sources, features, windows, splits, batches",
    "storage": "run folder, atomic files, locks",
    "errors": "what a user can fix, with exit codes",
}
LEFT, WIDTH, HEIGHT, STEP, LANE = 20, 560, 38, 62, 26


def packages() -> set[str]:
    """The packages and modules at the top of stockenh/, without `__init__` and `__main__`."""
    found = {path.stem for path in (ROOT / "stockenh").iterdir() if path.is_dir() or path.suffix == ".py"}
    return {name for name in found if not name.startswith("_")}


def imports() -> set[tuple[str, str]]:
    """Pairs of floors of which the first imports the second, anywhere in a file."""
    found = set()
    for floor in packages():
        folder = ROOT / "stockenh" / floor
        for file in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
            for name in imported(ast.parse(file.read_text(encoding="utf-8"))):
                package, _, rest = name.partition(".")
                if package == "stockenh" and rest:
                    found.add((floor, rest.partition(".")[0]))
    return {(a, b) for a, b in found if a != b and b in packages()}


def imported(tree: ast.Module) -> Iterator[str]:
    """The full names of what a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that no path over other pairs implies. The pairs have no cycle."""
    below: dict[str, set[str]] = {}
    for a, b in pairs:
        below.setdefault(a, set()).add(b)

    def reach(name: str) -> set[str]:
        return {deep for b in below.get(name, ()) for deep in (b, *reach(b))}

    return {(a, b) for a, b in pairs if not any(b in reach(c) for c in below[a] - {b})}


def lanes(arrows: list[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """A lane beside the floors for each arrow over more than one floor; arrows in a lane don't overlap."""
    found: dict[tuple[int, int], int] = {}
    for arrow in sorted(arrows, key=lambda a: a[1] - a[0]):
        taken = {lane for (top, end), lane in found.items() if top < arrow[1] and arrow[0] < end}
        found[arrow] = min(set(range(len(found) + 1)) - taken)
    return found


def svg() -> str:
    """The picture. Raises ValueError for a package that is no floor, or an import that goes up."""
    if packages() != set(FLOORS):
        raise ValueError(f"floors and packages differ: {sorted(packages() ^ set(FLOORS))}")
    rows = {name: row for row, name in enumerate(FLOORS)}
    pairs = imports()
    if up := sorted(pair for pair in pairs if rows[pair[0]] > rows[pair[1]]):
        raise ValueError(f"imports go up: {up}")
    arrows = sorted((rows[a], rows[b]) for a, b in reduced(pairs))
    beside = lanes([arrow for arrow in arrows if arrow[1] - arrow[0] > 1])
    width = LEFT + WIDTH + LANE * (max(beside.values(), default=0) + 2)
    body = [box(name, row) for name, row in rows.items()]
    body += [path(arrow, beside.get(arrow)) for arrow in arrows]
    return "\n".join([*head(width, STEP * len(rows)), *body, "</svg>"]) + "\n"


def head(width: int, height: int) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#345"/></marker></defs>',
    ]


def box(name: str, row: int) -> str:
    top = row * STEP + 10
    return (
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="5" '
        'fill="#e8eef6" stroke="#7a8ca5"/>'
        f'<text x="{LEFT + 14}" y="{top + 24}" font-size="15" font-weight="bold">{name}</text>'
        f'<text x="{LEFT + 120}" y="{top + 24}" font-size="14" fill="#333333">{FLOORS[name]}</text>'
    )


def path(arrow: tuple[int, int], lane: int | None) -> str:
    """A straight arrow to the next floor, or one through a lane beside the floors."""
    start, end = (row * STEP + 10 for row in arrow)
    if lane is None:
        line = f"M{LEFT + 60},{start + HEIGHT} V{end - 1}"
    else:
        side = LEFT + WIDTH
        line = f"M{side},{start + 26} H{side + LANE * (lane + 1)} V{end + 12} H{side + 1}"
    return f'<path d="{line}" fill="none" stroke="#345" stroke-width="1.4" marker-end="url(#tip)"/>'


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    file.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
