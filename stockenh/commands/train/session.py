"""The parts of a run: config, folder and data, the weights that it starts with, and a teacher's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from stockenh.commands.ensembles import member_folders, opened
from stockenh.commands.trained import Trained, shifts_probabilities
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.schema import Kind, RunConfig, config_of
from stockenh.data.batches import ReadyWindows, TeacherOutput
from stockenh.data.fitted import Fitted, categories
from stockenh.data.windows import BarWindows, next_returns
from stockenh.errors import RunFolderError
from stockenh.evaluation.bootstrap import Resampling
from stockenh.evaluation.ic import PANEL_SYMBOLS, best_rank_ic, daily_ic, ic_figures
from stockenh.evaluation.metrics import part_metrics, with_limits
from stockenh.evaluation.portfolio import rank_weighted_returns
from stockenh.inference.calibration import held_out_log_losses
from stockenh.inference.predict import Forecast, Predictions, predict
from stockenh.models.cpu.memory import default_threads, threads
from stockenh.report.terminal import print_line
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file
from stockenh.training.checkpoint import unchanged_rng
from stockenh.training.precision import resolve
from stockenh.training.step import Objective

UNCALIBRATED = "loss_uncalibrated"


def resolved(config: Kind, net: nn.Module, device: torch.device) -> Kind:
    """The config with precision and threads decided, so that a resumed run computes the same."""
    precision = resolve(config.train.precision, device, net)
    threads = config.threads or default_threads(net)
    return replace(config, threads=threads, train=replace(config.train, precision=precision))


@dataclass(frozen=True)
class Session:
    """What a run works with: its config, folder and data, ready on its device."""

    config: RunConfig
    folder: RunFolder
    prepared: Prepared
    fitted: Fitted
    ready: ReadyWindows
    device: torch.device
    precision: str

    def forecast(self, net: nn.Module, part: str, objective: Objective | None = None) -> Predictions:
        """The model's predictions for one part."""
        return predict(net, self.ready, self.prepared.rows[part], self.fitted, objective)

    def validation(self, net: nn.Module, objective: Objective, calibrated: bool = False) -> dict[str, Any]:
        """{"loss": ..., "h3": {...}, ...}; the loss is None where the split has no validation part.

        calibrated: the loss is that of probabilities calibrated on other dates of the validation part, and
        `loss_uncalibrated` that of the model's own. The scores of a horizon have its mean daily `rank_ic`.
        """
        if "val" not in self.prepared.rows:
            return {"loss": None}
        forecast = self.forecast(net, "val", objective)
        losses = {"loss": forecast.loss}
        if calibrated and forecast.loss is not None and math.isfinite(forecast.loss):
            windows, asof = self.prepared.windows, self.prepared.windows.asof[self.prepared.rows["val"]]
            before, after = held_out_log_losses(
                forecast.up_logits, self.directions("val"), asof, windows.horizons
            )
            losses["loss"] = forecast.loss + objective.loss.direction_weight * (after - before)
            losses[UNCALIBRATED] = forecast.loss
        scores, ics = self.scores(forecast, "val", intervals=False), self._rank_ics(forecast, "val")
        return {**losses, **{h: {**of, **ics[h]} for h, of in scores.items()}}

    def validates_calibrated(self) -> bool:
        """Whether calibrated probabilities decide which epoch is the best: where the loss shifts them.

        The shift changes from epoch to epoch, and calibration undoes it. A run that an earlier version began
        without goes on without: losses of both kinds can't be compared.
        """
        begun = [figures for line in self.folder.read_metrics() for figures in line["by_weights"].values()]
        return shifts_probabilities(self.config, self.folder) and all(
            UNCALIBRATED in figures for figures in begun
        )

    def _rank_ics(
        self, forecast: Predictions | Forecast, part: str, resampling: Resampling | None = None
    ) -> dict[str, dict[str, float | None]]:
        """`rank_ic` of forecasts and simple returns, the mean over days, with `rank_ic_low` and
        `rank_ic_high` where there is a resampling; `limit_rank_ic` where the best possible forecast is known;
        None where no day has one."""
        windows, rows = self.prepared.windows, self.prepared.rows[part]
        found: dict[str, dict[str, float | None]] = {}
        for column, horizon in enumerate(windows.horizons):
            labelled = np.isfinite(windows.y_ret[rows, column])
            days, day = np.unique(windows.asof[rows][labelled], return_inverse=True)
            returns = windows.returns[rows, column][labelled].astype(np.float64)
            daily = {"rank_ic": daily_ic(forecast.ret[labelled, column], returns, day, len(days)).rank_ic}
            if windows.best_score is not None:
                best = windows.best_score[rows][labelled, column]
                daily["limit_rank_ic"] = best_rank_ic(best, returns, day, len(days))
            known = {name: values[np.isfinite(values)] for name, values in daily.items()}
            means = {name: float(values.mean()) if len(values) else None for name, values in known.items()}
            if resampling is not None:
                draws = resampling.draw(len(days), windows.horizons)
                ic = ic_figures(daily["rank_ic"], horizon, draws)
                means |= {"rank_ic_low": ic["low"], "rank_ic_high": ic["high"]}
            found[f"h{horizon}"] = means
        return found

    def daily_returns(self, forecast: Predictions, part: str) -> dict[str, Any] | None:
        """What forecasts of the largest horizon earn from one open to the next, before costs; None without
        bars, or where no day has two symbols."""
        windows, rows = self.prepared.windows, self.prepared.rows[part]
        if not isinstance(windows, BarWindows):
            return None
        days, day = np.unique(windows.asof[rows], return_inverse=True)
        signal, following = forecast.ret[:, -1].astype(np.float64), next_returns(windows, rows, "open")
        returns = rank_weighted_returns(signal, following, day, len(days))
        known = np.isfinite(returns)
        if not known.any():
            return None
        seconds = days[known].astype("datetime64[s]").astype(np.int64)
        earned = returns[known].tolist()
        return {"horizon": windows.horizons[-1], "days": seconds.tolist(), "returns": earned}

    def directions(self, part: str) -> NDArray[np.float32]:
        """(k, H) of one part, whose sign is the direction; NaN where there is no label."""
        return self.prepared.windows.direction[self.prepared.rows[part]]

    def scores(self, forecast: Predictions | Forecast, part: str, intervals: bool = True) -> dict[str, Any]:
        """{"h3": {...}, ...} of one part, with intervals as `evaluate` has them by default.

        With intervals those of five symbols or more have the rank IC, see `_rank_ics`. Where the best
        possible forecast is known, what it would score is beside. A loss of order alone gives forecasts whose
        distance from the labels means nothing.
        """
        rows, windows = self.prepared.rows[part], self.prepared.windows
        resampling = Resampling(seed=self.config.seed) if intervals else None
        scores = part_metrics(
            forecast.ret,
            forecast.up_prob,
            windows.y_ret[rows],
            windows.asof[rows],
            windows.horizons,
            resampling,
            self.directions(part),
        )
        if not self.config.loss.gives_returns:
            scores = {horizon: {**of, "mae": None} for horizon, of in scores.items()}
        if intervals and len(windows.symbols) >= PANEL_SYMBOLS:
            ics = self._rank_ics(forecast, part, resampling)
            scores = {horizon: {**of, **ics[horizon]} for horizon, of in scores.items()}
        if windows.best_prob is None:
            return scores
        return with_limits(scores, windows.best_prob[rows], self.directions(part))


def teacher_origin(config: RunConfig) -> dict[str, Any] | None:
    """The manifest's entry about the teacher; None without one."""
    if config.teacher is None:
        return None
    teacher = opened(config.teacher, config.weights)
    return {**teacher.to_dict(), "shifts_probabilities": teacher.shifts_probabilities}


def teacher_answers(
    config: RunConfig,
    folder: RunFolder,
    prepared: Prepared,
    fitted: Fitted,
    device: torch.device,
    console: Console,
) -> TeacherOutput | None:
    """The teacher's answers for all windows, NaN outside train; None where there is no teacher.

    They are stored in the student's folder, so that it can be resumed or moved without the teacher.
    """
    if config.teacher is None:
        return None
    rows = prepared.rows["train"]
    if not is_file(folder.teacher_output):
        teacher = opened(config.teacher, config.weights)
        print_line(
            console, f"teacher  {teacher.name} weights of {teacher.source} answer {len(rows):,} windows"
        )
        # building a network draws from the random state that the student's training starts from
        with unchanged_rng(device):
            given = teacher_predictions(config, teacher, prepared, rows, device)
        folder.write_tensors(
            folder.teacher_output,
            {
                "rows": torch.from_numpy(rows),
                "ret": torch.from_numpy(given.ret.astype(np.float32)),
                "up_logits": torch.from_numpy(given.up_logits.astype(np.float32)),
            },
        )
    kept = _read(folder, rows, len(prepared.windows.horizons))
    kept["ret"] = kept["ret"] / torch.tensor(fitted.return_std)
    full = torch.full((2, len(prepared.windows), kept["ret"].shape[1]), torch.nan)
    full[:, kept["rows"]] = torch.stack([kept["ret"].float(), kept["up_logits"].float()])
    ret, up_logits = full.to(device)
    return TeacherOutput(ret, up_logits)


def teacher_predictions(
    config: RunConfig, teacher: Trained, prepared: Prepared, rows: np.ndarray, device: torch.device
) -> Predictions:
    """A run's predictions for these windows, in fp32 and evaluation mode, with its own statistics and its own
    embedding. Raises ConfigError where its inputs or labels are not those of the config."""
    teacher.require_inputs(config, "teacher")
    teacher.require_embedding(teacher.run.embedding)
    prepared = prepared_for(config, teacher, prepared, device)
    net = teacher.net(prepared, device)
    ready, fitted = teacher.ready(prepared, device)
    with threads(config.threads or default_threads(net)):
        return predict(net, ready, rows, fitted)


def prepared_for(config: RunConfig, other: Trained, prepared: Prepared, device: torch.device) -> Prepared:
    """The prepared data of a config with the embedding of another run."""
    if config.embedding.agrees_with(other.run.embedding):
        return prepared
    return build.data(replace(config, embedding=other.run.embedding, model=other.run.model), device)


def _read(folder: RunFolder, rows: np.ndarray, horizons: int) -> dict[str, Tensor]:
    kept = folder.read_tensors(folder.teacher_output)
    shape = (len(rows), horizons)
    if (
        set(kept) != {"rows", "ret", "up_logits"}
        or any(kept[name].shape != shape or not kept[name].isfinite().all() for name in ("ret", "up_logits"))
        or not torch.equal(kept["rows"], torch.from_numpy(rows))
    ):
        raise RunFolderError(
            f"{folder.teacher_output} does not hold the teacher's answers to this run's windows"
        )
    return kept


def initial_weights(init_from: str | None, weights: str | None, folder: RunFolder | None) -> Trained | None:
    """The weights that a run starts with; None: fresh ones, or those of its own checkpoint.

    weights: their name; None: those that were chosen when their run was finished. folder: of the run, None
    where it is not made yet. Raises RunFolderError where the source is missing, not finished, without such
    weights, or has changed since the run first started.
    """
    if init_from is None or (folder is not None and is_file(folder.last)):
        return None
    known = _recorded(folder) if folder is not None else {}
    try:
        try:
            source = RunFolder.open(Path(init_from))
        except RunFolderError as error:
            raise RunFolderError(f"init_from={error}") from None
        if is_file(source.config) and (members := member_folders(source, config_of(source))):
            raise RunFolderError(
                f"init_from={source} is an ensemble: name one of its members, such as {members[0]}"
            )
        if not is_file(source.summary):
            raise RunFolderError(f"init_from={source}: the run is not finished, so it has no weights yet")
        start = Trained.open(source, known.get("weights", weights))
    except RunFolderError as error:
        if not known:
            raise
        raise RunFolderError(
            f"{folder} stopped before its first checkpoint and would start again. {error}"
        ) from None
    if known and known != start.to_dict():
        raise RunFolderError(
            f"init_from={init_from} has changed since {folder} started, which has no checkpoint yet: train a "
            f"new run"
        )
    return start


def load_initial(start: Trained, net: nn.Module, prepared: Prepared) -> None:
    """Sets a model's weights. Raises RunFolderError where names, shapes, features or categories differ."""
    known = build.fitted_of(start.folder, prepared).categories
    if known != categories(prepared.windows, prepared.rows["train"]):
        raise RunFolderError(
            f"init_from={start.folder}: its train part has other categories ({', '.join(known)}), whose "
            f"embeddings would be mistaken for each other"
        )
    tensors = start.folder.read_weights(start.name)
    here, there = (
        {name: "x".join(map(str, tensor.shape)) or "a number" for name, tensor in of_model.items()}
        for of_model in (net.state_dict(), tensors)
    )
    for name in sorted(here.keys() | there.keys()):
        own, other = here.get(name, "missing"), there.get(name, "missing")
        if own != other:
            raise RunFolderError(
                f"init_from={start.folder}: its {start.name} weights are another model's: {name} is {other} "
                f"there and {own} in this run"
            )
    net.load_state_dict(tensors)


def _recorded(folder: RunFolder) -> dict[str, Any]:
    """The manifest's entry about the initial weights; empty where there is none."""
    known = folder.read_manifest().get("init_from") if is_file(folder.manifest) else None
    return dict(known) if known is not None else {}
