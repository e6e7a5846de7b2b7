"""`stockenh bench`: this machine's speed and memory against the plain recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig

from stockenh.config import compose
from stockenh.config.catalog import groups, option_values
from stockenh.config.overrides import split_override, suggest
from stockenh.config.schema import BenchConfig, RunConfig, check_values, parse, plain, settings_of
from stockenh.errors import ConfigError
from stockenh.storage.run_folder import RunFolder

# What the plain recipe shares with the one that it is compared with.
OF_BOTH = ("data", "embedding", "split", "target", "device", "threads", "cache_dir")


def bench(arguments: list[str]) -> None:
    """A benchmark in a folder of its own."""
    check_values(arguments, RunConfig, bench=BenchConfig)
    compose.run("bench", _bench, arguments)


def _bench(raw: dict[str, Any], folder: RunFolder) -> None:
    from stockenh.commands.bench.benchmark import benchmark
    from stockenh.config import build
    from stockenh.report.terminal import console

    folder.refuse_if_run()
    given = dict(parts for a in HydraConfig.get().overrides.task if (parts := split_override(a)))
    known = {name: option_values("model", name) for name in groups()["model"]}
    if "model" in given:
        raw["bench"]["models"] = [given["model"]]
        known[given["model"]] = raw["model"]
    settings = settings_of("bench", BenchConfig, raw["bench"])
    for name in settings.models:
        if name not in known:
            near = suggest(name, known, all_options=True)
            raise ConfigError(f"bench.models={settings.models}: {near}")
    recipe = plain_recipe(given) if "result" in settings.parts else {}
    benchmark(raw, recipe, settings, known, build.device(parse(raw).device), folder.path, console())


def plain_recipe(given: Mapping[str, str]) -> dict[str, Any]:
    """The composed plain recipe, with what the command line says of data, split, target and this machine."""
    kept = [f"{key}={value}" for key, value in given.items() if key.partition(".")[0] in OF_BOTH]
    return plain(compose.compose([*kept, "experiment=plain"], "bench"))
