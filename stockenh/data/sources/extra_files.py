"""The user's own columns for a source of bars: read from files, cached, checked against the bars."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stockenh.data.bars import Bars
from stockenh.data.cache import DiskCache, code_of, key_of
from stockenh.data.extra import ExtraColumn, ExtraColumns, ExtraSettings
from stockenh.data.features.as_of import coverage, extra_features
from stockenh.data.findings import Finding
from stockenh.data.processes import available_cores
from stockenh.data.readers import ReadSettings, list_files
from stockenh.data.readers.extra_columns import FATAL, read_extra
from stockenh.data.sources import located
from stockenh.errors import DataError


def load_extra(
    bars: Bars, wanted: ExtraSettings, path: Path, settings: ReadSettings, cache: DiskCache, labels: bool
) -> tuple[ExtraColumns, tuple[Finding, ...]]:
    """The wanted columns of the bars' symbols, and findings.

    path, settings: of the bars' own files, which are read where the columns have none. Raises DataError where
    a column can't be used. Without `labels`, a column that has no value at any of these bars is only missing.
    """
    path = path if wanted.path is None else located(wanted.path, "data.extra.path")
    files = list_files(path, "data.path" if wanted.path is None else "data.extra.path")
    key = key_of(content_key(files), wanted, wanted.path is None, settings, code_of("data"))
    stored = cache.arrays("extra", key, lambda: _pack(*read_extra(path, wanted, settings)))
    extra, found = _unpack(wanted, stored)
    _refuse(found)
    more = coverage(bars, extra, extra_features(bars, extra))
    if labels:
        _refuse(more)
    return extra, (*found, *more)


def findings_on(bars: Bars, wanted: ExtraSettings, path: Path, settings: ReadSettings) -> tuple[Finding, ...]:
    """Everything that is to be said of the wanted columns, errors too."""
    path = path if wanted.path is None else located(wanted.path, "data.extra.path")
    extra, found = read_extra(path, wanted, settings)
    if not len(bars) or unusable(found):
        return found
    return (*found, *coverage(bars, extra, extra_features(bars, extra)))


def content_key(files: Sequence[Path]) -> list[tuple[str, str]]:
    """Name and hash of the content of each file."""
    with ThreadPoolExecutor(available_cores()) as threads:
        return [
            (file.name, content) for file, content in zip(files, threads.map(_content, files), strict=True)
        ]


def _content(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "blake2b").hexdigest()
    except OSError as error:
        return repr(error)  # reading the file reports what is wrong with it


def unusable(findings: Sequence[Finding]) -> list[Finding]:
    """The errors that leave an own column out."""
    return [f for f in findings if f.level == "error" and f.rule.startswith(FATAL)]


def _refuse(findings: Sequence[Finding]) -> None:
    for finding in unusable(findings):
        where = f"{finding.file}: " if finding.file else ""
        raise DataError(f"data.extra: {where}{finding.message}; {finding.fix}")


def _pack(extra: ExtraColumns, findings: Sequence[Finding]) -> dict[str, NDArray[np.generic]]:
    text = {
        "symbols": extra.symbols,
        "static": extra.static,
        "findings": [asdict(finding) for finding in findings],
    }
    found: dict[str, NDArray[np.generic]] = {"text": np.frombuffer(json.dumps(text).encode(), np.uint8)}
    for i, column in enumerate(extra.past):
        found |= {
            f"offsets{i}": column.offsets,
            f"time{i}": column.time.astype(np.int64),
            f"value{i}": column.value,
        }
    return found


def _unpack(
    wanted: ExtraSettings, arrays: dict[str, NDArray[np.generic]]
) -> tuple[ExtraColumns, tuple[Finding, ...]]:
    text = json.loads(arrays["text"].tobytes())
    past = tuple(
        ExtraColumn(
            np.asarray(arrays[f"offsets{i}"], np.int64),
            np.asarray(arrays[f"time{i}"]).astype("datetime64[s]"),
            np.asarray(arrays[f"value{i}"], np.float64),
        )
        for i in range(len(wanted.past))
    )
    extra = ExtraColumns(wanted, tuple(text["symbols"]), past, tuple(map(tuple, text["static"])))
    return extra, tuple(Finding(**finding) for finding in text["findings"])
