"""What an ablation compares, all checked, and how workers take its cells one after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from stockenh.commands.ablate.cells import DONE, FAILED, AblationFolder
from stockenh.commands.ablate.plan import PLAIN, AblateSettings, Cell, Plan, Recipe
from stockenh.commands.multirun.folder import IMMATERIAL, config_dirs, differences, of_one_run, parsed
from stockenh.commands.multirun.kept import given_again
from stockenh.commands.multirun.stops import STOP, Stop, is_requested
from stockenh.commands.multirun.worker import Assignment
from stockenh.commands.runs.listing import flatten
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.config import build
from stockenh.config.compose import COMPOSITION_ERRORS
from stockenh.config.overrides import hydra_text
from stockenh.config.schema import GROUPS, RunConfig, parse, plain, settings_of
from stockenh.errors import ConfigError
from stockenh.storage.untrusted import is_file, read_bytes

NEEDED = ("train", "val", "test")
MOST_DEATHS = 2  # of workers on one cell, which is then given up
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class AblationSpec:
    """What is compared and how; hands out the cells that have not ended.

    arguments: the overrides that all runs share
    flags:     of the command line that all runs share
    configs:   of every recipe that is trained, as plain containers
    """

    context: HydraContext
    config: DictConfig
    settings: AblateSettings
    plan: Plan
    arguments: list[str]
    flags: list[str]
    configs: dict[str, dict[str, Any]]
    folder: AblationFolder

    @classmethod
    def of(cls, context: HydraContext, config: DictConfig, arguments: Sequence[str]) -> AblationSpec:
        """Raises ConfigError where the settings or one of the recipes make no sense, before anything runs."""
        if config.get("ablate") is None:
            raise ConfigError("hydra/sweeper=stockenh_ablate needs what to compare: add ablate=quick")
        settings = AblateSettings.of(OmegaConf.to_container(config.ablate, resolve=True))
        for argument, override in parsed(context, arguments):
            if override.is_sweep_override():
                raise ConfigError(f"{argument}: an ablation is of one recipe; take one value at a time")
            if override.key_or_group == "seed":
                raise ConfigError(f"{argument}: ablate.seeds=[...] says which seeds every recipe is run with")
        folder = AblationFolder(Path(str(config.hydra.sweep.dir)).absolute())

        def composed(recipe: Recipe) -> dict[str, Any]:
            own_keys = {override_key(override) for override in recipe.overrides}
            rest = [a for a in arguments if override_key(a) not in own_keys]
            loaded = context.config_loader.load_sweep_config(config, [*rest, *recipe.overrides])
            return plain(of_one_run(loaded))

        base = parse(composed(Recipe(PLAIN)))
        _refuse_unfit(base, settings)
        plan = Plan.of(settings, base.data.brings_bars)
        for recipe in plan.recipes:
            if recipe.kind == "search":
                _refuse_short(recipe, context)
        configs = {recipe.name: composed(recipe) for recipe in plan.recipes if recipe.kind != "search"}
        _check(configs, base)
        flags = config_dirs(config)
        return cls(context, config, settings, plan, list(arguments), flags, configs, folder)

    @property
    def base(self) -> RunConfig:
        """The plain recipe."""
        return parse(self.configs[PLAIN])

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the runs of two ablations must have in common to be one: the plain config, by dotted key."""
        left_out = ("seed", *IMMATERIAL)
        values = {k: v for k, v in flatten(self.configs[PLAIN]).items() if k == "target" or k not in GROUPS}
        return {key: value for key, value in values.items() if not key.startswith(left_out)}

    @property
    def recipes(self) -> dict[str, list[str]]:
        """What each recipe adds to it."""
        return {recipe.name: [recipe.kind, *recipe.overrides] for recipe in self.plan.recipes}

    def require_same(self, about: dict[str, Any]) -> None:
        """Raises ConfigError with what differs from the ablation that a folder holds already."""
        known = {name: added for name, added in about["recipes"].items() if name in self.recipes}
        before = about["base"] | {f"recipe {name}": " ".join(added) for name, added in known.items()}
        now = self.fingerprint | {f"recipe {name}": " ".join(self.recipes[name]) for name in known}
        if found := differences(before, now):
            again = self.folder.resume_command(given_again(self.config))
            raise ConfigError(
                f"the ablation in {self.folder.path} was made with other settings {found}: go on with it by "
                f"{again}, or name another hydra.sweep.dir"
            )

    def open(self, worker: str) -> None:
        """A cell is claimed by a lock of its own."""

    def count_ended(self) -> int:
        """How many cells have ended, in whatever way."""
        return sum(bool(self.folder.state(cell)) for cell in self.plan.cells)

    def has_waiting(self) -> bool:
        """Whether cells wait that a new worker could take."""
        return any(not self.folder.state(c) and not self.folder.is_claimed(c) for c in self.plan.cells)

    def is_running(self) -> bool:
        """Whether a worker has a cell."""
        return any(self.folder.is_claimed(cell) for cell in self.plan.cells)

    def stopped(self) -> Stop:
        """What became of the cells that ran before a stop."""
        left = [cell for cell in self.plan.cells if not self.folder.state(cell)]
        running = [cell for cell in left if self.folder.is_claimed(cell)]
        ended = [cell for cell in left if cell not in running]
        lost = [cell for cell in ended if is_file(self.folder.file_of(cell, "tries"))]
        saved = [cell for cell in ended if cell not in lost and self.folder.has_begun(cell)]
        why = "ended without saving and goes on from its last checkpoint, if it has one"
        saves = f"saves once its worker sees {self.folder.path / STOP}"
        return Stop(len(saved), [f"{c.path} {why}" for c in lost], [f"{c.path} {saves}" for c in running])

    def take(self) -> Assignment | None:
        """The next cell; waits where all that is left needs a run that another worker trains."""
        while True:
            found, is_waiting = self._look()
            if found is not None or not is_waiting or is_requested(self.folder.path):
                return found
            time.sleep(WAIT_SECONDS)

    def _look(self) -> tuple[Assignment | None, bool]:
        is_waiting = False
        for cell in self.plan.cells:
            if self.folder.state(cell):
                continue
            teacher = self.teacher_of(cell)
            state = DONE if teacher is None else self.folder.state(teacher).get("state")
            if state == DONE:
                if (assignment := self._claim(cell)) is not None:
                    return assignment, False
            elif teacher is not None and state == FAILED:
                self.folder.close(cell, FAILED, {"why": f"{teacher.path}, its teacher, failed"})
            elif teacher is not None:
                is_waiting = is_waiting or self.folder.is_claimed(teacher)
        return None, is_waiting

    def _claim(self, cell: Cell) -> Assignment | None:
        self.folder.workers.mkdir(parents=True, exist_ok=True)
        if (lock := self.folder.claim(cell)) is None:
            return None
        tries = self.folder.file_of(cell, "tries")
        assignment = CellAssignment(cell.number, self.overrides_of(cell), cell, self, lock)
        deaths = len(read_bytes(tries, MOST_DEATHS + 1)) if is_file(tries) else 0
        if self.folder.state(cell):
            assignment.release()
        elif deaths >= MOST_DEATHS:
            assignment.fail(f"its worker died {deaths} times (out of memory?)")
        else:
            with tries.open("a") as file:
                file.write(".")
            return assignment
        return None

    def teacher_of(self, cell: Cell) -> Cell | None:
        """The cell that must be done before this one."""
        if cell.recipe is None or cell.recipe.teacher is None:
            return None
        wanted = (cell.recipe.teacher, cell.seed)
        return next(c for c in self.plan.cells if c.recipe and (c.recipe.name, c.seed) == wanted)

    def overrides_of(self, cell: Cell) -> list[str]:
        """The overrides of a cell's job; what its recipe sets comes before what all share."""
        own = [f"hydra.sweep.subdir={hydra_text(cell.path)}"]
        if cell.recipe is not None:
            own += [f"seed={cell.seed}"]
            own += cell.recipe.overrides if cell.recipe.kind != "search" else ()
        if (teacher := self.teacher_of(cell)) is not None:
            own.append(f"++teacher={hydra_text(str(self.folder.run(teacher)))}")
        own_keys = {override_key(override) for override in own}
        return [*(a for a in self.arguments if override_key(a) not in own_keys), *own]


@dataclass
class CellAssignment:
    """A cell that this worker has claimed."""

    number: int
    overrides: list[str]
    cell: Cell
    spec: AblationSpec
    lock: FileLock
    stopped: bool = False
    began: float = field(default_factory=time.perf_counter)

    def report(self, epoch: int, metrics: dict[str, Any]) -> bool:
        """Every run of an ablation goes to its end."""
        return False

    def complete(self, summary: dict[str, Any], validation: dict[str, Any]) -> None:
        """The training is done; `end` follows once all that the cell is for has been measured."""

    def end(self, figures: dict[str, Any]) -> None:
        """Closes the cell with what was measured besides its run."""
        seconds = round(time.perf_counter() - self.began, 1)
        self.spec.folder.close(self.cell, DONE, {"seconds": seconds, "figures": figures})
        self.release()

    def fail(self, why: str) -> None:
        """Closes the cell as failed, which does not concern the others."""
        self.spec.folder.close(self.cell, FAILED, {"why": why})
        self.release()

    def stops(self) -> bool:
        """Whether the ablation's stop file is there."""
        return is_requested(self.spec.folder.path)

    def give_back(self) -> None:
        """Lets the cell be resumed where it was saved."""
        self.stopped = True
        self.release()

    def release(self) -> None:
        """Lets other processes have the cell."""
        self.spec.folder.file_of(self.cell, "tries").unlink(missing_ok=True)
        self.lock.release()


def override_key(override: str) -> str:
    """What an override sets."""
    return override.lstrip("+~").partition("=")[0]


def _refuse_unfit(base: RunConfig, settings: AblateSettings) -> None:
    if missing := [part for part in NEEDED if part not in base.split.parts]:
        raise ConfigError(f"an ablation needs the parts {', '.join(NEEDED)}; this split has no {missing[0]}")
    if settings.horizon not in base.data.horizons:
        horizons = ", ".join(map(str, base.data.horizons))
        raise ConfigError(
            f"ablate.horizon={settings.horizon} is none of data.horizons: take one of {horizons}"
        )
    if base.teacher or base.init_from:
        raise ConfigError("an ablation trains from the start: leave out teacher= and init_from=")
    if base.train.members > 1:
        raise ConfigError("an ablation has its own seeds, ablate.seeds: leave out train.members")


def _refuse_short(search: Recipe, context: HydraContext) -> None:
    """Raises ConfigError where a search ends before its sampler learns from what it has tried."""
    from stockenh.commands.sweep.study import random_start  # imports Optuna

    own = [a for a in search.overrides if override_key(a).partition(".")[0] == "sweep"]
    key = f"ablate.techniques.{search.name}"
    try:
        loaded = context.config_loader.load_configuration("sweep", ["sweep=base", *own], RunMode.RUN)
        sweep: SweepConfig = settings_of(
            "sweep", SweepConfig, OmegaConf.to_container(loaded.sweep, resolve=True)
        )
    except (*COMPOSITION_ERRORS, ConfigError) as error:
        raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from None
    if sweep.n_trials <= (start := random_start(sweep)):
        raise ConfigError(
            f"{key}: sweep.n_trials={sweep.n_trials} is no more than the {start} "
            f"trials that {sweep.sampler['name']} draws at random first, so nothing is searched: give more, "
            f"or take fewer of those with +sweep.sampler.n_startup_trials=N"
        )


def _check(configs: dict[str, dict[str, Any]], base: RunConfig) -> None:
    """Raises ConfigError naming the recipe that is no valid run."""
    windows = base.data.load(build.cache(base)).windows
    for name, raw in configs.items():
        try:
            build.refuse_misfit(parse(raw), windows)
        except ConfigError as error:
            raise ConfigError(f"ablate: {name} is no valid run: {error}") from None
