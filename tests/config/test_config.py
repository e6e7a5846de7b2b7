"""The typed config: what passes, and what is said of what does not."""

import dataclasses

import pytest

from stockenh.config.compose import compose
from stockenh.config.overrides import suggest
from stockenh.config.schema import TrainConfig, group_settings, parse, plain, to_dict
from stockenh.data.sources.files import FilesData
from stockenh.errors import ConfigError
from stockenh.training.optimizers import AdamW

ADAMW = "stockenh.training.optimizers.AdamW"


@pytest.fixture(scope="module")
def raw():
    return plain(compose([]))


def test_parse_gives_typed_settings(raw):
    config = parse(raw)
    assert config.train == TrainConfig(patience_from="peak")
    assert config.optimizer == AdamW(lr=2e-3, weight_decay=0.3, decay_vectors=False)
    assert (config.seed, config.device, config.cache_dir) == (42, "auto", None)


def test_to_dict_is_the_inverse_of_parse(raw):
    once = parse(raw)
    assert parse(to_dict(once)) == once
    # a tracker is of the command, not of the run
    kept = {key: value for key, value in raw.items() if key != "tracker"}
    assert to_dict(once) == {**to_dict(once), **kept}


def test_settings_cannot_be_changed(raw):
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(raw).train.epochs = 3


@pytest.mark.parametrize("key", ["seed", "loss", "train"])
def test_missing_key_at_the_top(raw, key):
    with pytest.raises(ConfigError, match=rf"^{key}: missing from the config$"):
        parse({k: v for k, v in raw.items() if k != key})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("sed", 1, "sed: no such key. Nearest: seed"),
        ("zzz", 1, "zzz: no such key. Options: augment, averaging, cache_dir, "),
        ("train.epochs", 0, "train.epochs=0 must be at least 1"),
        ("train.accumulate", -1, "train.accumulate=-1 must be at least 1"),
        ("train.max_norm", 0.0, "train.max_norm=0.0 must be above 0"),
        ("train.max_norm", float("nan"), "train.max_norm=nan is not a number"),
        (
            "train.precision",
            "half",
            "train.precision=half: no such precision. Options: auto, bf16",
        ),
        ("train.epochs", True, "train.epochs=True is not a whole number"),
        ("train.compile", "perhaps", "train.compile=perhaps is not true or false"),
        ("train.epochs", [1], "train.epochs=[1] is not a whole number"),
        ("train.epoch", 1, "train.epoch: no such setting of TrainConfig. Nearest: epochs"),
        ("split.val", 0.9, "split.val=0.9 and split.test=0.15 leave nothing"),  # both keys are named
    ],
)
def test_wrong_settings_are_named(raw, key, value, message):
    group, _, name = key.rpartition(".")
    changed = {group: raw[group] | {name: value}} if group else {name: value}
    with pytest.raises(ConfigError) as caught:
        parse(raw | changed)
    assert str(caught.value).startswith(message)


def test_a_whole_number_will_do_for_a_share():
    assert group_settings("optimizer", {"_target_": ADAMW, "lr": 1}).lr == 1.0


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "stockenh.training.optimizers.ConfigError",
        "stockenh.training.optimizers.torch",
        "stockenh.training.optimizers.OptimizerSettings",
        "stockenh.training.losses.huber_bce.HuberBCE",
        "stockenh.nowhere.AdamW",
        "stockenh.__main__.main",
        "stockenh..AdamW",
        "stockenh.\0.AdamW",
        "AdamW",
        "",
    ],
)
def test_only_a_groups_own_classes_are_targets(target):
    with pytest.raises(ConfigError, match="is no OptimizerSettings of this package"):
        group_settings("optimizer", {"_target_": target})


def test_a_refused_module_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="is no Loss"):
        group_settings("loss", {"_target_": "trap.Loss"})


@pytest.mark.parametrize("node", [None, 3, [1], {}, {"_target_": None}])
def test_a_group_must_name_its_class(node):
    with pytest.raises(ConfigError, match=r"^loss: must be a mapping whose _target_ names a class"):
        group_settings("loss", node)


@pytest.mark.parametrize("path", ["/a b/${x}", "${oc.env:HOME}", "a\\${b}", "$HOME", "\\"])
def test_strings_are_what_they_say(path):
    settings = group_settings("data", {"_target_": "stockenh.data.sources.files.FilesData", "path": path})
    assert isinstance(settings, FilesData)
    assert settings.path == path


def test_an_interpolation_of_the_command_line_is_followed_once():
    assert plain(compose(["train.epochs=${seed}", "seed=7"]))["train"]["epochs"] == 7


def test_a_missing_value_is_asked_for():
    with pytest.raises(ConfigError, match=r"^data\.path must be given: data\.path=\.\.\.$"):
        plain(compose(["data=files"]))


def test_suggest():
    assert suggest("focla", ["focal", "huber_bce"]) == "Nearest: focal."
    assert suggest("x", ["b", "a"]) == "Options: a, b."
    assert suggest("focla", ["focal", "a"], all_options=True) == "Nearest: focal. Options: a, focal."


def test_what_a_run_of_an_earlier_version_lacks_takes_its_default(raw):
    newer = ("finder", "distill", "tta", "teacher", "init_from", "weights")
    assert parse({k: v for k, v in raw.items() if k not in newer}) == parse(raw)
