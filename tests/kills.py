"""Kills commands with SIGKILL at random moments, resumes them, and compares with uninterrupted ones.

    PYTHONPATH=. python tests/kills.py --kills 200 --seed 0 --folder /tmp/kills

A line per kill names its moment and how far the command was, a line per round the result of the comparison.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import processes
from bars import write_bars

# a session of its own: the command dies with all that it has started in it
ALONE = "import os; os.setsid()\n"
MODEL = [
    "device=cpu", "data.lookback=20", "embedding.width=32", "model.layers=1", "model.d_model=16",
    "model.heads=2", "model.ffn=16",
]  # fmt: skip
SMALL = [*MODEL, "data=synthetic_small", "data.symbols=3", "data.bars=300", "train.epochs=2"]
MOST_IN_A_ROW = 4


class Scenario(ABC):
    """A command that is killed and resumed until it is done."""

    name: str
    first = ALONE  # Python that its process runs before

    def __init__(self, shared: Path) -> None:
        self.shared = shared  # what all rounds read

        self.prepare()

    def prepare(self) -> None:
        """Makes what all rounds read, where that is more than the program has."""
        return

    @abstractmethod
    def command(self, folder: Path) -> list[str]:
        """What a user types next for what the folder holds."""

    @abstractmethod
    def result(self, folder: Path) -> dict[str, Any]:
        """All that must not depend on kills."""

    def environment(self, folder: Path) -> dict[str, str]:
        """Each round begins without a cache."""
        return {"STOCKENH_CACHE": str(folder / "cache")}

    def start(self, folder: Path) -> processes.Process:
        return processes.start(*self.command(folder), first=self.first, **self.environment(folder))

    def differences(self, whole: Path, folder: Path) -> list[str]:
        """The names of results that differ from those of the uninterrupted command."""
        wanted, found = self.result(whole), self.result(folder)
        left = [f"left over: {path.relative_to(folder)}" for path in leftovers(folder)]
        keys = {**wanted, **found}
        return [key for key in keys if wanted.get(key, "nothing") != found.get(key, "nothing")] + left


class Train(Scenario):
    """One run with all averages."""

    name = "train"

    def command(self, folder: Path) -> list[str]:
        run = folder / "run"
        if (run / "config.yaml").exists():
            return ["train", f"resume={run}"]
        often = "train.checkpoint_minutes=0.001"
        return ["train", *SMALL, "averaging=ema_swa", "train.epochs=3", often, f"hydra.run.dir={run}"]

    def result(self, folder: Path) -> dict[str, Any]:
        return of_run(folder / "run")


class Distill(Scenario):
    """A student and the same without its teacher."""

    name = "distill"

    def prepare(self) -> None:
        self.teacher = self.shared / "teacher"
        done = processes.run("train", *SMALL, f"hydra.run.dir={self.teacher}")
        assert done.returncode == 0, done.stderr

    def command(self, folder: Path) -> list[str]:
        run = folder / "student"
        if (run / "config.yaml").exists():
            return ["distill", f"resume={run}"]
        student = ["model=timeformer", "model.d_model=8", "model.layers=1", "model.heads=2", "model.ffn=8"]
        return [
            "distill", f"teacher={self.teacher}", "device=cpu", *student, "train.epochs=2",
            "train.checkpoint_minutes=0.001", f"hydra.run.dir={run}",
        ]  # fmt: skip

    def result(self, folder: Path) -> dict[str, Any]:
        run = folder / "student"
        both = of_run(run) | {f"alone {k}": v for k, v in of_run(run / "without_teacher").items()}
        return both | {"comparison": json.loads((run / "distillation.json").read_text()).keys()}


class Sweep(Scenario):
    """Trials without a pruner, whose values depend on their number alone."""

    name = "sweep"
    first = ALONE

    def command(self, folder: Path) -> list[str]:
        sweep = folder / "sweep"
        if (sweep / "sweep.json").exists():
            return ["sweep", f"resume={sweep}"]
        return [
            "sweep", *SMALL, "sweep=base", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "sweep.n_trials=5",
            "sweep.pruner=null", "sweep.max_failures=1.0", "sweep.sampler.name=RandomSampler",
            f"hydra.sweep.dir={sweep}",
        ]  # fmt: skip

    def result(self, folder: Path) -> dict[str, Any]:
        found = {}
        for number, (state, params, value) in self.trials(folder).items():
            found[f"trial {number}"] = (state, params, value)
            if state == "COMPLETE":
                found |= {f"trial {number} {k}": v for k, v in of_run(folder / f"sweep/{number}").items()}
        return found

    def trials(self, folder: Path) -> dict[int, tuple[str, dict[str, Any], float | None]]:
        import optuna

        from stockenh.commands.sweep.spec import SweepConfig
        from stockenh.commands.sweep.study import open_storage

        study = optuna.load_study(
            study_name="stockenh", storage=open_storage(SweepConfig(), folder / "sweep")
        )
        return {t.number: (t.state.name, dict(t.params), t.value) for t in study.get_trials()}

    def differences(self, whole: Path, folder: Path) -> list[str]:
        """A trial that ran when its worker was killed is closed as failed, as docs/sweeps.md says."""
        trials = self.trials(folder)
        lost = {f"trial {n}" for n, (state, _, _) in trials.items() if state == "FAIL"}
        found = super().differences(whole, folder)
        if len(trials) != 5 or (len(lost) < 5 and not (folder / "sweep" / "best.yaml").exists()):
            found.append(f"{len(trials)} trials, best.yaml")
        return [key for key in found if " ".join(key.split()[:2]) not in lost]


class Ablate(Scenario):
    """Two recipes and the cost cell, whose processes that measure memory are left out."""

    name = "ablate"
    first = ALONE + (
        "import stockenh.commands.ablate.perform as perform\nperform.training_memory = lambda *_: 1000\n"
    )

    def command(self, folder: Path) -> list[str]:
        ablation = folder / "ablation"
        if (ablation / "about.json").exists():
            return ["ablate", f"resume={ablation}"]
        return [
            "ablate", "ablate=quick", *SMALL, "ablate.only=[ema,focal]", "ablate.leave_one_out=false",
            "ablate.seeds=[1,2]", "ablate.n_workers=1", "ablate.rounds=3", f"hydra.sweep.dir={ablation}",
        ]  # fmt: skip

    def result(self, folder: Path) -> dict[str, Any]:
        ablation = folder / "ablation"
        cells = {str(p.parent.relative_to(ablation)): p for p in sorted(ablation.rglob("cell.json"))}
        found: dict[str, Any] = {
            f"{cell} state": json.loads(p.read_text())["state"] for cell, p in cells.items()
        }
        for cell in cells:
            if (ablation / cell / "summary.json").exists():
                found |= {f"{cell} {k}": v for k, v in of_run(ablation / cell).items()}
        lines = json.loads((ablation / "ablation.json").read_text())["lines"]
        accuracy = {line["name"]: line["differences"].get("h5", {}).get("accuracy") for line in lines}
        return found | {"table": accuracy}


class Cache(Scenario):
    """A run whose bars, features and embedding are read, computed and kept anew."""

    name = "cache"
    first = ALONE + "import stockenh.embedding.compute as compute\ncompute.SAVE_SECONDS = 0.02\n"

    def prepare(self) -> None:
        self.bars = self.shared / "bars"
        self.bars.mkdir()
        for number in range(12):
            write_bars(self.bars / f"S{number:02d}.csv", seed=number, bars=900)

    def command(self, folder: Path) -> list[str]:
        run = folder / "run"
        if (run / "config.yaml").exists():
            return ["train", f"resume={run}"]
        data = ["data=files", f"data.path={self.bars}", "embedding.width=512", "model.patch=20"]
        return ["train", *MODEL, *data, "train.epochs=1", "train.batch_size=1024", f"hydra.run.dir={run}"]

    def result(self, folder: Path) -> dict[str, Any]:
        cache = folder / "cache"
        files = [p for p in sorted(cache.rglob("*")) if p.is_file() and not p.name.endswith(".lock")]
        kept = {f"cache {p.relative_to(cache)}": digest(p) for p in files}
        return kept | of_run(folder / "run")


SCENARIOS: tuple[type[Scenario], ...] = (Train, Cache, Distill, Sweep, Ablate)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def untimed(value: Any) -> Any:
    """A JSON value without what it took, and without where it lies."""
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if "second" not in k}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def of_run(run: Path) -> dict[str, Any]:
    """Weights to the last bit, and all figures of a finished run."""
    found: dict[str, Any] = {path.name: digest(path) for path in sorted((run / "weights").iterdir())}
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return found | {
        "metrics": [untimed(json.loads(line)) for line in lines],
        "summary": untimed(json.loads((run / "summary.json").read_text())),
        "calibration": json.loads((run / "calibration.json").read_text()),
    }


def leftovers(folder: Path) -> list[Path]:
    """What a killed process has left and nothing has removed since."""
    return [p for p in sorted(folder.rglob(".*")) if ".part" in p.name]


def progress(folder: Path) -> str:
    """How far the command was: epochs of each run, files of the cache."""
    lines = {p: len(p.read_bytes().splitlines()) for p in sorted(folder.rglob("metrics.jsonl"))}
    runs = [f"{path.parent.relative_to(folder)} {count} epochs" for path, count in lines.items()]
    cached = sum(1 for p in (folder / "cache").rglob("*") if p.is_file()) if not runs else 0
    return ", ".join(runs) or (f"{cached} cache files" if cached else "nothing yet")


def wait(process: processes.Process, seconds: float) -> bool:
    """Whether the process ended by itself within that time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            return True
        time.sleep(0.005)
    return process.poll() is not None


def kill(process: processes.Process) -> None:
    """Ends a command and all of its session's processes, as a machine that loses power would."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # so early that it has no group of its own yet
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


class Killer:
    """Rounds of kills and comparisons, each with a line of its own."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.kills = self.rounds = 0
        self.failures: list[str] = []
        self._whole: dict[type[Scenario], tuple[Scenario, Path, float]] = {}

    def uninterrupted(self, kind: type[Scenario]) -> tuple[Scenario, Path, float]:
        """The scenario, the folder of its uninterrupted command, and the seconds that this took."""
        if kind not in self._whole:
            whole = self.folder / kind.name / "whole"
            (shared := self.folder / kind.name / "shared").mkdir(parents=True)
            whole.mkdir()
            scenario = kind(shared)
            processes.run("--version")  # starts what all processes are forked from
            began = time.monotonic()
            self.finish(scenario, whole)
            self._whole[kind] = scenario, whole, time.monotonic() - began
            self.say(f"{kind.name}: uninterrupted in {self._whole[kind][2]:.1f} s")
        return self._whole[kind]

    def round(self, kind: type[Scenario], most: int) -> None:
        """Kills a command up to `most` times, resumes it to its end, and compares."""
        scenario, whole, seconds = self.uninterrupted(kind)
        self.rounds += 1
        folder = self.folder / kind.name / str(self.rounds)
        folder.mkdir()
        for _ in range(min(most, self.random.randint(1, MOST_IN_A_ROW))):
            moment = self.random.uniform(0, seconds)
            process = scenario.start(folder)
            if wait(process, moment):
                self.require_success(process, f"{kind.name} round {self.rounds}")
                break
            kill(process)
            self.kills += 1
            after = f"after {moment:.2f} of {seconds:.1f} s, at: {progress(folder)}"
            self.say(f"kill {self.kills}: {kind.name} round {self.rounds} {after}")
        try:
            self.finish(scenario, folder)
            found = scenario.differences(whole, folder)
        except (AssertionError, OSError, ValueError, KeyError) as error:
            found = [f"{type(error).__name__}: {error}"]
        self.say(f"round {self.rounds}: {kind.name} {'DIFFERS: ' + '; '.join(found) if found else 'same'}")
        if found:
            self.failures.append(f"{kind.name} round {self.rounds}: {found}")
        else:
            shutil.rmtree(folder)

    def finish(self, scenario: Scenario, folder: Path) -> None:
        process = scenario.start(folder)
        self.require_success(process, folder.name)

    @staticmethod
    def require_success(process: processes.Process, what: str) -> None:
        out, err = process.communicate()
        assert process.returncode == 0, f"{what} ended with {process.returncode}: {out[-500:]}{err[-2000:]}"

    @staticmethod
    def say(line: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="must not exist yet")
    parser.add_argument("--only", choices=[kind.name for kind in SCENARIOS], action="append")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True)
    killer = Killer(given.folder, given.seed)
    kinds = [kind for kind in SCENARIOS if not given.only or kind.name in given.only]
    while killer.kills < given.kills:
        killer.round(kinds[killer.rounds % len(kinds)], given.kills - killer.kills)
    killer.say(f"{killer.kills} kills, {killer.rounds} rounds, {len(killer.failures)} differ")
    for failure in killer.failures:
        killer.say(failure)
    return int(bool(killer.failures))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
