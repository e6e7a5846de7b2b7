"""One set of a finished run's weights, read from its folder without trusting it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from stockenh import build
from stockenh.analysis.calibration import Calibration, read_calibrations
from stockenh.build import Prepared
from stockenh.config import RunConfig, config_of
from stockenh.data.batches import ReadyWindows
from stockenh.data.fitted import Fitted
from stockenh.errors import ConfigError, RunFolderError
from stockenh.runfolder import RunFolder

# What the inputs and outputs of a model are made by, besides its embedding.
INPUT_KEYS = ("horizons", "lookback", "timeframes")


@dataclass(frozen=True)
class Trained:
    """Named weights, the config that they were trained with, and what was fitted for them."""

    run: RunConfig
    folder: RunFolder
    name: str
    calibration: Calibration
    held_out: bool  # whether there was a validation part to fit the calibration on

    @classmethod
    def open(cls, folder: RunFolder, name: str | None) -> Trained:
        """The weights called `name`, or those that the run chose. Raises RunFolderError."""
        folder.require_finished()
        run = config_of(folder)
        chosen = folder.chosen_weights(name)
        horizons = len(run.data.horizons)
        calibrations = read_calibrations(folder.read_json(folder.calibration), horizons)
        if "val" not in run.split.parts:
            return cls(run, folder, chosen, Calibration.identity(horizons), held_out=False)
        if chosen not in calibrations:
            raise RunFolderError(f"{folder.calibration} says nothing of the {chosen} weights")
        return cls(run, folder, chosen, calibrations[chosen], held_out=True)

    def require_inputs(self, config: RunConfig, key: str, groups: tuple[str, ...] = ()) -> None:
        """Raises ConfigError where a config makes other inputs or labels than these weights know, or where
        one of the groups is another than the run's. key: what names this run on the command line."""
        for name in INPUT_KEYS:
            asked, known = (getattr(c.data, name, None) for c in (config, self.run))
            if asked is not None and known is not None and asked != known:
                raise ConfigError(
                    f"data.{name}={asked}: {key}={self.folder} was trained with {known}; "
                    f"train another run for these"
                )
        same = {
            "model": config.model == self.run.model,
            "embedding": config.embedding.agrees_with(self.run.embedding),
        }
        for group in groups:
            if not same[group]:
                raise ConfigError(f"{group} can't be other than that of {key}={self.folder}: leave it out")

    def net(self, prepared: Prepared, on: torch.device) -> nn.Module:
        """The model with these weights, in evaluation mode."""
        return build.trained_model(self.run, prepared, self.folder, self.name, on)

    def ready(self, prepared: Prepared, on: torch.device) -> tuple[ReadyWindows, Fitted]:
        """The windows ready for a device, standardised by the run's own statistics, and these."""
        fitted = build.fitted_of(self.folder, prepared)
        holding = build.holding(self.run, prepared, on)
        return holding.hold(prepared.windows, prepared.embedding, fitted, on), fitted

    def to_dict(self) -> dict[str, str]:
        """What a manifest says of it."""
        content = self.folder.weights(self.name).read_bytes()
        return {
            "run": str(self.folder.path.absolute()),
            "weights": self.name,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
