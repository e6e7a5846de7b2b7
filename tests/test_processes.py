"""How tests start processes of the program."""

import sys

import processes
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process makes its own imports")
def test_processes_begin_with_the_imports_done():
    assert processes.forks()
