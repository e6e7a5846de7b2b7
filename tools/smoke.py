"""Runs every command once at its smallest size, to see whether the installed libraries will do.

    make test-lowest             # with the lowest versions that pyproject.toml allows
    python tools/smoke.py [DIR]  # with those of this Python; DIR keeps what the commands write

Exit code 1 where a command ends with another exit code than 0, or does not write what it is to write.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "data.lookback=20 data.horizons=[1,2] embedding.width=32 device=cpu split.val=0.25 split.test=0.25 "
    "train.epochs=1 train.batch_size=64 model.d_model=16 model.layers=1 model.heads=2 model.ffn=16"
)
TINY = f"data=synthetic data.symbols=6 data.bars=220 {SMALL}"
TFT = re.sub(r" model\.(?:layers|ffn)=\S+", "", TINY) + " model=tft_xl averaging=ema_swa train.precision=bf16"
FILES = "data=files data.path=bars"
CUT = "data=files data.path=earlier"
CLAIMS = """\
# @package _global_
# One technique and few seeds. Override: ablate=smoke
defaults:
  - override /hydra/sweeper: stockenh_ablate
ablate:
  seeds: [1, 2]
  horizon: 2
  rounds: 3
  only: null
  leave_one_out: false
  techniques:
    focal: {title: focal loss, overrides: [loss.gamma=2.0], claims: {accuracy: {least: 0.0, says: more}}}
  all_claims:
    accuracy: {least: 0.0, says: more}
"""


@dataclass(frozen=True)
class Step:
    """A command line after `stockenh`, and a file that it must write.

    needs: an optional package, without which the step is left out
    """

    line: str
    writes: str = ""
    needs: str = ""


STEPS = (
    Step("--help"),
    Step("train --help"),
    Step("data check bars"),
    Step(f"train {TINY} hydra.run.dir=run", "run/report.html"),
    Step("train resume=run train.epochs=2", "run/weights/raw.safetensors"),
    Step(f"train {TFT} hydra.run.dir=tft", "tft/summary.json"),
    Step(f"train {SMALL} {CUT} tracker=tensorboard hydra.run.dir=b", "b/tensorboard", "tensorboard"),
    Step(f"train {TINY} tracker=mlflow hydra.run.dir=m", "mlflow.db", "mlflow"),
    Step(f"train {TINY} tracker=wandb tracker.mode=offline hydra.run.dir=w", "wandb", "wandb"),
    Step(f"train {TINY} seed=1,2 --multirun hydra.sweep.dir=grid", "grid/1/summary.json"),
    Step(f"train {SMALL} {CUT} hydra.run.dir=files", "files/summary.json"),
    Step("runs ."),
    Step("runs run tft"),
    Step(f"find-lr {TINY} hydra.run.dir=lr", "lr/lr_finder.png"),
    Step(
        f"sweep {TINY} sweep=base model.patch=5,10 sweep.n_trials=2 hydra.sweep.dir=sweep", "sweep/best.yaml"
    ),
    Step(
        f"sweep {TINY} sweep=base model.patch=5,10 sweep.n_trials=2 sweep.n_workers=2 hydra/launcher=joblib "
        f"sweep.storage=sqlite:///study.db hydra.sweep.dir=joblib",
        "joblib/best.yaml",
        "hydra_plugins.hydra_joblib_launcher",
    ),
    Step(
        f"train {TINY} seed=1,2 --multirun hydra/launcher=submitit_local hydra.sweep.dir=jobs",
        "jobs/1/summary.json",
        "hydra_plugins.hydra_submitit_launcher",
    ),
    Step("train run_config=sweep/best.yaml hydra.run.dir=best", "best/summary.json"),
    Step(f"tta-predict run=files {CUT} ledger=ledger.parquet hydra.run.dir=tta", "tta/forecast.parquet"),
    Step(f"track ledger=ledger.parquet {FILES} hydra.run.dir=track", "track/track.json"),
    Step("export run=files export.int8=true", "files/export"),
    Step("tta-predict run=files tta.engine=onnx hydra.run.dir=onnx", "onnx/forecast.csv"),
    Step("evaluate run=run evaluate.block=10", "run/report/evaluation.json"),
    Step("explain run=tft explain.windows=4 explain.outputs=[up]", "tft/explain/attributions.png", "captum"),
    Step("audit run=run audit.dates=1 audit.shuffles=2", "run/report/audit.png"),
    Step("distill teacher=run train.epochs=1 hydra.run.dir=student", "student/distillation.json"),
    Step(f"ablate ablate=smoke --config-dir conf {TINY} hydra.sweep.dir=ablation", "ablation/ablation.json"),
    Step(
        "bench bench.parts=[training] bench.seconds=0.01 bench.rounds=3 model=timeformer model.d_model=16 "
        "model.layers=1 hydra.run.dir=bench",
        "bench/bench.png",
    ),
    Step("report run tft out=both.html", "both.html"),
)


def main(directory: Path) -> int:
    """Runs all steps in a folder and prints a line for each; returns how many failed."""
    directory.mkdir(parents=True, exist_ok=True)
    _prepare(directory)
    print(_versions(), flush=True)
    failed = 0
    for step in STEPS:
        if step.needs and not _is_installed(step.needs):
            print(f"left out  {step.line[:70]}: no {step.needs}", flush=True)
            continue
        began = time.monotonic()
        wrong = _run(step, directory)
        failed += bool(wrong)
        print(
            f"{'FAILED' if wrong else 'ok':8}{time.monotonic() - began:5.1f} s  {step.line[:90]}", flush=True
        )
        if wrong:
            print(wrong, flush=True)
    print(f"{len(STEPS) - failed} of {len(STEPS)} steps without an error")
    return failed


def _run(step: Step, directory: Path) -> str:
    """Runs a step; what is wrong with it, or nothing."""
    environment = {**os.environ, "STOCKENH_CACHE": str(directory / "cache"), "COLUMNS": "100"}
    command = [sys.executable, "-m", "stockenh", *step.line.split()]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    if step.writes and not (directory / step.writes).exists():
        return f"{step.writes} was not written\n{done.stdout[-2000:]}"
    return ""


def _prepare(directory: Path) -> None:
    """Bars as files, the same without the newest, and the settings of a small ablation."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(0)
    for symbol in ("AAA", "BBB"):
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 240)))
        dates = np.busday_offset("2020-01-01", np.arange(240), roll="forward")
        bars = pl.DataFrame(
            {
                "Date": [str(date) for date in dates],
                "Open": close,
                "High": close * 1.01,
                "Low": close * 0.99,
                "Close": close,
                "Volume": rng.integers(1_000, 9_000, 240),
            }
        )
        for name, rows in (("bars", 240), ("earlier", 220)):
            folder = directory / name
            folder.mkdir(exist_ok=True)
            bars.head(rows).write_csv(folder / f"{symbol}.csv")
    (directory / "conf/ablate").mkdir(parents=True, exist_ok=True)
    (directory / "conf/ablate/smoke.yaml").write_text(CLAIMS, encoding="utf-8")


def _versions() -> str:
    """The installed versions of what the package requires."""
    names = [re.split(r"[\[<>=;! ]", line)[0] for line in importlib.metadata.requires("stockenh") or []]
    found = {}
    for name in dict.fromkeys(names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"Python {sys.version.split()[0]}, {versions}"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(bool(main(Path(sys.argv[1]).resolve())))
    with tempfile.TemporaryDirectory() as made:
        raise SystemExit(bool(main(Path(made))))
