"""What is drawn while embeddings are computed."""

from __future__ import annotations

import io

from rich.console import Console

from stockenh.terminal import embedding_progress


def drawn(terminal: bool, *calls: tuple[int, int]) -> str:
    out = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    with embedding_progress(out) as watch:
        for done, total in calls:
            watch(done, total)
    return out.file.getvalue()


def test_a_terminal_shows_how_many_windows_are_embedded() -> None:
    said = drawn(True, (0, 11_482), (8, 11_482), (2_048, 11_482))
    assert "embedding" in said
    assert "2,048/11,482 windows" in said


def test_what_comes_from_the_cache_draws_nothing() -> None:
    assert "embedding" not in drawn(True)


def test_without_a_terminal_nothing_is_drawn() -> None:
    assert drawn(False, (0, 10), (10, 10)) == ""
