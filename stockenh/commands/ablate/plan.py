"""The settings of an ablation, which runs they take, and what each line of its table compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from stockenh.commands.ablate.claims import MEASURES, Claim
from stockenh.config.overrides import suggest
from stockenh.config.schema import settings_of
from stockenh.data import Few, Seed
from stockenh.errors import ConfigError

PLAIN, ALL, ALONE = "plain", "all", "student_alone"
TAKEN = (PLAIN, ALL, ALONE, "cost", "workers", "report")  # names of folders that no technique may have


@dataclass(frozen=True)
class Technique:
    """One technique: what it adds to the plain recipe, and what is claimed of it, by measure.

    weights: those that it is judged by, because it makes them; None: those that validation chooses, which is
    what a user gets
    """

    title: str | None = None
    kind: Literal["train", "views", "student", "search"] = "train"
    overrides: list[str] = field(default_factory=list)
    weights: Literal["raw", "ema", "swa"] | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "views" and self.overrides:
            raise ConfigError("overrides: views are those of tta on the command line, such as tta.views=4")
        if self.kind != "views" and not self.overrides:
            raise ConfigError("overrides must be given: what the technique adds to the plain recipe")
        if self.weights is not None and self.kind not in ("train", "student"):
            raise ConfigError(f"weights: a technique of kind {self.kind} has what validation chooses")
        for override in self.overrides:
            if "=" not in override:
                raise ConfigError(f"overrides: {override}: write GROUP=OPTION or KEY=VALUE")


@dataclass(frozen=True)
class AblateSettings:
    """The `ablate` node of the config: what is compared, how often, and by how many workers.

    techniques: by name; all_claims: what is claimed of all techniques together, by measure
    """

    seeds: Annotated[list[Seed], Field(min_length=1, max_length=1000)] = field(
        default_factory=lambda: [1, 2, 3, 4, 5]
    )
    n_workers: Few = 1
    horizon: int = 5
    only: list[str] | None = None
    leave_one_out: bool = True
    rounds: Annotated[int, Field(ge=3, le=10_000)] = 15  # fewer don't show the noise
    techniques: Mapping[str, Any] = field(default_factory=dict)
    all_claims: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, node: Any) -> AblateSettings:
        """Checks plain containers. Raises ConfigError naming the key."""
        given: AblateSettings = settings_of("ablate", cls, node)
        if len(set(given.seeds)) < len(given.seeds):
            raise ConfigError(f"ablate.seeds={given.seeds}: name each once")
        for name in given.only or ():
            if name not in given.techniques:
                options = suggest(name, given.techniques, True)
                raise ConfigError(f"ablate.only={given.only}: no such technique: {name}. {options}")
        techniques = {name: _technique(name, node) for name, node in given.techniques.items()}
        return replace(
            given, techniques=techniques, all_claims=_claims("ablate.all_claims", given.all_claims)
        )

    @property
    def chosen(self) -> dict[str, Technique]:
        """The techniques to run."""
        return {name: t for name, t in self.techniques.items() if self.only is None or name in self.only}

    @property
    def left_out(self) -> list[str]:
        """The titles of the techniques that `only` leaves out."""
        return [t.title for name, t in self.techniques.items() if name not in self.chosen]


def _technique(name: str, node: Any) -> Technique:
    key = f"ablate.techniques.{name}"
    if not name.isidentifier():
        raise ConfigError(f"{key}: the name must be a word, because a folder has it")
    if name in TAKEN or name.startswith("without_"):
        raise ConfigError(f"{key}: this name is taken, give another")
    try:
        found: Technique = settings_of(key, Technique, node)
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(key) else f"{key}.{text}") from None
    return replace(found, title=found.title or name, claims=_claims(f"{key}.claims", found.claims))


def _claims(key: str, node: Mapping[str, Any]) -> dict[str, Claim]:
    claims = {}
    for measure, values in node.items():
        if measure not in MEASURES:
            raise ConfigError(f"{key}.{measure}: no such figure. {suggest(str(measure), MEASURES, True)}")
        if not isinstance(values, Mapping) or "measure" in values:
            raise ConfigError(f"{key}.{measure} must be a mapping of least, most, says, device and majority")
        found: Claim = settings_of(f"{key}.{measure}", Claim, {"measure": measure, **values})
        wanted = "least" if MEASURES[measure].more_is_better else "most"
        if getattr(found, wanted) is None:
            raise ConfigError(f"{key}.{measure}.{wanted} must be given: the claim's minimum")
        claims[measure] = found
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
    """A line of the table: a recipe's forecasts of the test part, averaged over noisy views or not.

    weights: see `Technique`
    """

    name: str
    title: str
    recipe: str
    views: bool = False
    claims: Mapping[str, Claim] = field(default_factory=dict)
    note: str = ""
    weights: str | None = None


@dataclass(frozen=True)
class Cell:
    """One piece of work: a recipe with a seed, or, without either, the cost of all recipes.

    viewed: whether its run also forecasts with noisy views
    """

    number: int
    recipe: Recipe | None
    seed: int | None
    viewed: bool = False

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
        """brings_bars: whether the data have raw bars, which noisy views need."""
        recipes: dict[tuple[str, ...], Recipe] = {(): Recipe(PLAIN)}
        rows = [Row(PLAIN, "plain", PLAIN)]
        for name, technique in settings.chosen.items():
            rows += _alone(name, technique, recipes, brings_bars)
        rows += _together(settings, recipes, brings_bars)
        return cls(tuple(recipes.values()), tuple(rows), tuple(settings.seeds))

    @property
    def cells(self) -> list[Cell]:
        """The work in the order that it is started: seed by seed, and what others wait for first."""
        pairs = [(recipe, seed) for seed in self.seeds for recipe in self.recipes]
        viewed = {row.recipe for row in self.rows if row.views}
        cells = [Cell(n, recipe, seed, recipe.name in viewed) for n, (recipe, seed) in enumerate(pairs)]
        return [*cells, Cell(len(cells), None, None)]

    def recipe(self, name: str) -> Recipe:
        return next(recipe for recipe in self.recipes if recipe.name == name)


def _alone(
    name: str, technique: Technique, recipes: dict[tuple[str, ...], Recipe], brings_bars: bool
) -> list[Row]:
    title, claims, overrides = technique.title or name, technique.claims, tuple(technique.overrides)
    if technique.kind == "views":
        if not brings_bars:
            return [Row(name, title, "", False, claims, "n/a: these data have no raw bars to add noise to")]
        return [Row(name, title, PLAIN, True, claims, "no training of its own; more work per forecast")]
    if technique.kind == "student":
        alone = _recipe(ALONE, overrides, recipes)
        key = ("teacher", *overrides)
        recipes[key] = Recipe(name, overrides, "student", teacher=PLAIN)
        return [
            Row(name, title, name, False, claims, "takes the plain run as its teacher", technique.weights),
            Row(ALONE, "the same student alone", alone.name),
        ]
    if technique.kind == "search":
        recipes[("search", *overrides)] = Recipe(name, overrides, "search")
        return [Row(name, title, name, claims=claims, note="chosen on validation")]
    return [Row(name, title, _recipe(name, overrides, recipes).name, False, claims, "", technique.weights)]


def _together(
    settings: AblateSettings, recipes: dict[tuple[str, ...], Recipe], brings_bars: bool
) -> list[Row]:
    """All techniques that can be combined, and all but one."""
    kinds = ("train", "views") if brings_bars else ("train",)
    joined = {name: technique for name, technique in settings.chosen.items() if technique.kind in kinds}
    if len(joined) < 2:
        return []

    def row(name: str, title: str, chosen: Sequence[Technique], claims: Mapping[str, Claim]) -> Row:
        overrides = tuple(o for technique in chosen for o in technique.overrides)
        views = any(technique.kind == "views" for technique in chosen)
        # what differs by its views alone is one recipe
        return Row(name, title, _recipe(name, overrides, recipes).name, views, claims)

    rows = [row(ALL, "all", [*joined.values()], settings.all_claims)]
    for name, left_out in joined.items() if settings.leave_one_out and len(joined) > 2 else ():
        rest = [technique for technique in joined.values() if technique is not left_out]
        rows.append(row(f"without_{name}", f"all minus {left_out.title}", rest, {}))
    return rows


def _recipe(name: str, overrides: tuple[str, ...], recipes: dict[tuple[str, ...], Recipe]) -> Recipe:
    """The recipe of these overrides, made where there is none yet."""
    if overrides not in recipes:
        recipes[overrides] = Recipe(name, overrides)
    return recipes[overrides]
