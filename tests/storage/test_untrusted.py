"""What a folder holds is opened without following links, bounded in size and depth, and typed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from stockenh.errors import RunFolderError
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import (
    MOST_JSON,
    parse_tensors,
    read_bytes,
    read_json,
    read_yaml,
    require_plain_folder,
)


def link(path: Path) -> None:
    path.symlink_to(path.with_name("other"))
    path.with_name("other").write_text("{}")


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


@pytest.mark.parametrize("make", [link, os.mkfifo, sparse, Path.mkdir])
def test_only_a_regular_file_of_a_bounded_size_is_opened(tmp_path, make):
    path = tmp_path / "summary.json"
    make(path)
    for read in (lambda: read_bytes(path), lambda: read_json(path, object), lambda: read_yaml(path)):
        with pytest.raises(RunFolderError, match=str(path)):
            read()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000, "[" * 30 + "]" * 30, "9" * 5000, "1" * 20, "1e999", '"\\ud800"',
        "{", "", '{"a": ' * 30 + "1" + "}" * 30, "\x00", '"' + "x" * MOST_JSON + '"',
    ],
    ids=lambda text: text[:12] or "empty",
)  # fmt: skip
def test_json_that_no_run_writes_is_one_line(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(RunFolderError) as caught:
        read_json(path, object)
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1]\nb: *a", "[" * 50 + "]" * 50, "- " * 5000 + "1", "!!python/object/apply:os.system [id]",
        "a: !!binary aGk=", "? [1]\n: 2", "1: 2", "a: 99999999999999999999", "\x01", "a: [", "a: \"\\uD800\"",
        "a: " + "x" * 300_000, "--- 1\n--- 2",
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_yaml_that_no_run_writes_is_one_line(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(RunFolderError) as caught:
        read_yaml(path)
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)


def test_plain_yaml_is_read_as_a_run_writes_it(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: [1, 2.5, null, true, 'x']\nb: {c: 2020-01-02}\nd: .inf\n")
    assert read_yaml(path) == {"a": [1, 2.5, None, True, "x"], "b": {"c": "2020-01-02"}, "d": float("inf")}


def test_a_folder_with_a_way_out_is_not_used(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "run"
    outside.mkdir()
    (folder / "report").mkdir(parents=True)
    (folder / "config.yaml").write_text("a: 1")
    (folder / "report" / "latest").symlink_to("../config.yaml")
    require_plain_folder(folder, to_write=True)
    for name, make in {
        "weights": lambda path: path.symlink_to(outside),
        "report/a.png": lambda path: path.symlink_to("../../outside/a.png"),
        "run.log": lambda path: path.symlink_to("/dev/null"),
        ".lock": os.mkfifo,
    }.items():
        make(folder / name)
        with pytest.raises(RunFolderError, match=f"run: {name} is "):
            RunFolder.open(folder)
        with pytest.raises(RunFolderError, match=f"run: {name} is "), RunFolder(folder).lock():
            pass
        (folder / name).unlink()
    os.link(folder / "config.yaml", outside / "same.yaml")
    RunFolder.open(folder)
    with pytest.raises(RunFolderError, match=r"config\.yaml is a hard link"), RunFolder(folder).lock():
        pass


def test_appending_follows_no_link(tmp_path):
    folder, victim = RunFolder(tmp_path), tmp_path / "victim"
    victim.write_text("mine")
    folder.metrics.symlink_to(victim)
    with pytest.raises(Exception, match=r"metrics\.jsonl"):
        folder.append_metrics({"epoch": 1})
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"parts": []}, "parts"), ({"parts": {"test": {"h3": 1}}}, "parts.test.h3"), ({"weights": 1},
        "weights"),
        ({"parts": {"test": {"x": {}}}}, "parts.test.x"), ({"epochs": "3"}, "epochs"), ({"epochs": 1.5},
        "epochs"),
        ({"stopped_early": 1}, "stopped_early"), ({"val_loss": "low"}, "val_loss"),
        ({"by_weights": {"raw": 1}}, "raw"), ({"members": 5}, "members"), ({"members": [1]}, "members"),
    ],
)  # fmt: skip
def test_a_summary_has_its_types(tmp_path, finished_run, change, place):
    summary = json.loads((finished_run / "summary.json").read_text())
    folder = RunFolder(tmp_path)
    folder.summary.write_text(json.dumps(summary))
    assert folder.read_summary() == summary
    folder.summary.write_text(json.dumps(summary | change))
    with pytest.raises(RunFolderError, match=f"summary.json does not hold .*{place}"):
        folder.read_summary()


@pytest.mark.parametrize("key", ["rank_ic", "rank_ic_low", "rank_ic_high"])
def test_what_only_a_panel_has_is_typed_too(tmp_path, finished_run, key):
    summary = json.loads((finished_run / "summary.json").read_text())
    summary["parts"]["test"]["h3"][key] = "high"
    folder = RunFolder(tmp_path)
    folder.summary.write_text(json.dumps(summary))
    with pytest.raises(RunFolderError, match=f"parts.test.h3.{key}"):
        folder.read_summary()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "C64", "U16", "I8", "F4", "nothing"])
def test_tensors_of_types_that_no_run_writes_are_refused(dtype, tmp_path):
    size = {"C64": 8, "U16": 2}.get(dtype, 1)
    header = json.dumps({"w": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(2 * size)
    with pytest.raises(ValueError):
        parse_tensors(content)
    path = RunFolder(tmp_path).weights("raw")
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="cut short or damaged"):
        RunFolder(tmp_path).read_weights("raw")


@pytest.mark.parametrize("text", [b"{}\n" * 600_000, b"[" + b"{}," * 2_000_001 + b"{}]\n", b"\n" * 600_000])
def test_a_file_of_more_values_than_a_run_writes_is_not_parsed(text, tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.write_bytes(text)
    with pytest.raises(RunFolderError, match=r"more than [\d,]+ (lines|values)"):
        folder.metric_lines()
    if text.startswith(b"["):
        with pytest.raises(RunFolderError, match="more than 4,000,000 values"):
            read_json(folder.metrics, object)


def test_a_name_that_no_report_can_show_is_refused(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/a\xff")
    with pytest.raises(RunFolderError, match="no name in UTF-8"):
        require_plain_folder(tmp_path)
