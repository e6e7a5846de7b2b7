"""Every YAML in conf/: documented, complete, composable, and able to train two optimizer steps."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from kronos_checkpoints import TINY

from stockenh.commands.sweep.settings import SweepConfig
from stockenh.commands.sweep.space import Space
from stockenh.config.catalog import (
    conf_dir,
    default_keys,
    groups,
    groups_of,
    keys_of,
    option_keys,
    option_values,
    roots,
)
from stockenh.config.compose import compose
from stockenh.config.schema import (
    GROUPS,
    NOT_OF_RUN,
    AuditRunConfig,
    BenchConfig,
    EvaluateRunConfig,
    ExplainRunConfig,
    ExportRunConfig,
    RunConfig,
    TtaPredictConfig,
    group_settings,
    parse,
    plain,
    settings_of,
    to_dict,
)

ROOTS = {
    "train": RunConfig,
    "find_lr": RunConfig,
    "distill": RunConfig,
    "sweep": RunConfig,
    "sweep_student": RunConfig,
    "ablate": RunConfig,
    "bench": RunConfig,
    "tta_predict": TtaPredictConfig,
    "export": ExportRunConfig,
    "explain": ExplainRunConfig,
    "audit": AuditRunConfig,
    "evaluate": EvaluateRunConfig,
}
SEARCHES = {("experiment", "phase3")}  # what stockenh sweep takes, and train does not
OPTIONS = [
    (group, option)
    for group in (*GROUPS, "experiment")
    for option in groups()[group]
    if (group, option) not in SEARCHES
]
every_option = pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{g}={o}" for g, o in OPTIONS])
TYPED = [(group, option) for group, option in OPTIONS if group in GROUPS]


def chosen(group: str, option: str, path: Path | str = "x") -> list[str]:
    """The overrides that an option needs to compose."""
    overrides = [f"{group}={option}"]
    if group == "data" and "path" in option_values(group, option):
        overrides.append(f"data.path={path}")
    if (group, option) == ("data", "yahoo"):
        overrides.append("data.symbols=[AAA,BBB]")
    if (group, option) == ("split", "walk_forward"):
        overrides.append("split.fold=4")  # the fold with the most to train on
    if (group, option) == ("embedding", "stored"):
        overrides += ["data=windows", f"data.path={path}"]
    return overrides


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_has_the_keys_of_its_dataclass_with_the_same_defaults(root):
    config = plain(compose(["data=sample"], root))
    expected = to_dict(parse({**plain(compose([])), "train": {}}, ROOTS[root]))
    own: dict = {key: value for key, value in config.items() if key not in (*GROUPS, *NOT_OF_RUN, "run")}
    # searches, ablations and benchmarks set some numbers of the training otherwise
    same = set(own) - (
        {"train", "finder"} if root in ("sweep", "sweep_student", "ablate", "bench") else set()
    )
    assert {key: own[key] for key in same} == {key: expected[key] for key in same}
    assert set(groups_of(root)) <= {*GROUPS, *NOT_OF_RUN}
    listed = {key.name.split(".")[0] for key in keys_of(root)}
    assert listed == set(own) | ({"run"} & set(config))
    assert all(key.comment for key in keys_of(root))


def test_every_root_is_of_a_command():
    assert set(roots()) == {*ROOTS, "data_check"}
    assert set(groups_of("train")) == {*GROUPS, "experiment"}


def test_a_benchmark_has_the_settings_of_its_dataclass():
    config = plain(compose([], "bench"))
    assert config["bench"] == dataclasses.asdict(BenchConfig())
    assert set(option_values("bench", "quick")) == set(option_values("bench", "full")) == set(config["bench"])


@pytest.mark.parametrize("option", groups()["sweep"])
def test_every_search_composes_with_its_settings(option):
    config = plain(compose([f"sweep={option}"], "sweep"))
    settings = settings_of("sweep", SweepConfig, config["sweep"])
    assert settings.n_trials == {"distill": 20}.get(option, 50)
    assert config["train"]["epochs"] == 10
    if option != "base":
        assert set(Space.of(settings.params).names) > {"optimizer.lr", "optimizer.weight_decay"}


files = pytest.mark.parametrize(
    "path",
    [p for p in sorted(conf_dir().glob("*/*.yaml")) if p.parent.name != "common"],
    ids=lambda p: f"{p.parent.name}={p.stem}",
)


@files
def test_the_head_comment_names_the_override(path):
    head = re.match(r"(#[^\n]*\n)+", path.read_text(encoding="utf-8"))
    assert head is not None
    assert re.search(rf"Override: (\S+ )*{path.parent.name}={path.stem}\b", head[0].replace("\n# ", " "))


@files
def test_every_key_has_a_comment(path):
    """Its own, or that of the option it extends, or of the root config that it changes."""
    shared = path.read_text(encoding="utf-8").startswith("# @package _global_")
    roots = ("train", "sweep", "ablate") if shared else ()
    known = {key.name: key.comment for root in roots for key in default_keys(root)}
    described = ("ablate.techniques.", "ablate.all_claims.")  # by the comment above them
    keys = [key for key in option_keys(path) if not key.name.startswith(described)]
    assert [key.name for key in keys if not key.comment and not known.get(key.name)] == []


@pytest.mark.parametrize(("group", "option"), TYPED, ids=[f"{g}={o}" for g, o in TYPED])
def test_keys_are_the_fields_of_the_dataclass(group, option):
    values = option_values(group, option)
    settings = group_settings(group, plain(compose(chosen(group, option)))[group])
    assert type(settings).__name__ == values.pop("_target_").rpartition(".")[2]
    assert set(values) == {field.name for field in dataclasses.fields(settings) if field.init}


@every_option
def test_composes_and_parses(group, option):
    config = parse(plain(compose(chosen(group, option))))
    if group in GROUPS:
        target = option_values(group, option)["_target_"]
        assert type(getattr(config, group)).__qualname__ == target.rpartition(".")[2]


@pytest.fixture(scope="module")
def windows_file(tmp_path_factory) -> Path:
    """Ready windows of one symbol: 120 bars of 5 numbers, an embedding of 16, 29 features."""
    rows = 200
    rng = np.random.default_rng(0)
    returns = rng.normal(0, 0.02, (rows, 3))
    days = np.busday_offset("2020-01-01", np.arange(rows), roll="forward").astype("datetime64[ms]")
    frame = pl.DataFrame(
        {
            "symbol": ["AAA"] * rows,
            "asof": days,
            "ohlcv_norm": rng.uniform(-1, 1, (rows, 600)).tolist(),
            "kronos_emb": rng.normal(size=(rows, 16)).tolist(),
            "context": rng.normal(size=(rows, 29)).tolist(),
            "y_ret": returns.tolist(),
            "y_up": (returns > 0).astype(float).tolist(),
        }
    )
    path = tmp_path_factory.mktemp("windows") / "windows.parquet"
    frame.write_parquet(path)
    return path


def small(group: str, option: str, windows_file: Path, bars_folder: Path) -> list[str]:
    """Overrides that keep a run of an option short, and all that is asked of the option itself."""
    ready = (group, option) in {("data", "windows"), ("embedding", "stored")}
    overrides = chosen(group, option, windows_file if ready else bars_folder)
    if not ready:
        overrides.append("data.lookback=20")
        overrides += [] if group == "data" else ["data=files", f"data.path={bars_folder}"]
        overrides += [] if group == "embedding" else ["embedding=none"]
    if (group, option) == ("data", "synthetic"):
        overrides += ["data.symbols=2", "data.bars=160"]
    if group == "embedding" and option.startswith("kronos"):
        overrides.append(f"embedding.checkpoint={TINY}")
    if group == "experiment":
        overrides.append("optimizer.lr=1e-3")  # the range test has tests of its own
    elif group != "model":
        overrides += ["model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16"]
    return overrides


@every_option
def test_trains_two_optimizer_steps(group, option, stockenh, windows_file, bars_folder, tmp_path):
    run = tmp_path / "run"
    one_step_an_epoch = ["train.batch_size=100000", "train.epochs=2"]
    overrides = [*small(group, option, windows_file, bars_folder), "device=cpu", *one_step_an_epoch]
    answer = stockenh("train", *overrides, f"hydra.run.dir={run}")
    assert answer.code == 0, answer.err
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [1, 2]
    judged = ("train_loss",) if (group, option) == ("split", "all") else ("train_loss", "val_loss")
    assert np.isfinite([[line[key] for key in judged] for line in lines]).all()
    assert (run / "weights/raw.safetensors").is_file()
