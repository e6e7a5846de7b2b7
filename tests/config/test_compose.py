"""Quoting for Hydra's grammar, and what composing says when it can't."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from stockenh.commands.runs.listing import flatten
from stockenh.config.compose import compose
from stockenh.config.overrides import config_folders, quote_paths, split_override
from stockenh.config.schema import plain
from stockenh.errors import ConfigError

PATHS = st.text(st.characters(exclude_categories=("C",)), min_size=1).filter(
    lambda path: path != "null" and path[0] not in "'\"~"
)


def read_back(argument: str) -> str:
    """The value as Hydra's grammar and then OmegaConf give it."""
    override = OverridesParser.create().parse_override(argument)
    return OmegaConf.create({"value": override.value()})["value"]


@given(PATHS)
@example("a b (c), 'd' = \"e\" $ ${x} \\")
@example("\\' \\\\")
@example("a\\${b}")
@example("true")
@example("1")
@example("[x]")
def test_a_quoted_path_reads_back_as_it_was_typed(path):
    (quoted,) = quote_paths([f"data.path={path}"])
    assert read_back(quoted) == path


@pytest.mark.parametrize(
    "kept",
    [
        ["seed=1", "data.horizons=[3,5]", "--cfg", "job", "~loss", "data.path=null", "resume="],  # no paths
        ["data.path='a b'", 'hydra.run.dir="c (d)"', "+data.path='it\\'s'"],  # quoted already
    ],
)
def test_only_paths_without_quotes_are_quoted(kept):
    assert quote_paths(kept) == kept


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("data.path=~/x", f"data.path='{os.path.expanduser('~/x')}'"),
        ("hydra.run.dir=runs/${seed}", "hydra.run.dir='runs/${seed}'"),  # named after the job
        ("data.path=a b,c", "data.path='a b,c'"),
        ("data.path='a' and 'b'", "data.path='\\'a\\' and \\'b\\''"),  # not taken for quoted
    ],
)
def test_what_a_path_is_quoted_to(argument, quoted):
    assert quote_paths([argument]) == [quoted]


def test_a_comma_separates_choices_only_in_a_sweep(tmp_path):
    assert quote_paths(["data.path=a b,c,'d,e'"], sweeping=True) == ["data.path='a b','c','d,e'"]
    assert quote_paths(["data.path=choice(a,b)"], sweeping=True) == ["data.path=choice(a,b)"]
    there = tmp_path / "one, two"
    there.mkdir()
    assert quote_paths([f"data.path={there}"], sweeping=True) == [f"data.path='{there}'"]


@pytest.mark.parametrize(
    ("argument", "parts"),
    [
        ("+data.path=x=y", ("data.path", "x=y")),
        ("++a=1", ("a", "1")),
        ("--multirun", None),
        ("--config-dir=x", None),
        ("seed", None),
    ],
)
def test_split_override(argument, parts):
    assert split_override(argument) == parts


@pytest.mark.parametrize("flags", [["--config-dir", "x"], ["--config-dir=x"], ["-cd", "x"]])
def test_config_folders(flags):
    assert [str(folder) for folder in config_folders(["seed=1", *flags])] == ["x"]


DEFAULTS = {
    "seed": 42, "device": "auto",
    "train.epochs": 6, "train.batch_size": 256, "train.accumulate": 1, "train.precision": "fp32",
    "train.compile": False, "train.patience": 4, "train.patience_from": "peak", "train.max_norm": 1.0,
    "data._target_": "stockenh.data.sources.files.SampleData",
    "data.horizons": [3, 5, 10], "data.lookback": 120,
    "split._target_": "stockenh.data.splits.DateSplit",
    "split.val": 0.15, "split.test": 0.15, "split.embargo": 0,
    "embedding._target_": "stockenh.embedding.kernel.KernelEmbedding", "embedding.width": 512,
    "model._target_": "stockenh.models.timeformer.TimeFormerSettings", "model.d_model": 64,
    "model.dropout": 0.3, "model.bar_returns": True, "optimizer.decay_vectors": False,
    "loss._target_": "stockenh.training.losses.huber_bce.HuberBCE",
    "loss.return_weight": 0.6, "loss.direction_weight": 0.4,
    "optimizer._target_": "stockenh.training.optimizers.AdamW",
    "optimizer.lr": 2e-3, "optimizer.weight_decay": 0.3,
    "schedule._target_": "stockenh.training.optimizers.OneCycle",
    "schedule.warmup": 0.1, "schedule.start_factor": 10.0, "schedule.end_factor": 100.0,
    "averaging._target_": "stockenh.training.averaging.Averaging",
    "augment._target_": "stockenh.data.prices.NoAugment",
}  # fmt: skip


def composed(*arguments: str) -> dict[str, object]:
    return plain(compose(list(arguments)))


def at(config: dict, key: str) -> object:
    for name in key.split("."):
        config = config[name]
    return config


PLAIN = DEFAULTS | {
    "train.epochs": 50, "train.batch_size": 64, "train.patience": 10, "train.patience_from": "start",
    "model.d_model": 256, "model.heads": 8, "model.layers": 6, "model.ffn": 512, "model.dropout": 0.2,
    "model.bar_returns": False, "optimizer.lr": 1e-3, "optimizer.weight_decay": 1e-5,
    "optimizer.decay_vectors": True, "schedule.warmup": 0.3,
}  # fmt: skip


@pytest.mark.parametrize(("chosen", "expected"), [((), DEFAULTS), (("experiment=plain",), PLAIN)])
def test_the_default_recipe_and_the_plain_one(chosen, expected):
    config = composed(*chosen)
    assert {key: at(config, key) for key in expected} == expected


PHASE1 = {
    "train.precision": "auto", "loss.smoothing": 0.1, "averaging.ema_decay": 0.999, "optimizer.lr": "auto",
}  # fmt: skip
PHASE2 = {
    "train.accumulate": 4, "loss.gamma": 2.0, "averaging.swa_start": 0.75, "augment.price": 0.002,
    "augment.volume": 0.05, "tta.views": 4,
}  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "changed"), [("plain", "phase1", PHASE1), ("phase1", "phase2", PHASE2)]
)
def test_an_experiment_adds_its_techniques_and_nothing_else(one, other, changed):
    before, after = (flatten(composed(f"experiment={name}")) for name in (one, other))
    assert {key: v for key, v in after.items() if before.get(key) != v and "." in key} == changed


@pytest.mark.parametrize("order", [1, -1])
def test_the_command_line_wins_over_the_experiment(order):
    given = ["experiment=plain", "train.epochs=3", "model=timeformer", "optimizer.lr=0.1"]
    config = composed(*given[::order])
    assert (config["train"]["epochs"], config["model"]["d_model"]) == (3, 64)
    assert config["optimizer"]["lr"] == 0.1
    given = ["experiment=phase2", "loss=huber_bce", "averaging=none", "train.accumulate=1"]
    config = composed(*given[::order])
    assert config["loss"]["gamma"] == config["loss"]["smoothing"] == 0.0
    assert config["averaging"]["ema_decay"] is None and config["train"]["accumulate"] == 1


def test_ready_windows_bring_their_embedding_unless_another_is_chosen():
    for chosen, expected in ((), "StoredEmbedding"), (("embedding=none",), "NoEmbedding"):
        config = composed("data=windows", "data.path=x", *chosen)
        assert config["embedding"]["_target_"].endswith(expected)


def test_compose_names_the_override_at_fault():
    with pytest.raises(ConfigError, match=r"^los: no such key\. Nearest: loss\.$"):
        compose(["los=x"])
