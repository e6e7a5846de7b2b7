"""From a file to a table of cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stockenh.data.findings import Finding, quoted
from stockenh.data.readers.columns import Table, match_columns
from stockenh.data.readers.file_names import display_name
from stockenh.data.readers.parquet import MAGIC, read_parquet
from stockenh.data.readers.raw import NoTableError, read_bytes
from stockenh.data.readers.text import read_text
from stockenh.data.readers.wide import split_columns, stack_tickers


def load_table(path: Path, mapping: Mapping[str, str]) -> tuple[Table | None, tuple[Finding, ...]]:
    """Reads a file's cells. Returns no table and an error finding where it holds none.

    `mapping` (canonical -> own column name) helps to find the line of names. Symbols side by side become
    rows.
    """
    name = display_name(path)
    try:
        data = read_bytes(path)
        is_parquet = path.suffix.lower() == ".parquet" or data.startswith(MAGIC)
        table, found = _parquet(data) if is_parquet else _text(data, mapping)
        table = _with_rows(split_columns(table, mapping), "")
    except NoTableError as error:
        rule, message, fix = error.args
        return None, (Finding("error", rule, message, fix, name),)
    return table, tuple(replace(finding, file=name) for finding in found)


def _parquet(data: bytes) -> tuple[Table, tuple[Finding, ...]]:
    frame, zones = read_parquet(data)
    return _with_rows(Table(tuple(frame.columns), frame, zones=zones), ""), ()


def _text(data: bytes, mapping: Mapping[str, str]) -> tuple[Table, tuple[Finding, ...]]:
    frame, separator, head, found = read_text(data, mapping)
    if (wide := stack_tickers(frame)) is not None:
        return _with_rows(Table(*wide, separator), head), found
    names = tuple((cell or "").strip() for cell in frame.row(0))
    return _with_rows(Table(names, frame.slice(1), separator), head), found


def _with_rows(table: Table, head: str) -> Table:
    if table.frame.height:
        return table
    if head and not match_columns(table.names, {}).index.keys() - {"date", "symbol"}:
        # "404: Not Found, try later" splits at its comma, but no part of it is a column name
        fix = "the download failed: fetch this file again"
        raise NoTableError("error-text", f"not bars but a line of text: {quoted(head)}", fix)
    raise NoTableError("empty-file", "a header and no rows", "download it again or remove it")
