"""Which runs an ablation takes, and which of them each line of its table compares with the plain recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stockenh.commands.ablate.claims import Claim
from stockenh.commands.ablate.settings import AblateSettings, Technique
from stockenh.errors import ConfigError

PLAIN, ALL, ALONE = "plain", "all", "student_alone"
TAKEN = (PLAIN, ALL, ALONE, "cost", "workers", "report")  # names of folders that no technique may have


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
        for technique in settings.techniques:
            if technique.name in TAKEN or technique.name.startswith("without_"):
                raise ConfigError(f"ablate.techniques.{technique.name}: this name is taken, give another")
            rows += _alone(technique, recipes, brings_bars)
        rows += _together(settings, recipes, brings_bars)
        return cls(tuple(recipes.values()), tuple(rows), settings.seeds)

    @property
    def cells(self) -> list[Cell]:
        """The work in the order that it is begun: seed by seed, and what others wait for first."""
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
    """All techniques that can be had together, and all but one."""
    joined = [t for t in settings.techniques if t.kind == "train" or (t.kind == "views" and brings_bars)]
    if len(joined) < 2:
        return []

    def row(name: str, title: str, chosen: Sequence[Technique], claims: Mapping[str, Claim]) -> Row:
        overrides = tuple(o for technique in chosen for o in technique.overrides)
        views = any(technique.kind == "views" for technique in chosen)
        # what differs by its views alone is one recipe
        return Row(name, title, _recipe(name, overrides, recipes).name, views, claims)

    rows = [row(ALL, "all", joined, settings.all_claims)]
    for left_out in joined if settings.leave_one_out and len(joined) > 2 else ():
        rest = [technique for technique in joined if technique is not left_out]
        rows.append(row(f"without_{left_out.name}", f"all minus {left_out.title}", rest, {}))
    return rows


def _recipe(name: str, overrides: tuple[str, ...], recipes: dict[tuple[str, ...], Recipe]) -> Recipe:
    """The recipe of these overrides, made where there is none yet."""
    if overrides not in recipes:
        recipes[overrides] = Recipe(name, overrides)
    return recipes[overrides]
