"""What every command on a finished run refuses alike."""

import math
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

KEYS = {"evaluate": "run", "explain": "run", "export": "run", "audit": "run", "distill": "teacher"}
REFUSED = [
    ("{key}=nowhere", "", "", "nowhere: no such folder"),
    ("{key}={run}", "", "weights/swa.safetensors", "has no swa weights; it has ema, raw"),
    ("{key}={run}", "", "summary.json", "is not finished: continue it with stockenh train resume="),
    ("{key}={run}", "", "fitted.json", "lacks fitted.json"),
    ("{key}={run}", "", "config.yaml", "has no config.yaml"),
    ("{key}={run}", "data.horizons=[1,2,4]", "", "data.horizons=[1, 2, 4]: {key}={run} was trained with"),
]


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("on") / "a run (1)"))


@pytest.mark.parametrize("command", KEYS)
@pytest.mark.parametrize(("given", "more", "missing", "message"), REFUSED)
def test_a_run_that_does_not_do_is_refused(command, given, more, missing, message, run, refused, here):
    names = {"key": KEYS[command], "run": run}
    weights = "weights=swa" if "swa" in missing else "weights=raw"
    if missing:
        (run / missing).rename(run / "away")
    try:
        err = refused(command, given.format(**names), *filter(None, [more]), weights)
    finally:
        if missing:
            (run / "away").rename(run / missing)
    assert message.format(**names) in err


@pytest.fixture
def spoiled(run, here):
    """Makes a copy of the run whose weights hold this number."""

    def spoil(number):
        copy = Path(shutil.copytree(run, here / "spoiled"))
        for path in (copy / "weights").iterdir():
            tensors = load_file(path)
            name = next(n for n, t in tensors.items() if n.endswith("weight") and t.ndim > 1)
            tensors[name].view(-1)[3] = number
            save_file(tensors, path)
        return copy

    return spoil


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("command", [*KEYS, "tta-predict", "train"])
def test_weights_that_are_not_finite_are_refused(command, number, spoiled, refused, small_run, here):
    copy = spoiled(number)
    before = {path for path in copy.rglob("*") if path.is_file()}
    given = (
        [*small_run, f"init_from={copy}"] if command == "train" else [f"{KEYS.get(command, 'run')}={copy}"]
    )
    err = refused(command, *given, "weights=ema")
    assert f"{copy / 'weights/ema.safetensors'}: the ema weights are not finite" in err
    assert "weights=raw" in err and not list(here.rglob("forecast*"))
    new = {path.name for path in copy.rglob("*") if path.is_file()} - {path.name for path in before}
    assert new <= {"run.log", "config.yaml", "hydra.yaml", "overrides.yaml"}


@pytest.mark.parametrize("command", ["evaluate", "explain", "export", "audit", "tta-predict", "distill"])
def test_forecasts_that_are_not_finite_are_refused(command, run, here, refused, monkeypatch):
    from stockenh.models.timeformer import TimeFormer

    forward = TimeFormer.forward
    spoilt = lambda *given: {k: v * math.nan for k, v in forward(*given).items()}  # noqa: E731
    monkeypatch.setattr(TimeFormer, "forward", spoilt)
    output = [] if command in ("distill", "evaluate") else [f"hydra.run.dir={here / 'out'}"]
    err = refused(command, f"{KEYS.get(command, 'run')}={run}", "weights=raw", *output, code=1)
    assert "windows are not finite" in err and "nothing is written" in err
    assert not list(here.rglob("*.csv")) and not list(here.rglob("*.onnx")) and not list(here.rglob("eval*"))


@pytest.mark.parametrize("command", KEYS)
def test_a_run_must_be_named_and_brings_its_model(command, run, refused, here):
    assert f"{KEYS[command]}= must be given" in refused(command)
    if command != "distill":  # whose model is another one
        assert "model comes from run=RUN" in refused(command, f"run={run}", "model=tft_xl")
        assert "tracker is not a key of" in refused(command, f"run={run}", "tracker=mlflow")
