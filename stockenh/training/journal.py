"""Writes a run down in its folder as it goes, so that a kill at any moment breaks nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from stockenh.errors import RunFolderError
from stockenh.runfolder import RunFolder
from stockenh.training import checkpoint
from stockenh.training.learner import Learner
from stockenh.training.loop import Metrics, State

log = logging.getLogger(__name__)


@dataclass
class FolderJournal:
    """`last` holds all that a resume needs, the best weights included; `best` is for whoever wants those."""

    folder: RunFolder
    learner: Learner
    best_weights: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def best(self, name: str, state: State) -> None:
        weights = self.learner.averages.named(self.learner.model)[name].state_dict()
        self.best_weights[name] = {k: v.detach().cpu().clone() for k, v in weights.items()}
        checkpoint.save(self.folder.best, {"weights": self.best_weights, "best": state.to_dict()["best"]})

    def epoch(self, line: Metrics, state: State) -> None:
        self.folder.append_metrics(line)
        self.pause(state)
        log.info(
            "epoch %d: train loss %.5f, validation loss %s, %.0f windows/s, %d steps skipped so far%s",
            line["epoch"],
            line["train_loss"],
            "none" if line["val_loss"] is None else f"{line['val_loss']:.5f}",
            line["windows_per_second"],
            line["skipped"],
            ", best so far" if line["best"] else "",
        )

    def pause(self, state: State) -> None:
        content: dict[str, Any] = {
            "state": state.to_dict(),
            "learner": self.learner.checkpoint(),
            "rng": checkpoint.rng_state(),
            "best_weights": self.best_weights,
        }
        checkpoint.save(self.folder.last, content)

    def take_up(self) -> State:
        """The state of the last checkpoint, everything put back; a fresh one where there is none.

        Raises RunFolderError where the checkpoint is damaged, hostile or of another model.
        """
        if not self.folder.last.exists():
            self.folder.rewind_metrics(0)
            return State()
        content = checkpoint.load(self.folder.last)
        try:
            self.learner.restore(content["learner"])
            state = State.from_dict(content["state"])
            self.best_weights.update(content["best_weights"])
            checkpoint.set_rng_state(content["rng"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            why = (str(error).splitlines() or [""])[0]
            raise RunFolderError(f"{self.folder.last} does not fit the run's config: {why}") from None
        self.folder.rewind_metrics(state.epoch)
        return state
