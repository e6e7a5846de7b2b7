"""Untrusted checkpoints in folders, and those on the Hub, whose client is replaced: tests have no network."""

import json
import re
import sys
from types import ModuleType
from unittest.mock import Mock

import pytest
import torch
from kronos_checkpoints import TINY, copy_tiny
from safetensors.torch import load_file, save_file
from traps import Trap

from stockenh.embedding.kronos import KronosEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")


def refusal(folder):
    """The one line that loading the checkpoint ends with."""
    with pytest.raises(ConfigError) as caught:
        KronosEmbedding(checkpoint=str(folder), precision="fp32").load(CPU)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def spoil_config(folder, part, **changes):
    path = folder / part / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in content.items() if value != "absent"}))


def spoil_weights(folder, change):
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, str(path))


@pytest.fixture
def tiny(tmp_path):
    """A checkpoint to spoil."""
    return copy_tiny(tmp_path)


def test_settings_name_one_folder_or_two_and_by_default_pinned_revisions(tmp_path):
    both = copy_tiny(tmp_path / "both")
    for settings, tokenizer in (
        (KronosEmbedding(str(both)), both / "tokenizer"),
        (KronosEmbedding(str(both / "model"), tokenizer=str(TINY / "tokenizer")), TINY / "tokenizer"),
    ):
        found = [(checkpoint.where, checkpoint.revision) for checkpoint in settings.checkpoints()]
        assert found == [(str(both / "model"), None), (str(tokenizer), None)]
    assert [str(checkpoint) for checkpoint in KronosEmbedding().checkpoints()] == [
        "NeoQuasar/Kronos-small@901c26c1332695a2a8f243eb2f37243a37bea320",
        "NeoQuasar/Kronos-Tokenizer-base@0e0117387f39004a9016484a186a908917e22426",
    ]


@pytest.mark.parametrize("value", ["/no/such/folder", "no such", "a/b/c", "../no-such", "", "me/mine"])
def test_settings_that_name_no_checkpoint_are_refused(value):
    is_id = value == "me/mine"
    message = "its revision too" if is_id else r"embedding\.checkpoint=.*: no such folder, and not a Hub id"
    with pytest.raises(ConfigError, match=message):
        KronosEmbedding(checkpoint=value, revision="" if is_id else "x").checkpoints()


@pytest.mark.parametrize("keep", [-4, 0.5, 100, 5, 0])
def test_weights_cut_short_are_said_to_be(tiny, keep):
    path = tiny / "model" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2 if keep == 0.5 else keep])
    assert refusal(tiny).startswith(f"{path} is cut short or damaged")


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_in_place_of_safetensors_is_never_loaded(tiny, modern):
    path, mark = tiny / "model" / "model.safetensors", tiny / "mark"
    torch.save({"weight": Trap(mark)}, path, _use_new_zipfile_serialization=modern)
    assert refusal(tiny).startswith(f"{path} is a pickle, not a safetensors file")
    assert not mark.exists()
    torch.load(path.rename(path.with_suffix(".pt")), weights_only=False)
    assert mark.exists(), "the trap itself works"


def test_missing_files_are_named(tiny):
    weights = tiny / "model" / "model.safetensors"
    pickled = weights.rename(weights.with_name("pytorch_model.bin"))
    assert "pytorch_model.bin is a pickle, can execute code and is not opened" in refusal(tiny)
    pickled.rename(weights)
    absent = ("tokenizer", "tokenizer", "model.safetensors"), ("model", "checkpoint", "config.json")
    for part, key, name in absent:
        (tiny / part / name).unlink()
        assert refusal(tiny).startswith(f"embedding.{key}={tiny}/{part}: the folder has no {name}")


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("model", "d_model", "absent", r"config\.json: d_model: it is not the config"),
        ("model", "d_model", "64", r"d_model=64: .*integer"),
        ("model", "d_model", 64.0, r"d_model=64\.0: .*integer"),
        ("model", "n_layers", True, r"n_layers=True: .*integer"),
        ("model", "n_layers", 0, r"n_layers=0: .*greater than or equal to 1"),
        ("model", "n_layers", 10**9, r"n_layers=1000000000: .*less than or equal to 256"),
        ("model", "s1_bits", 40, r"s1_bits=40: .*less than or equal to 16"),
        ("model", "n_heads", 5, r"d_model=64 must be a multiple of 2 x n_heads=5"),
        ("model", "n_heads", None, r"n_heads=None: .*integer"),
        ("model", "d_model", [64] * 99, r"d_model=\[64, .{0,40}: .*integer"),
        ("model", "s2_bits", 5, r"s2_bits=5 and embedding\.tokenizer=.* has 4: they must be the same"),
        ("tokenizer", "d_in", 5, r"d_in=5: .*equal to 6"),
        ("tokenizer", "group_size", 3, r"s1_bits=4 \+ s2_bits=4 must be a multiple of group_size=3"),
        # weights of another width, with both shapes
        ("model", "d_model", 128, r"not fit its config\.json.* is 64(x64)? where the config says 128(x128)?"),
    ],
)
def test_a_wrong_config_is_refused_by_key(tiny, part, key, value, message):
    spoil_config(tiny, part, **{key: value})
    assert re.search(message, refusal(tiny))


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", "3", "\xff", "[" * 100_000, '{"a": 1}' + " " * (1 << 20)]
)
def test_a_config_that_is_no_config_is_refused(tiny, content):
    path = tiny / "model" / "config.json"
    path.write_bytes(content.encode("latin-1"))
    assert str(path) in refusal(tiny)


def test_other_keys_are_ignored_and_half_precision_weights_load_as_float32(tiny):
    spoil_config(tiny, "model", model_type="kronos", ffn_dropout_p="absent", license=["mit"])
    spoil_weights(tiny, lambda t: t.update({k: v.half() for k, v in t.items() if "inv_freq" not in k}))
    embed = KronosEmbedding(checkpoint=str(tiny), precision="fp32").load(CPU)
    assert embed(torch.rand(1, 20, 5), torch.ones(1, 20, 5, dtype=torch.int64)).dtype == torch.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), "norm.weight is missing"),
        (lambda t: t.update({"zz": torch.ones(1)}), "zz is not part of this architecture"),
        (lambda t: t["norm.weight"].fill_(float("nan")), "norm.weight holds numbers that are not finite"),
        (lambda t: t.update({"norm.weight": t["norm.weight"].long()}), "norm.weight is of type torch.int64"),
    ],
)
def test_wrong_weights_are_named(tiny, change, message):
    spoil_weights(tiny, change)
    assert message in refusal(tiny)


def test_the_hash_follows_the_weights(tiny):
    settings = KronosEmbedding(checkpoint=str(tiny), precision="fp32")
    before = settings.identity()
    spoil_weights(tiny, lambda tensors: tensors["norm.weight"].mul_(2))
    assert settings.identity() != before
    assert settings.provenance()["tokenizer"]["sha256"] in str(before)


PINNED = KronosEmbedding()
HELD = {
    (PINNED.checkpoint, PINNED.revision): TINY / "model",
    (PINNED.tokenizer, PINNED.tokenizer_revision): TINY / "tokenizer",
}


HTTP = type("HfHubHTTPError", (OSError,), {})
NOT_FOUND = type("RepositoryNotFoundError", (HTTP,), {})
GATED = type("GatedRepoError", (NOT_FOUND,), {})
NO_REVISION = type("RevisionNotFoundError", (HTTP,), {})
NO_ENTRY = type("EntryNotFoundError", (HTTP,), {})
NO_LOCAL_ENTRY = type("LocalEntryNotFoundError", (NO_ENTRY,), {})
OFFLINE = type("OfflineModeIsEnabled", (ConnectionError,), {})


@pytest.fixture
def hub(monkeypatch):
    """The Hub with the tiny checkpoint under the published ids; returns the requests."""
    requests = []

    def download(repo_id, filename, *, revision):
        requests.append((repo_id, filename, revision))
        if (repo_id, revision) not in HELD:
            raise (NO_REVISION if repo_id in dict([*HELD]) else NOT_FOUND)("404 Client Error")
        return str(HELD[repo_id, revision] / filename)

    install(monkeypatch, download)
    return requests


def install(monkeypatch, download):
    client, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    for kind in (HTTP, NOT_FOUND, GATED, NO_REVISION, NO_ENTRY, NO_LOCAL_ENTRY, OFFLINE):
        setattr(errors, kind.__name__, kind)
    client.errors, client.hf_hub_download = errors, download
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def test_the_published_ids_load_at_their_pinned_revisions(hub):
    embed = KronosEmbedding(precision="fp32").load(CPU)
    assert embed(torch.rand(2, 20, 5), torch.ones(2, 20, 5, dtype=torch.int64)).shape == (2, 64)
    assert {(name, revision) for name, _, revision in hub} == set(HELD)
    assert {file for _, file, _ in hub} == {"config.json", "model.safetensors"}


def test_the_width_needs_the_configs_alone_and_the_manifest_gets_ids_revisions_and_hashes(hub):
    assert PINNED.shapes()[0].d_model == 64
    assert {file for _, file, _ in hub} == {"config.json"}
    found = PINNED.provenance()
    assert {(source["from"], source["revision"]) for source in found.values()} == set(HELD)
    assert all(len(source["sha256"]) == 64 for source in found.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"revision": "123"}, r"checkpoint=NeoQuasar/\S+ has no revision 123: .* embedding\.revision=COMMIT"),
        ({"tokenizer_revision": "123"}, r"embedding\.tokenizer_revision=COMMIT"),
        ({"checkpoint": "models/kronos"}, "models/kronos: no such folder here, and no such repository"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_a_wrong_revision_or_repository_names_the_key_to_change(settings, message):
    with pytest.raises(ConfigError, match=message):
        KronosEmbedding(**settings).shapes()


@pytest.mark.usefixtures("hub")
def test_a_folder_wins_over_an_id_and_without_the_client_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'stockenh\[kronos\]', or fetch it elsewhere"):
        PINNED.shapes()
    (tmp_path / "NeoQuasar").mkdir()
    (tmp_path / "NeoQuasar" / "Kronos-small").symlink_to(TINY / "model")
    monkeypatch.chdir(tmp_path)
    assert PINNED.checkpoints()[0].revision is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (NO_LOCAL_ENTRY("no"), "the Hub can't be reached: go online once, or fetch it elsewhere"),
        (OFFLINE("offline"), "and name its folder: embedding.checkpoint=DIR"),
        (GATED("401"), "the Hub requires a login"),
        (NO_ENTRY("404"), "has no config.json"),
        (HTTP("500 Server Error\nmore"), "can't be fetched (500 Server Error)"),
        (RuntimeError("transfer broke off"), "can't be fetched (transfer broke off)"),
        (TimeoutError(), "can't be fetched (TimeoutError)"),
        (ValueError("Repo id must ..."), "can't be fetched (Repo id must ...)"),
    ],
)
def test_every_failure_is_one_line(monkeypatch, error, message):
    install(monkeypatch, Mock(side_effect=error))
    with pytest.raises(ConfigError) as caught:
        PINNED.shapes()
    assert message in str(caught.value) and "\n" not in str(caught.value)
