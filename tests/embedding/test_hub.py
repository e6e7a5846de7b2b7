"""Checkpoints on the Hub, with a substitute for huggingface_hub, since tests have no network."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from kronos_checkpoints import TINY

from stockenh.embedding.kronos import KronosEmbedding
from stockenh.errors import ConfigError

CPU = torch.device("cpu")
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
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """The Hub with the tiny checkpoint under the published ids; returns the requests."""
    requests: list[tuple[str, str, str]] = []

    def hf_hub_download(repo_id: str, filename: str, *, revision: str) -> str:
        requests.append((repo_id, filename, revision))
        if repo_id not in {name for name, _ in HELD}:
            raise NOT_FOUND("404 Client Error")
        if (repo_id, revision) not in HELD:
            raise NO_REVISION("404 Client Error")
        return str(HELD[repo_id, revision] / filename)

    install(monkeypatch, hf_hub_download)
    return requests


def install(monkeypatch: pytest.MonkeyPatch, download: object) -> None:
    client, errors = ModuleType("huggingface_hub"), ModuleType("huggingface_hub.errors")
    for kind in (HTTP, NOT_FOUND, GATED, NO_REVISION, NO_ENTRY, NO_LOCAL_ENTRY, OFFLINE):
        setattr(errors, kind.__name__, kind)
    client.errors, client.hf_hub_download = errors, download
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """The message of a download whose client raises this."""

    def download(repo_id: str, filename: str, *, revision: str) -> str:
        raise error

    install(monkeypatch, download)
    with pytest.raises(ConfigError) as caught:
        PINNED.shapes()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_ids_load_at_their_pinned_revisions(hub: list[tuple[str, str, str]]) -> None:
    embed = KronosEmbedding(precision="fp32").load(CPU)
    assert embed(torch.rand(2, 20, 5), torch.ones(2, 20, 5, dtype=torch.int64)).shape == (2, 64)
    assert {(name, revision) for name, _, revision in hub} == set(HELD)
    assert {file for _, file, _ in hub} == {"config.json", "model.safetensors"}


def test_the_width_needs_the_configs_alone(hub: list[tuple[str, str, str]]) -> None:
    assert PINNED.shapes()[0].d_model == 64
    assert {file for _, file, _ in hub} == {"config.json"}


def test_the_manifest_gets_ids_revisions_and_hashes(hub: list[tuple[str, str, str]]) -> None:
    found = PINNED.provenance()
    assert {(of["from"], of["revision"]) for of in found.values()} == set(HELD)
    assert all(len(of["sha256"]) == 64 for of in found.values())


def test_a_wrong_revision_names_the_key_to_change(hub: list[tuple[str, str, str]]) -> None:
    message = r"embedding\.checkpoint=NeoQuasar/\S+ has no revision 123: .* embedding\.revision=COMMIT"
    with pytest.raises(ConfigError, match=message):
        KronosEmbedding(revision="123").shapes()
    with pytest.raises(ConfigError, match=r"embedding\.tokenizer_revision=COMMIT"):
        KronosEmbedding(tokenizer_revision="123").shapes()


def test_an_unknown_repository_may_be_a_folder_misspelt(hub: list[tuple[str, str, str]]) -> None:
    with pytest.raises(ConfigError, match="models/kronos: no such folder here, and no such repository"):
        KronosEmbedding(checkpoint="models/kronos").shapes()


def test_a_folder_wins_over_an_id_of_the_same_name(
    hub: list[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_every_failure_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    assert message in failing(monkeypatch, error)


def test_without_the_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'stockenh\[kronos\]', or fetch it elsewhere"):
        PINNED.shapes()
