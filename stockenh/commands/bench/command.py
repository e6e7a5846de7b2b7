"""`stockenh bench`: this machine's speed and memory against the plain recipe."""

from __future__ import annotations

from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from stockenh.commands.job import refuse_old_folder, refuse_run, run_job
from stockenh.config import compose
from stockenh.config.overrides import conf_dir, groups, split_override, suggest
from stockenh.config.schema import parse
from stockenh.errors import ConfigError
from stockenh.storage.run_folder import RunFolder


def bench(arguments: list[str]) -> None:
    """A benchmark in a folder of its own."""
    refuse_old_folder([parts for a in arguments if (parts := split_override(a))])
    compose.run(bench_composed, arguments)


def bench_composed(cfg: DictConfig) -> None:
    """One job of `bench`."""
    run_job(cfg, _bench)


def _bench(raw: dict[str, Any], into: RunFolder) -> None:
    from stockenh.commands.bench.bench import benchmark
    from stockenh.config import build
    from stockenh.report.terminal import console

    refuse_run(raw)
    given = dict(parts for a in HydraConfig.get().overrides.task if (parts := split_override(a)))
    if "train.precision" not in given:
        raw["train"]["precision"] = "auto"  # the project's loop at its best; the plain recipe is fp32
    known = {name: _model(name) for name in groups()["model"]}
    if "model" in given:
        raw["bench"]["models"] = [given["model"]]
        known[given["model"]] = raw["model"]
    config = parse(raw)
    for name in config.bench.models:
        if name not in known:
            near = suggest(name, known, all_options=True)
            raise ConfigError(f"bench.models={config.bench.models}: {near}")
    benchmark(raw, known, build.device(config.device), into.path, console())


def _model(name: str) -> dict[str, Any]:
    text = (conf_dir() / "model" / f"{name}.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found
