"""Weights & Biases: its server, or files for `wandb sync`. See https://docs.wandb.ai."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stockenh.report.trackers import Description, Figures, Result, Sent, Tracker, TrackerSettings, environment

Mode = Literal["online", "offline"]
# Read as the package starts: it sends its own errors nowhere, and prints nothing.
ENVIRONMENT = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}
INIT_SECONDS = 8.0  # beside the training, but a short run waits for it
LONGEST_TAG, LONGEST_NAME, LONGEST_PARAM = 64, 128, 5000
EXIT_CODES = {"FINISHED": 0, "FAILED": 1, "KILLED": 130}


@dataclass(frozen=True)
class WandbTracker(TrackerSettings):
    """Where the runs are kept. mode: None: $WANDB_MODE, or online; dir: None: $WANDB_DIR, or the current
    folder, below which `wandb/` is made."""

    name = package = "wandb"

    project: str = "stockenh"
    entity: str | None = None
    mode: Mode | None = None
    dir: str | None = None

    def open(self) -> Tracker:
        of_machine: Mode = "offline" if os.environ.get("WANDB_MODE") == "offline" else "online"
        mode = self.mode or of_machine
        root = Path(self.dir or os.environ.get("WANDB_DIR") or ".").expanduser().absolute()
        return _WandbRun(self.project, self.entity, mode, root)


class _WandbRun:
    """One run, beside others of the same process. Console, code, host and command line are not sent."""

    def __init__(self, project: str, entity: str | None, mode: Mode, root: Path) -> None:
        self.project, self.entity, self.mode, self.root = project, entity, mode, root
        self.run: Any = None
        self.wandb: Any = None

    def start(self, run: Description, sent: Sent) -> Sent:
        with environment(ENVIRONMENT):
            return self._start(run, sent)

    def _start(self, run: Description, sent: Sent) -> Sent:
        import wandb

        self.wandb = wandb
        # an offline run can't be asked what it has; its files say whether this machine wrote any
        known = sent if any(self.root.glob(f"wandb/*run-*-{run.id}")) else Sent()
        if known.status is not None and not run.is_live:
            return known
        self._require_login()
        self.root.mkdir(parents=True, exist_ok=True)
        group = run if run.groups else run.parent
        self.run = wandb.init(
            project=self.project, entity=self.entity, dir=str(self.root), id=run.id, resume="allow",
            name=run.name[-LONGEST_NAME:], job_type=run.kind, reinit="create_new",
            group=None if group is None else group.name[-LONGEST_NAME:],
            config={k: v[:LONGEST_PARAM] for k, v in run.params.items()} | dict(run.tags),
            tags=[v[:LONGEST_TAG] for v in run.tags.values() if v],
            settings=wandb.Settings(
                mode=self.mode, silent=True, console="off", disable_code=True, disable_git=True,
                disable_job_creation=True, x_disable_stats=True, x_disable_meta=True,
                x_save_requirements=False, init_timeout=INIT_SECONDS, login_timeout=1,
            ),
        )  # fmt: skip
        return Sent(max(known.epoch, int(self.run.summary.get("epoch") or 0)), known.status)

    def _require_login(self) -> None:
        """Raises RuntimeError where the package would ask for a key on the terminal."""
        if self.mode == "online" and not self.wandb.login(prompt=False, verify=False):
            raise RuntimeError("there is no API key: run wandb login, or take tracker.mode=offline")

    def log(self, epoch: int, figures: Figures, at: float) -> None:
        self.run.log(figures, step=epoch)

    def finish(self, result: Result) -> None:
        pictures = {f"report/{p.stem}": self.wandb.Image(str(p)) for p in result.files if p.suffix == ".png"}
        if pictures:
            self.run.log(pictures)
        for page in (p for p in result.files if p.suffix == ".html"):
            self.run.save(str(page), base_path=str(page.parent), policy="now")
        self.run.summary.update({**result.figures, "status": result.status, "pruned": result.is_pruned})
        self.run.finish(exit_code=EXIT_CODES[result.status])
