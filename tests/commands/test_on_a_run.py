"""What every command on a finished run refuses alike."""

import shutil
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("command", KEYS)
def test_a_run_must_be_named_and_brings_its_model(command, run, refused, here):
    assert f"{KEYS[command]}= must be given" in refused(command)
    if command != "distill":  # whose model is another one
        assert "model comes from run=RUN" in refused(command, f"run={run}", "model=tft_xl")
