"""The settings of an ablation, which runs they take, and what each line of its table compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stockenh.commands.ablate.claims import MEASURES, Claim
from stockenh.config.overrides import suggest
from stockenh.config.schema import settings_of
from stockenh.errors import ConfigError

KINDS = ("train", "views", "student", "search")
PLAIN, ALL, ALONE = "plain", "all", "student_alone"
TAKEN = (PLAIN, ALL, ALONE, "cost", "workers", "report")  # names of folders that no technique may have


@dataclass(frozen=True)
class _ClaimNode:
    least: float | None = None
    most: float | None = None
    says: str = ""
    device: str | None = None
    majority: float | None = None


@dataclass(frozen=True)
class _TechniqueNode:
    title: str | None = None
    kind: str = "train"
    overrides: list[str] = field(default_factory=list)
    claims: dict[str, Any] = field(default_factory=dict)


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
    """The `ablate` node of the config: what is compared, how often, and by how many workers.

    techniques, all_claims: plain containers, read by `chosen` and `claims_of_all`
    """

    seeds: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5])
    n_workers: int = 1
    horizon: int = 5
    only: list[str] | None = None
    leave_one_out: bool = True
    rounds: int = 15
    techniques: dict[str, Any] = field(default_factory=dict)
    all_claims: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Any) -> AblateSettings:
        """Checks plain containers. Raises ConfigError naming the key."""
        settings: AblateSettings = settings_of("ablate", cls, node)
        settings.check()
        return settings

    def check(self) -> None:
        """Raises ConfigError naming the key that makes no sense."""
        seeds = list(self.seeds)
        if not seeds or len(set(seeds)) < len(seeds):
            raise ConfigError(f"ablate.seeds={seeds}: name one or more, each once")
        if any(not 0 <= seed < 2**32 for seed in seeds):
            raise ConfigError(f"ablate.seeds={seeds}: a seed is from 0 to {2**32 - 1}")
        if self.n_workers < 1:
            raise ConfigError(f"ablate.n_workers={self.n_workers} must be at least 1")
        if self.rounds < 3:
            raise ConfigError(f"ablate.rounds={self.rounds} must be at least 3: fewer don't show the noise")
        for name in self.only or ():
            if name not in self.techniques:
                options = suggest(name, self.techniques, True)
                raise ConfigError(f"ablate.only={self.only}: no such technique: {name}. {options}")
        _ = self.chosen, self.left_out, self.claims_of_all

    @property
    def chosen(self) -> list[Technique]:
        """The techniques to run."""
        return [technique for technique in self._all() if self.only is None or technique.name in self.only]

    @property
    def left_out(self) -> list[str]:
        """The titles of the techniques that `only` leaves out."""
        return [t.title for t in self._all() if self.only is not None and t.name not in self.only]

    @property
    def claims_of_all(self) -> dict[str, Claim]:
        """What is claimed of all techniques together."""
        return _claims("ablate.all_claims", self.all_claims)

    def _all(self) -> list[Technique]:
        return [_technique(str(name), node) for name, node in self.techniques.items()]


def _technique(name: str, node: Any) -> Technique:
    key = f"ablate.techniques.{name}"
    if not name.isidentifier():
        raise ConfigError(f"{key}: the name must be a word, because a folder has it")
    found: _TechniqueNode = settings_of(key, _TechniqueNode, node)
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
        found: _ClaimNode = settings_of(f"{key}.{measure}", _ClaimNode, values)
        wanted = "least" if MEASURES[measure].more_is_better else "most"
        if getattr(found, wanted) is None:
            raise ConfigError(f"{key}.{measure}.{wanted} must be given: the claim's minimum")
        claims[str(measure)] = Claim(
            measure, found.least, found.most, found.says, found.device, found.majority
        )
    return claims


@dataclass(frozen=True)
class Recipe:
    """What is trained once per seed, in a folder of this name.

    overrides: what it adds to the plain recipe
    kind:      train, student (with a teacher) or search
    teacher:   the recipe whose run of the same seed must be there first
    """

    name: str
    overrides: tuple[str, ...] = ()
    kind: str = "train"
    teacher: str | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table: a recipe's forecasts of the test part, averaged over noisy views or not."""

    name: str
    title: str
    recipe: str
    views: bool = False
    claims: Mapping[str, Claim] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """One piece of work: a recipe with a seed, or, without either, the cost of all recipes."""

    number: int
    recipe: Recipe | None
    seed: int | None

    @property
    def path(self) -> str:
        """Its folder within the ablation's."""
        return "cost" if self.recipe is None else f"{self.recipe.name}/seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """Everything that is to be done and shown."""

    recipes: tuple[Recipe, ...]
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, settings: AblateSettings, brings_bars: bool) -> Plan:
        """brings_bars: whether the data have raw bars, which noisy views need. Raises ConfigError."""
        recipes: dict[tuple[str, ...], Recipe] = {(): Recipe(PLAIN)}
        rows = [Row(PLAIN, "plain", PLAIN)]
        for technique in settings.chosen:
            if technique.name in TAKEN or technique.name.startswith("without_"):
                raise ConfigError(f"ablate.techniques.{technique.name}: this name is taken, give another")
            rows += _alone(technique, recipes, brings_bars)
        rows += _together(settings, recipes, brings_bars)
        return cls(tuple(recipes.values()), tuple(rows), tuple(settings.seeds))

    @property
    def cells(self) -> list[Cell]:
        """The work in the order that it is started: seed by seed, and what others wait for first."""
        pairs = [(recipe, seed) for seed in self.seeds for recipe in self.recipes]
        cells = [Cell(number, recipe, seed) for number, (recipe, seed) in enumerate(pairs)]
        return [*cells, Cell(len(cells), None, None)]

    def recipe(self, name: str) -> Recipe:
        return next(recipe for recipe in self.recipes if recipe.name == name)

    @property
    def viewed(self) -> frozenset[str]:
        """The recipes whose runs also forecast with noisy views."""
        return frozenset(row.recipe for row in self.rows if row.views)


def _alone(technique: Technique, recipes: dict[tuple[str, ...], Recipe], brings_bars: bool) -> list[Row]:
    name, title, claims = technique.name, technique.title, technique.claims
    if technique.kind == "views":
        if not brings_bars:
            return [Row(name, title, "", False, claims, "n/a: these data have no raw bars to add noise to")]
        return [Row(name, title, PLAIN, True, claims, "no training of its own; more work per forecast")]
    if technique.kind == "student":
        alone = _recipe(ALONE, technique.overrides, recipes)
        key = ("teacher", *technique.overrides)
        recipes[key] = Recipe(name, technique.overrides, "student", teacher=PLAIN)
        return [
            Row(name, title, name, claims=claims, note="takes the plain run as its teacher"),
            Row(ALONE, "the same student alone", alone.name),
        ]
    if technique.kind == "search":
        recipes[("search", *technique.overrides)] = Recipe(name, technique.overrides, "search")
        return [Row(name, title, name, claims=claims, note="chosen on validation")]
    return [Row(name, title, _recipe(name, technique.overrides, recipes).name, claims=claims)]


def _together(
    settings: AblateSettings, recipes: dict[tuple[str, ...], Recipe], brings_bars: bool
) -> list[Row]:
    """All techniques that can be combined, and all but one."""
    joined = [t for t in settings.chosen if t.kind == "train" or (t.kind == "views" and brings_bars)]
    if len(joined) < 2:
        return []

    def row(name: str, title: str, chosen: Sequence[Technique], claims: Mapping[str, Claim]) -> Row:
        overrides = tuple(o for technique in chosen for o in technique.overrides)
        views = any(technique.kind == "views" for technique in chosen)
        # what differs by its views alone is one recipe
        return Row(name, title, _recipe(name, overrides, recipes).name, views, claims)

    rows = [row(ALL, "all", joined, settings.claims_of_all)]
    for left_out in joined if settings.leave_one_out and len(joined) > 2 else ():
        rest = [technique for technique in joined if technique is not left_out]
        rows.append(row(f"without_{left_out.name}", f"all minus {left_out.title}", rest, {}))
    return rows


def _recipe(name: str, overrides: tuple[str, ...], recipes: dict[tuple[str, ...], Recipe]) -> Recipe:
    """The recipe of these overrides, made where there is none yet."""
    if overrides not in recipes:
        recipes[overrides] = Recipe(name, overrides)
    return recipes[overrides]
