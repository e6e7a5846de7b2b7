"""Every YAML in conf/: documented, complete, composable, and able to train two optimizer steps."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from bars import write_windows
from kronos_checkpoints import TINY

from stockenh.commands.sweep.space import Space
from stockenh.commands.sweep.spec import SweepConfig
from stockenh.config import catalog, schema
from stockenh.config.catalog import groups, groups_of, option_values
from stockenh.config.compose import compose
from stockenh.config.schema import GROUPS, parse, plain

LEARNS = ("train", "find_lr", "distill", "sweep", "sweep_student", "ablate", "bench")
ROOTS = dict.fromkeys(LEARNS, schema.RunConfig) | {
    "tta_predict": schema.TtaPredictConfig,
    "export": schema.ExportRunConfig,
    "explain": schema.ExplainRunConfig,
    "audit": schema.AuditRunConfig,
    "evaluate": schema.EvaluateRunConfig,
}
SEARCHES = {("experiment", "phase3")}  # what stockenh sweep takes, and train does not
OPTIONS = [
    (group, option)
    for group in (*GROUPS, "experiment")
    for option in groups()[group]
    if (group, option) not in SEARCHES
]
TYPED = [(group, option) for group, option in OPTIONS if group in GROUPS]
# what reports a run has tests of its own, tests/report/test_trackers.py
TRAINED = [(group, option) for group, option in OPTIONS if group != "tracker"]


NEEDS = {
    ("data", "yahoo"): ["data.symbols=[AAA,BBB]"],
    ("split", "walk_forward"): ["split.fold=4"],  # the fold with the most to train on
    ("split", "cpcv"): ["split.groups=4", "split.test_groups=1"],
    ("embedding", "stored"): ["data=windows"],
    ("loss", "rank_ic"): ["train.batch=date"],
    ("loss", "listwise"): ["train.batch=date"],
    ("target", "market_relative"): ["target.min_symbols=2"],
    ("target", "rank"): ["target.min_symbols=2"],
    ("target", "volatility_scaled"): ["target.bars=5"],
}


def chosen(group: str, option: str, path: Path | str = "x") -> list[str]:
    """The overrides that an option needs to compose."""
    has_path = (group, option) == ("embedding", "stored") or "path" in option_values(group, option)
    return [f"{group}={option}", *NEEDS.get((group, option), []), *([f"data.path={path}"] * has_path)]


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_has_the_keys_of_its_dataclass_with_the_same_defaults(root):
    config = plain(compose(["data=sample"], root))
    expected = schema.to_dict(parse({**plain(compose([])), "train": {}}, ROOTS[root]))
    own = {key: config[key] for key in config.keys() - {*GROUPS, *schema.NOT_OF_RUN, "run"}}
    # searches, ablations and benchmarks set some numbers of the training otherwise
    differs = {"train", "finder"} if root in ("sweep", "sweep_student", "ablate", "bench") else set()
    same = own.keys() - differs - ({"tta"} if root == "ablate" else set())  # its claims are about five views
    if "train" in same:  # a run folder of before the key existed goes on as it began
        assert (expected["train"]["patience_from"], own["train"]["patience_from"]) == ("start", "peak")
        expected["train"]["patience_from"] = "peak"
    assert {key: own[key] for key in same} == {key: expected[key] for key in same}
    assert set(groups_of(root)) <= {*GROUPS, *schema.NOT_OF_RUN}
    listed = {key.name.split(".")[0] for key in catalog.keys_of(root)}
    assert listed == set(own) | ({"run", "ledger"} & set(config))
    assert all(key.comment for key in catalog.keys_of(root))


def test_every_root_is_of_a_command():
    assert set(catalog.roots()) == {*ROOTS, "data_check", "track"}
    assert set(groups_of("train")) == {*GROUPS, "experiment"}


def test_a_benchmark_has_the_settings_of_its_dataclass():
    config = plain(compose([], "bench"))
    assert config["bench"] == dataclasses.asdict(schema.BenchConfig())
    assert set(option_values("bench", "quick")) == set(option_values("bench", "full")) == set(config["bench"])


@pytest.mark.parametrize("option", groups()["sweep"])
def test_every_search_composes_with_its_settings(option):
    config = plain(compose([f"sweep={option}"], "sweep"))
    settings = schema.settings_of("sweep", SweepConfig, config["sweep"])
    assert settings.n_trials == {"distill": 20}.get(option, 50)
    assert config["train"]["epochs"] == 10
    if option != "base":
        assert set(Space.of(settings.params).parameters) > {"optimizer.lr", "optimizer.weight_decay"}


files = pytest.mark.parametrize(
    "path",
    [p for p in sorted(catalog.conf_dir().glob("*/*.yaml")) if p.parent.name != "common"],
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
    known = {key.name: key.comment for root in roots for key in catalog.default_keys(root)}
    described = ("ablate.techniques.", "ablate.all_claims.")  # by the comment above them
    option = catalog.OptionFile.read(path)
    keys = [key for key in catalog.option_keys(option) if not key.name.startswith(described)]
    assert [key.name for key in keys if not key.comment and not known.get(key.name)] == []


@pytest.mark.parametrize(("group", "option"), TYPED, ids=[f"{g}={o}" for g, o in TYPED])
def test_keys_are_the_fields_of_the_dataclass(group, option):
    values = option_values(group, option)
    settings = getattr(parse(plain(compose(chosen(group, option)))), group)
    assert type(settings).__name__ == values.pop("_target_").rpartition(".")[2]
    assert set(values) == {field.name for field in dataclasses.fields(settings) if field.init}


@pytest.fixture(scope="module")
def windows_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("windows") / "windows.parquet"
    write_windows(path, rows=200, symbols=1, planted=None, lookback=120, width=16)
    return path


def small(group: str, option: str, windows_file: Path, bars_folder: Path) -> list[str]:
    """Overrides that keep a run of an option short, and all that is asked of the option itself."""
    ready = (group, option) in {("data", "windows"), ("embedding", "stored")}
    overrides = chosen(group, option, windows_file if ready else bars_folder)
    if not ready:
        overrides.append("data.lookback=20")
        overrides += [] if group == "data" else ["data=files", f"data.path={bars_folder}"]
        overrides += [] if group == "embedding" else ["embedding=none"]
    if group == "data" and option in ("synthetic", "synthetic_panel"):
        overrides += ["data.symbols=3", "data.bars=160"]
    if group == "embedding" and option.startswith("kronos"):
        overrides.append(f"embedding.checkpoint={TINY}")
    if group == "experiment":
        overrides.append("optimizer.lr=1e-3")  # the range test has tests of its own
        overrides += ["target.min_symbols=2", "train.members=1"] if option == "panel" else []
    elif group != "model":
        overrides += ["model.layers=1", "model.d_model=16", "model.heads=2", "model.ffn=16"]
    return overrides


@pytest.mark.parametrize(("group", "option"), TRAINED, ids=[f"{g}={o}" for g, o in TRAINED])
def test_trains_two_optimizer_steps(group, option, stockenh, windows_file, bars_folder, tmp_path):
    run = tmp_path / "run"
    one_step_an_epoch = ["train.batch_size=100000", "train.epochs=2"]
    overrides = [*small(group, option, windows_file, bars_folder), "device=cpu", *one_step_an_epoch]
    stockenh("train", *overrides, f"hydra.run.dir={run}", code=0)
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in lines] == [1, 2]
    judged = ("train_loss",) if (group, option) == ("split", "all") else ("train_loss", "val_loss")
    assert np.isfinite([[line[key] for key in judged] for line in lines]).all()
    assert (run / "weights/raw.safetensors").is_file()
