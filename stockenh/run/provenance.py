"""Whether the weights behind a run's embedding are still those that it was trained with."""

from __future__ import annotations

from stockenh.embedding.base import Embedding
from stockenh.errors import ConfigError, RunFolderError
from stockenh.runfolder import RunFolder

_REMEDY = "name their folder with embedding.checkpoint=DIR (and embedding.tokenizer=DIR)"


def require_same_weights(folder: RunFolder, embedding: Embedding) -> None:
    """Compares them with the manifest's hashes. Raises RunFolderError saying what the run needs."""
    manifest = folder.read_json(folder.manifest)
    known = manifest.get("embedding") if isinstance(manifest, dict) else None
    if known is None:
        return
    try:
        needed = {part: of["sha256"] for part, of in known.items()}
        told = ", ".join(_told(part, of["from"], of["revision"], of["sha256"]) for part, of in known.items())
    except (AttributeError, KeyError, TypeError):
        raise RunFolderError(f"{folder.manifest} does not say which weights the embedding has") from None
    try:
        found = embedding.provenance() or {}
    except ConfigError as error:
        raise RunFolderError(f"{error}. {folder} needs {told}: {_REMEDY}") from None
    if {part: of["sha256"] for part, of in found.items()} != needed:
        raise RunFolderError(f"the embedding's weights are not those of {folder}, {told}: {_REMEDY}")


def _told(part: str, where: str, revision: str | None, sha256: str) -> str:
    at = f" at revision {revision}" if revision else ""
    return f"the {part} of {where}{at} (sha256 {sha256[:16]}...)"
