"""The `ablate` node of the config: techniques as data, and what is claimed of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stockenh.commands.ablate.claims import MEASURES, Claim
from stockenh.config.overrides import suggest
from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError

KINDS = ("train", "views", "student", "search")


@dataclass(frozen=True)
class _Claim:
    least: float | None = None
    most: float | None = None
    says: str = ""
    device: str | None = None
    majority: float | None = None


@dataclass(frozen=True)
class _Technique:
    title: str | None = None
    kind: str = "train"
    overrides: list[str] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Node:
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    n_workers: int = 1
    horizon: int = 5
    only: list[str] | None = None
    leave_one_out: bool = True
    rounds: int = 15
    techniques: dict[str, Any] = field(default_factory=dict)
    all_claims: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Technique:
    """One technique: what it adds to the plain recipe, and what is claimed of it, by measure."""

    name: str
    title: str
    kind: str
    overrides: tuple[str, ...]
    claims: Mapping[str, Claim]


@dataclass(frozen=True)
class AblateSettings:
    """What is compared, how often, and by how many workers."""

    seeds: tuple[int, ...]
    n_workers: int
    horizon: int
    leave_one_out: bool
    rounds: int
    techniques: tuple[Technique, ...]
    left_out: tuple[str, ...]  # the titles of the techniques that `only` leaves out
    all_claims: Mapping[str, Claim]

    @classmethod
    def of(cls, node: Any) -> AblateSettings:
        """Checks plain containers. Raises ConfigError naming the key."""
        found: _Node = settings_of("ablate", _Node, node)
        _refuse_numbers(found)
        techniques = {name: _technique(str(name), value) for name, value in found.techniques.items()}
        only = list(techniques) if found.only is None else list(found.only)
        for name in only:
            if name not in techniques:
                raise ConfigError(
                    f"ablate.only={only}: no such technique: {name}. {suggest(name, techniques, True)}"
                )
        return cls(
            tuple(found.seeds),
            found.n_workers,
            found.horizon,
            found.leave_one_out,
            found.rounds,
            tuple(technique for name, technique in techniques.items() if name in only),
            tuple(technique.title for name, technique in techniques.items() if name not in only),
            _claims("ablate.all_claims", found.all_claims),
        )


def _refuse_numbers(node: _Node) -> None:
    seeds = list(node.seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"ablate.seeds={seeds}: name one or more, each once")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"ablate.seeds={seeds}: a seed is from 0 to {2**32 - 1}")
    if node.n_workers < 1:
        raise ConfigError(f"ablate.n_workers={node.n_workers} must be at least 1")
    if node.rounds < 3:
        raise ConfigError(f"ablate.rounds={node.rounds} must be at least 3: fewer tell nothing of the noise")


def _technique(name: str, node: Any) -> Technique:
    key = f"ablate.techniques.{name}"
    if not name.isidentifier():
        raise ConfigError(f"{key}: the name must be a word, for a folder is called so")
    found: _Technique = settings_of(key, _Technique, node)
    if found.kind not in KINDS:
        raise ConfigError(f"{key}.kind={found.kind}: no such kind. {suggest(found.kind, KINDS, True)}")
    if found.kind == "views" and found.overrides:
        raise ConfigError(f"{key}.overrides: views are those of tta on the command line, such as tta.views=4")
    if found.kind != "views" and not found.overrides:
        raise ConfigError(f"{key}.overrides must be given: what the technique adds to the plain recipe")
    for override in found.overrides:
        if "=" not in override:
            raise ConfigError(f"{key}.overrides: {override}: write GROUP=OPTION or KEY=VALUE")
    claims = _claims(f"{key}.claims", found.claims)
    return Technique(name, found.title or name, found.kind, tuple(found.overrides), claims)


def _claims(key: str, node: Mapping[str, Any]) -> dict[str, Claim]:
    claims = {}
    for measure, values in node.items():
        if measure not in MEASURES:
            raise ConfigError(f"{key}.{measure}: no such figure. {suggest(str(measure), MEASURES, True)}")
        found: _Claim = settings_of(f"{key}.{measure}", _Claim, values)
        wanted = "least" if MEASURES[measure].more_is_better else "most"
        if getattr(found, wanted) is None:
            raise ConfigError(f"{key}.{measure}.{wanted} must be given: the claim's minimum")
        claims[str(measure)] = Claim(
            measure, found.least, found.most, found.says, found.device, found.majority
        )
    return claims
