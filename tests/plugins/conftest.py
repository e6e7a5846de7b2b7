"""Two models of a notebook as plugins, that of the guide and that of the examples, and a run of each."""

from types import SimpleNamespace

import processes
import pytest
from own_models import KEY, PYTHON, ROOT, SETTINGS


@pytest.fixture(scope="session")
def guide(tmp_path_factory):
    """A folder with the guide's Python files."""
    folder = tmp_path_factory.mktemp("guide")
    for text, name in PYTHON:
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="session")
def small(small_run):
    """What makes a run small, whatever its model."""
    return [a for a in small_run if not a.startswith("model.")]


@pytest.fixture(
    scope="session",
    params=[name if name == "mine" else pytest.param(name, marks=pytest.mark.deep) for name in SETTINGS],
)
def own(request, guide, small, tmp_path_factory):
    """A plugin's model: how to name it, and a finished run of two epochs."""
    name = request.param
    file = guide / "mynet.py" if name == "mine" else ROOT / "examples/lstm_attention.py"
    run = tmp_path_factory.mktemp(name) / "run"
    flag = f"--plugin={file}"
    train = ["train", flag, f"model={name}", *SETTINGS[name], *small, "train.epochs=2", "averaging=ema"]
    done = processes.run(*train, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    return SimpleNamespace(name=name, file=file, flag=flag, train=train, run=run, key=KEY[name])


@pytest.fixture(autouse=True)
def without_plugins():
    """A test leaves no plugin named to the tests after it, which share its process."""
    yield
    from stockenh.config import plugins

    plugins.use([])
