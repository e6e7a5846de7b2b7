"""Seeded mutations of the files that commands leave, as damage or malice would make them."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

# What stands in place of a value: other types, extremes, texts that terminals and file systems mind.
NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**62, 10**30, 1e308, -1e308, 1e-320, 0.5, "", "0", "raw",
    "../../etc/passwd",
    "[/red]", "\x1b[2J", "a\nb", "\u202e", "${oc.env:HOME}", "x" * 5000, "$x_", [], {}, [[]], {"": {}},
    [None], [1, "a"],
    {"_target_": "os.system"}, {"h3": {"n": "x"}}, "stockenh.cli.main", "1e999", "/dev/zero", "NaN",
)  # fmt: skip
WHOLE = (b"", b"{}", b"[]", b"null", b"1", b'"x"', b"\x00" * 100, b"\xff\xfe", b"[" * 10_000, b"{" * 10_000,
         b"a: &a [x]\nb: [*a]\n", b"- " * 3000, b"\n" * 100, b'{"a": 1e999}', b"NaN")  # fmt: skip


def mutated_bytes(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut out, repeated or added; now and then another content altogether."""
    kind = draw.randrange(6)
    if kind == 0:
        return draw.choice(WHOLE)
    first = draw.randrange(len(content) + 1)
    last = min(len(content), first + draw.choice((1, 2, 10, 1000)))
    if kind == 1:
        return content[:first]
    if kind == 2:
        return content[:first] + content[last:]
    if kind == 3:
        return content[:first] + content[first:last] * 3 + content[last:]
    noise = bytes(draw.randrange(256) for _ in range(draw.choice((1, 3, 20))))
    return content[:first] + noise + content[first + (len(noise) if kind == 4 else 0) :]


def mutated_tree(tree: Any, draw: random.Random) -> Any:
    """Plain containers with one to three places replaced, removed, added or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        node = tree
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.choice(keys)
            inner = node[key]
            if isinstance(inner, dict | list) and inner and draw.random() < 0.8:
                node = inner
                continue
            kind = draw.randrange(5)
            if kind == 0:
                del node[key]
            elif kind == 1 and isinstance(node, dict):
                node[str(draw.choice(NASTY))[:50]] = node.pop(key)
            elif kind == 2 and isinstance(inner, int | float):
                node[key] = inner * draw.choice((-1, 0, 1000, 0.5))
            else:
                node[key] = draw.choice(NASTY)
            break
    return tree


Format = tuple[Callable[[str], Any], Callable[[Any], str]]
FORMATS: dict[str, Format] = {
    ".json": (json.loads, json.dumps),
    ".yaml": (yaml.safe_load, yaml.safe_dump),
    ".jsonl": (
        lambda text: [json.loads(line) for line in text.splitlines()],
        lambda lines: "".join(json.dumps(line) + "\n" for line in lines if line is not None),
    ),
}
FORMATS[".log"] = FORMATS[".jsonl"]


def mutated(path: Path, content: bytes, draw: random.Random) -> bytes:
    """A mutation of a file's content: of its values where the format is known, else of its bytes."""
    if path.suffix not in FORMATS or draw.random() < 0.3:
        return mutated_bytes(content, draw)
    load, dump = FORMATS[path.suffix]
    return dump(mutated_tree(load(content.decode()), draw)).encode(errors="surrogatepass")
