"""The wheel, as a user without the repository gets it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

import stockenh

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel, which is all that `pip install --no-deps --target` makes of it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "dist")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (folder / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def python(installed, tmp_path):
    """Runs Python in an empty folder with the wheel's package before any other."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
    return lambda *arguments: subprocess.run([sys.executable, *arguments], **options)


def test_the_package_under_test_is_the_wheels(python, installed):
    code = "import stockenh, stockenh.config.catalog as c; print(stockenh.__file__, c.conf_dir())"
    found = python("-c", code).stdout.split()
    assert found == [str(installed / "stockenh/__init__.py"), str(installed / "stockenh/conf")]


def names(folder: Path, pattern: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob(pattern)}


def test_it_holds_every_module_config_the_sample_and_no_tests(installed):
    packages = ("stockenh", "hydra_plugins")
    modules = {f"{package}/{name}" for package in packages for name in names(ROOT / package, "*.py")}
    assert names(installed, "*.py") == modules
    assert names(installed / "stockenh/conf", "*.yaml") == names(ROOT / "conf", "*.yaml")
    sample = Path("data/sample/bars.parquet")
    assert (installed / "stockenh" / sample).read_bytes() == (ROOT / "stockenh" / sample).read_bytes()
    assert (installed / "stockenh/data/sample/PROVENANCE.md").is_file()
    assert (installed / "stockenh/py.typed").is_file()
    (info,) = installed.glob("*.dist-info")
    assert info.name == f"stockenh-{stockenh.__version__}.dist-info"
    assert "stockenh = stockenh.__main__:main" in (info / "entry_points.txt").read_text()


def test_it_is_small(installed):
    (wheel,) = (installed.parent / "dist").glob("*.whl")
    assert wheel.stat().st_size < 2_000_000


def test_it_composes_and_trains_outside_the_repository(python, small_run, tmp_path):
    shown = python("-m", "stockenh", "train", "--cfg", "job")
    assert yaml.safe_load(shown.stdout)["train"]["epochs"] == 6
    done = python("-m", "stockenh", "train", *small_run, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/summary.json").read_text())["parts"]["test"]["h3"]["n"] > 0
