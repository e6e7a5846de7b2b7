"""What an ablation compares: its settings, its plan, and the config of every recipe, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from stockenh.commands.ablate.cells import AblationFolder, CellSource, override_key
from stockenh.commands.ablate.plan import PLAIN, AblateSettings, Plan, Recipe
from stockenh.commands.multirun.folder import IMMATERIAL, config_dirs, differences, of_one_run, parsed
from stockenh.commands.runs.listing import flatten
from stockenh.config import build
from stockenh.config.schema import GROUPS, RunConfig, parse, plain
from stockenh.errors import ConfigError

NEEDED = ("train", "val", "test")


@dataclass(frozen=True)
class AblationSpec:
    """What is compared and how.

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
        values = {k: v for k, v in flatten(self.configs[PLAIN]).items() if k not in GROUPS}
        return {key: value for key, value in values.items() if not key.startswith(left_out)}

    @property
    def recipes(self) -> dict[str, list[str]]:
        """What each recipe adds to it."""
        return {recipe.name: [recipe.kind, *recipe.overrides] for recipe in self.plan.recipes}

    def source(self) -> CellSource:
        """What workers take their cells from."""
        epochs = self.base.train.epochs
        return CellSource(
            self.folder, self.plan, tuple(self.arguments), tuple(self.flags), self.configs, epochs,
            self.settings.rounds,
        )  # fmt: skip

    def require_same(self, about: dict[str, Any]) -> None:
        """Raises ConfigError with what differs from the ablation that a folder holds already."""
        known = {name: added for name, added in about["recipes"].items() if name in self.recipes}
        before = about["base"] | {f"recipe {name}": " ".join(added) for name, added in known.items()}
        now = self.fingerprint | {f"recipe {name}": " ".join(self.recipes[name]) for name in known}
        if found := differences(before, now):
            again = self.folder.resume_command(self.flags)
            raise ConfigError(
                f"the ablation in {self.folder.path} was made with other settings {found}: go on with it by "
                f"{again}, or name another hydra.sweep.dir"
            )


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


def _check(configs: dict[str, dict[str, Any]], base: RunConfig) -> None:
    """Raises ConfigError naming the recipe that is no valid run."""
    windows = base.data.load(build.cache(base)).windows
    for name, raw in configs.items():
        try:
            build.refuse_misfit(parse(raw), windows)
        except ConfigError as error:
            raise ConfigError(f"ablate: {name} is no valid run: {error}") from None
