"""MLflow: a database on this machine, or a tracking server. See https://mlflow.org/docs/latest/tracking."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stockenh.report.trackers import Description, Figures, Result, Sent, Tracker, TrackerSettings, environment
from stockenh.report.trackers.record import lock_of

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE = "sqlite:///"
ID, PARENT = "stockenh.id", "mlflow.parentRunId"
MOST_PARAMS, MOST_METRICS = 100, 500  # of one request
LONGEST_KEY, LONGEST_PARAM, LONGEST_TAG = 250, 6000, 5000  # older servers allow no longer tags
RUNNING = "RUNNING"
# How long a server may take, and what the package does besides; a user's own values come first.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
}
T = TypeVar("T")


@dataclass(frozen=True)
class MlflowTracker(TrackerSettings):
    """Where the runs are kept. uri: None: $MLFLOW_TRACKING_URI, or mlflow.db in the current folder."""

    name = package = "mlflow"

    uri: str | None = None
    experiment: str = "stockenh"

    def open(self) -> Tracker:
        return _MlflowRun(self.uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI, self.experiment)


class _MlflowRun:
    """One run, by its id at the store: nothing of MLflow's global state is touched."""

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri, self.experiment = uri, experiment
        self.store: Path | None = None  # the folder of a database on this machine
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE)).expanduser().absolute()
            self.uri, self.store = f"{SQLITE}{database}", database.parent
        self.client: Any = None
        self.run_id = self.parent_id = ""
        self.follows = False
        self.known: Mapping[str, float] = {}

    def start(self, run: Description, sent: Sent) -> Sent:
        with environment(ENVIRONMENT):
            from mlflow.tracking import MlflowClient

            if self.store is not None:
                self.store.mkdir(parents=True, exist_ok=True)
            self.client = MlflowClient(tracking_uri=self.uri)
            if run.parent is not None:
                self.parent_id = self._find_or_make(run.parent, "").info.run_id
                self.follows = run.parent.follows_its_runs
            found = self._find_or_make(run, self.parent_id)
            self.run_id, self.known = found.info.run_id, found.data.metrics
            self._describe(run, found)
            if run.is_live:
                for run_id in self._own():
                    self.client.update_run(run_id, status=RUNNING)
            ended = None if found.info.status == RUNNING else found.info.status
            return Sent(int(self.known.get("epoch", 0)), ended)

    def _find_or_make(self, run: Description, parent_id: str) -> Any:
        with lock_of(run.folder) if run.groups else nullcontext():  # its runs may begin at the same time
            experiment = self._experiment()
            if found := self.client.search_runs([experiment], f"tags.`{ID}` = '{run.id}'", max_results=1):
                return found[0]
            tags = {ID: run.id, **({PARENT: parent_id} if parent_id else {}), **_cut(run.tags)}
            started = int(1000 * run.started)
            return self.client.create_run(experiment, start_time=started, tags=tags, run_name=run.name)

    def _own(self) -> list[str]:
        """The runs whose state is this run's."""
        return [self.run_id, *([self.parent_id] if self.follows else [])]

    def _experiment(self) -> str:
        if (found := self.client.get_experiment_by_name(self.experiment)) is not None:
            return str(found.experiment_id)
        # beside the database: else it would be below the folder that a command happens to run in
        place = None if self.store is None else (self.store / "mlruns" / self.experiment).as_uri()
        return str(self.client.create_experiment(self.experiment, artifact_location=place))

    def _describe(self, run: Description, found: Any) -> None:
        """Sends tags and settings. One that was sent before keeps its value: MLflow changes none."""
        from mlflow.entities import Param, RunTag

        tags = [RunTag(k, v) for k, v in _cut(run.tags).items() if found.data.tags.get(k) != v]
        named = {_plain(k): v[:LONGEST_PARAM] for k, v in run.params.items()}
        params = [Param(k, v) for k, v in named.items() if k not in found.data.params]
        self.client.log_batch(self.run_id, tags=tags)
        for some in _portions(params, MOST_PARAMS):
            self.client.log_batch(self.run_id, params=some)

    def log(self, epoch: int, figures: Figures, at: float) -> None:
        with environment(ENVIRONMENT):
            self._log(epoch, figures, at)

    def _log(self, epoch: int, figures: Mapping[str, float], at: float) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(_plain(k), v, int(1000 * at), epoch) for k, v in figures.items()]
        for some in _portions(metrics, MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=some)

    def finish(self, result: Result) -> None:
        with environment(ENVIRONMENT):
            new = {k: v for k, v in result.figures.items() if self.known.get(_plain(k)) != v}
            self._log(result.epoch, new, result.ended)
            for file in result.files:
                self.client.log_artifact(self.run_id, str(file), "report")
            if result.is_pruned:
                self.client.set_tag(self.run_id, "stockenh.pruned", "true")
            for run_id in self._own():
                self.client.set_terminated(run_id, result.status, end_time=int(1000 * result.ended))


def _plain(key: str) -> str:
    """A key as MLflow allows it: like a relative path that leads nowhere else, of few kinds of characters."""
    parts = re.sub(r"[^\w\-. :/]", "_", key)[:LONGEST_KEY].split("/")
    return "/".join(part for part in parts if part.strip(".")) or "_"


def _cut(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:LONGEST_TAG] for key, value in tags.items()}


def _portions(values: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(values), size):
        yield values[begin : begin + size]
