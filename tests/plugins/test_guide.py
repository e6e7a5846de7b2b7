"""The lines of docs/own_model.md work as written, on small data."""

import ast
import re
import shlex

import pytest
from own_models import GUIDE, PYTHON, SETTINGS

BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
MORE = {
    "evaluate": ["evaluate.resamples=100"],
    "tta-predict": ["tta.views=0"],
    "explain": ["explain.windows=4", "explain.steps=8"],
    "audit": ["audit.dates=1", "audit.shuffles=2"],
    "distill": ["train.epochs=1", "device=cpu", "model.patch=5", "model.d_model=16"],
    "sweep": ["sweep.n_trials=2", "train.epochs=1"],
    "export": [],
}


@pytest.fixture(scope="module")
def folder(guide, tmp_path_factory):
    """The folder that the guide's commands are typed in."""
    made = tmp_path_factory.mktemp("typed")
    for _, name in PYTHON:
        (made / name).write_text((guide / name).read_text())
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.deep if "export" in line else ()) for line in LINES]
)
def test_a_command_of_the_guide(line, folder, stockenh, small, monkeypatch):
    monkeypatch.chdir(folder)
    if "=run" in line and "hydra.run.dir" not in line and not (folder / "run").exists():
        (first,) = (line for line in LINES if "hydra.run.dir=run" in line)
        type_in(first, stockenh, small)
    type_in(line, stockenh, small)


def type_in(line, stockenh, small):
    _, verb, *rest = shlex.split(line)
    more = MORE.get(verb, [])
    if verb in ("train", "sweep") and "--help" not in rest and "resume=run" not in rest:
        given = {argument.partition("=")[0] for argument in rest}
        own = SETTINGS["mine"] if "model=mine" in rest else ["model.d_model=16", "model.layers=1"]
        more = [*more, *small, *(a for a in own if a.partition("=")[0] not in given)]
    out = stockenh(verb, *rest, *more, code=0).out
    assert "--help" not in rest or "mine" in out


def test_its_model_is_about_as_long_as_it_says():
    tree = ast.parse(PYTHON[0][0])
    network = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    assert network.end_lineno is not None and network.end_lineno - network.lineno < 20
