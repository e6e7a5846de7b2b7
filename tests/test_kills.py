"""A short run of tests/kills.py: commands killed at random moments end as those that nobody disturbed."""

from __future__ import annotations

import kills
import pytest


@pytest.mark.deep
def test_killed_at_random_moments_commands_end_with_the_same_results(tmp_path, capsys):
    arguments = ["--kills", "3", "--seed", "5", "--folder", str(tmp_path / "kills")]
    assert kills.main([*arguments, "--only", "train", "--only", "cache"]) == 0, capsys.readouterr().out
