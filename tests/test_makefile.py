"""What the Makefile installs, and when: with a Python that only notes what it is asked to install."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# `python -m venv DIR` leaves itself as DIR/bin/python, and an empty program for each that a target calls
PYTHON = """#!/bin/sh
log="{log}"
case "$*" in
  "-c "*) exit 0 ;;
  "-m pip --version") [ "$0" != "{itself}" ] ;;
  "-m venv --clear "*)
    mkdir -p "$4/bin" && cp "{itself}" "$4/bin/python"
    for name in stockenh ruff mypy; do
      printf '#!/bin/sh\\n' > "$4/bin/$name" && chmod +x "$4/bin/$name"
    done ;;
  "-m pip install"*) [ ! -e "{broken}" ] || exit 1; echo "$*" | sed 's/.*--editable //' >> "$log" ;;
esac
"""


class Checkout:
    """A folder with the Makefile."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.broken = folder / "a b", folder / "log", folder / "broken"
        self.folder.mkdir()
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(ROOT / name, self.folder)
        self.python = folder / "python"
        self.python.write_text(PYTHON.format(log=self.log, itself=self.python, broken=self.broken))
        self.python.chmod(0o755)

    def make(self, target: str, code: int = 0) -> list[str]:
        """What making a target installs."""
        self.log.write_text("")
        command = ["make", f"PYTHON={self.python}", target]
        outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # where make itself runs the tests
        environment = {name: value for name, value in os.environ.items() if name not in outer}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("make") is None or sys.platform == "win32":
        pytest.skip("no make")
    return Checkout(tmp_path)


def test_training_installs_the_package_alone_and_tests_add_the_rest(checkout):
    assert checkout.make("train") == ["."]
    assert checkout.make("train") == []
    assert checkout.make("test") == [".[dev]"]
    assert [checkout.make(target) for target in ("test", "train", "setup", "lint", "type")] == [[]] * 5


@pytest.mark.parametrize("target", ["test", "lint", "type"])
def test_what_tests_need_is_installed_once_on_a_fresh_clone(checkout, target):
    assert checkout.make(target) == [".", ".[dev]"]
    assert checkout.make("test") == []
    assert checkout.make("train") == []


def test_a_half_installation_is_tried_again(checkout):
    checkout.broken.touch()
    assert checkout.make("train", code=2) == []
    checkout.broken.unlink()
    assert checkout.make("train") == ["."]
    checkout.broken.touch()
    assert checkout.make("test", code=2) == []
    assert checkout.make("train") == []
    checkout.broken.unlink()
    assert checkout.make("test") == [".[dev]"]


def test_what_was_installed_for_another_folder_is_installed_again(checkout):
    checkout.make("test")
    checkout.folder = checkout.folder.rename(checkout.folder.with_name("moved"))
    assert checkout.make("train") == ["."]
    assert checkout.make("test") == [".[dev]"]
    assert checkout.make("test") == []


def test_changed_requirements_are_installed(checkout):
    checkout.make("test")
    later = (checkout.folder / ".venv/.installed-dev").stat().st_mtime_ns + 10**9
    os.utime(checkout.folder / "pyproject.toml", ns=(later, later))
    assert "." in checkout.make("train")
