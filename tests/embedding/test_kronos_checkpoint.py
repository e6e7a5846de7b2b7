"""Untrusted checkpoints: which ones load, and the message for those that don't."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kronos_checkpoints import TINY, copy_tiny
from safetensors.torch import load_file, save_file

from stockenh.embedding.kronos import KronosEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")


class Trap:
    """A hostile pickle: it leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def refusal(folder: Path) -> str:
    """The one line that loading the checkpoint ends with."""
    with pytest.raises(ConfigError) as caught:
        KronosEmbedding(checkpoint=str(folder), precision="fp32").load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spoil_config(folder: Path, part: str, **changes: object) -> None:
    path = folder / part / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))


def spoil_weights(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], object], part: str = "model"
) -> None:
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, str(path))


def test_one_folder_sets_both_and_two_folders_do_too(tmp_path: Path) -> None:
    both = copy_tiny(tmp_path / "both")
    found = [checkpoint.where for checkpoint in KronosEmbedding(checkpoint=str(both)).checkpoints()]
    assert found == [str(both / "model"), str(both / "tokenizer")]
    apart = KronosEmbedding(checkpoint=str(both / "model"), tokenizer=str(TINY / "tokenizer")).checkpoints()
    assert [checkpoint.where for checkpoint in apart] == [str(both / "model"), str(TINY / "tokenizer")]
    assert {checkpoint.revision for checkpoint in apart} == {None}


def test_the_defaults_are_published_ids_at_pinned_revisions() -> None:
    assert [str(checkpoint) for checkpoint in KronosEmbedding().checkpoints()] == [
        "NeoQuasar/Kronos-small@901c26c1332695a2a8f243eb2f37243a37bea320",
        "NeoQuasar/Kronos-Tokenizer-base@0e0117387f39004a9016484a186a908917e22426",
    ]


@pytest.mark.parametrize(
    ("value", "revision", "message"),
    [
        *((value, "x", r"embedding\.checkpoint=.*: no such folder, and not a Hub id such as")
          for value in ("/no/such/folder", "no such", "a/b/c", "../no-such", "")),
        ("me/mine", "", "give its revision too"),
    ],
)  # fmt: skip
def test_settings_that_name_no_checkpoint_are_refused(value: str, revision: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KronosEmbedding(checkpoint=value, revision=revision).checkpoints()


def test_weights_cut_short_are_said_to_be(tmp_path: Path) -> None:
    path = copy_tiny(tmp_path) / "model" / "model.safetensors"
    whole = path.read_bytes()
    for size in (len(whole) - 4, len(whole) // 2, 100, 5, 0):
        path.write_bytes(whole[:size])
        assert refusal(tmp_path).startswith(f"{path} is cut short or damaged")


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_in_place_of_safetensors_is_never_loaded(tmp_path: Path, modern: bool) -> None:
    path, mark = copy_tiny(tmp_path) / "model" / "model.safetensors", tmp_path / "mark"
    torch.save({"weight": Trap(mark)}, path, _use_new_zipfile_serialization=modern)
    assert refusal(tmp_path).startswith(f"{path} is a pickle, not a safetensors file; it can execute code")
    assert not mark.exists()
    torch.load(path.rename(path.with_suffix(".pt")), weights_only=False)
    assert mark.exists(), "the trap itself works"


def test_a_folder_with_pickles_only_says_what_is_wanted(tmp_path: Path) -> None:
    path = copy_tiny(tmp_path) / "model" / "model.safetensors"
    path.rename(path.with_name("pytorch_model.bin"))
    assert "pytorch_model.bin is a pickle, can execute code and is not opened" in refusal(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    copy_tiny(tmp_path)
    (tmp_path / "tokenizer" / "model.safetensors").unlink()
    message = f"embedding.tokenizer={tmp_path}/tokenizer: the folder has no model.safetensors"
    assert refusal(tmp_path).startswith(message)
    (tmp_path / "model" / "config.json").unlink()
    assert "embedding.checkpoint" in refusal(tmp_path)
    assert "the folder has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("model", {"d_model": "absent"}, r"config\.json: d_model: it is not the config"),
        ("model", {"d_model": "64"}, r"d_model=64: .*integer"),
        ("model", {"d_model": 64.0}, r"d_model=64\.0: .*integer"),
        ("model", {"n_layers": True}, r"n_layers=True: .*integer"),
        ("model", {"n_layers": 0}, r"n_layers=0: .*greater than or equal to 1"),
        ("model", {"n_layers": 10**9}, r"n_layers=1000000000: .*less than or equal to 256"),
        ("model", {"s1_bits": 40}, r"s1_bits=40: .*less than or equal to 16"),
        ("model", {"n_heads": 5}, r"d_model=64 must be a multiple of 2 x n_heads=5"),
        ("model", {"n_heads": None}, r"n_heads=None: .*integer"),
        ("model", {"d_model": [64] * 99}, r"d_model=\[64, .{0,40}: .*integer"),
        ("model", {"s2_bits": 5}, r"s2_bits=5 and embedding\.tokenizer=.* has 4: they must be the same"),
        ("tokenizer", {"d_in": 5}, r"d_in=5: .*equal to 6"),
        ("tokenizer", {"group_size": 3}, r"s1_bits=4 \+ s2_bits=4 must be a multiple of group_size=3"),
    ],
)
def test_a_wrong_config_is_refused_by_key(tmp_path: Path, part: str, changes: dict, message: str) -> None:
    spoil_config(copy_tiny(tmp_path), part, **changes)
    assert re.search(message, refusal(tmp_path))


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "3", "\xff", "[" * 100_000, '{"a": 1}' + " " * (1 << 20)]
)
def test_a_config_that_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    path = copy_tiny(tmp_path) / "model" / "config.json"
    path.write_bytes(content.encode("latin-1"))
    assert str(path) in refusal(tmp_path)


def test_other_keys_of_a_config_are_ignored(tmp_path: Path) -> None:
    spoil_config(copy_tiny(tmp_path), "model", model_type="kronos", ffn_dropout_p="absent", license=["mit"])
    KronosEmbedding(checkpoint=str(tmp_path), precision="fp32").load(CPU)


def test_weights_of_another_width_are_named_with_both_shapes(tmp_path: Path) -> None:
    spoil_config(copy_tiny(tmp_path), "model", d_model=128)
    message = refusal(tmp_path)
    assert "does not fit its config.json" in message
    assert re.search(r"is 64x64 where the config says 128x128|is 64 where the config says 128", message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), "norm.weight is missing"),
        (lambda t: t.update({"zz": torch.ones(1)}), "zz is not part of this architecture"),
        (lambda t: t["norm.weight"].fill_(float("nan")), "norm.weight holds numbers that are not finite"),
        (
            lambda t: t.update({"norm.weight": torch.ones(64, dtype=torch.int64)}),
            "norm.weight is of type torch.int64",
        ),
    ],
)
def test_wrong_weights_are_named(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    spoil_weights(copy_tiny(tmp_path), change)
    assert message in refusal(tmp_path)


def test_half_precision_weights_load_as_float32(tmp_path: Path) -> None:
    copy_tiny(tmp_path)
    spoil_weights(tmp_path, lambda t: t.update({k: v.half() for k, v in t.items() if "inv_freq" not in k}))
    embed = KronosEmbedding(checkpoint=str(tmp_path), precision="fp32").load(CPU)
    assert embed(torch.rand(1, 20, 5), torch.ones(1, 20, 5, dtype=torch.int64)).dtype == torch.float32


def test_the_hash_follows_the_weights(tmp_path: Path) -> None:
    settings = KronosEmbedding(checkpoint=str(copy_tiny(tmp_path)), precision="fp32")
    before = settings.identity()
    spoil_weights(tmp_path, lambda tensors: tensors["norm.weight"].mul_(2))
    assert settings.identity() != before
    assert settings.provenance()["tokenizer"]["sha256"] in str(before)
