"""Several finished runs as one forecaster: those of run=[RUN,RUN], or the members of one run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from stockenh.commands.trained import Trained
from stockenh.config import build
from stockenh.config.build import Prepared
from stockenh.config.overrides import join_paths, split_paths
from stockenh.config.schema import RunConfig, config_of
from stockenh.embedding import Embedding
from stockenh.errors import ConfigError
from stockenh.inference.calibration import Calibration, read_calibrations
from stockenh.inference.conformal import Conformal, read_conformals
from stockenh.inference.ensemble import Ensemble
from stockenh.inference.predict import Confidence, read_confidences
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

NAME = "ensemble"  # in place of the name of weights


def opened(runs: str, weights: str | None) -> Trained:
    """The finished run that `run=` or `teacher=` names, or all of [RUN,RUN] as one. Raises RunFolderError,
    and ConfigError where they don't forecast the same from the same."""
    folders = [RunFolder.open(Path(path)) for path in split_paths(runs)]
    each = [_open(folder, weights) for folder in folders]
    return each[0] if len(each) == 1 else together(each)


def together(runs: Sequence[Trained]) -> Trained:
    """Opened runs as one; the members of ensembles among them count as runs of their own."""
    members = [
        member for run in runs for member in (run.members if isinstance(run, TrainedEnsemble) else (run,))
    ]
    return members[0] if len(members) == 1 else TrainedEnsemble.of(members)


def member_folders(folder: RunFolder, config: RunConfig) -> list[RunFolder]:
    """Where the members of a run are, whether they are there yet or not; none of a single run."""
    count = config.train.members
    seeds = range(config.seed, config.seed + count) if count > 1 else ()
    return [RunFolder(folder.path / "members" / str(seed)) for seed in seeds]


def _open(folder: RunFolder, weights: str | None) -> Trained:
    folder.require_finished()
    config = config_of(folder)
    inner = member_folders(folder, config)
    if not inner:
        return Trained.open(folder, weights)
    found = TrainedEnsemble.of([Trained.open(RunFolder.open(member.path), weights) for member in inner])
    if weights is not None:  # calibrated are the weights that the members chose
        return replace(found, home=folder)
    kept = read_calibrations(folder.read_json(folder.calibration), len(config.data.horizons))
    if NAME not in kept:
        return replace(found, home=folder)
    return replace(found, home=folder, calibration=kept[NAME], held_out=True)


@dataclass(frozen=True)
class TrainedEnsemble(Trained):
    """Runs as one: the mean of their returns and of their calibrated logits, see `Ensemble`.

    run, folder: of the first member; held_out: whether the mean is calibrated on validation once more, which
    only a run folder of its own, `home`, remembers
    """

    members: tuple[Trained, ...] = ()
    home: RunFolder | None = None

    @classmethod
    def of(cls, members: Sequence[Trained]) -> TrainedEnsemble:
        """Raises ConfigError where the runs don't take the same inputs or forecast the same target."""
        first, named = members[0], [member.folder.path.absolute() for member in members]
        for place, other in enumerate(members[1:], 1):
            if named[place] in named[:place]:
                raise ConfigError(f"run={other.folder} is named twice: each member counts once")
            other.require_inputs(first.run, "run", ("embedding",))
            if other.run.loss.gives_returns != first.run.loss.gives_returns:
                raise ConfigError(
                    f"run={other.folder} and run={first.folder}: the returns of one have no size "
                    f"(loss={type(other.run.loss).__name__} and {type(first.run.loss).__name__}), so their "
                    f"mean is no forecast"
                )
        horizons = len(first.run.data.horizons)
        return cls(first.run, first.folder, NAME, Calibration.identity(horizons), False, tuple(members))

    def require_inputs(self, config: RunConfig, key: str, groups: tuple[str, ...] = ()) -> None:
        super().require_inputs(config, key, groups)
        for member in self.members[1:]:
            member.require_inputs(config, key, tuple(group for group in groups if group != "model"))

    def require_embedding(self, embedding: Embedding) -> None:
        for member in self.members:
            member.require_embedding(embedding)

    @property
    def source(self) -> str:
        return str(self.home or join_paths([str(member.folder) for member in self.members]))

    @property
    def title(self) -> str:
        kept = sorted({member.name for member in self.members})
        calibrated = "calibrated" if self.held_out else "each calibrated by itself"
        if not all(member.held_out for member in self.members):
            calibrated = "not all calibrated: a run held nothing out"
        return f"mean of {len(self.members)} members ({', '.join(kept)} weights), {calibrated}"

    @property
    def shifts_probabilities(self) -> bool:
        return any(member.shifts_probabilities for member in self.members)

    @property
    def size(self) -> int:
        return sum(member.size for member in self.members)

    @property
    def exported(self) -> Path | None:
        return self.home.exported if self.home is not None else None

    def confidence(self) -> Confidence | None:
        """Without a folder of its own, the mean of the members'."""
        if self.held_out and self.home is not None:
            horizons = len(self.calibration.temperature)
            return read_confidences(self.home.read_json(self.home.confidence), horizons).get(NAME)
        each = [member.confidence() for member in self.members]
        known = [one.margin for one in each if one is not None]
        if len(known) < len(each):
            return None
        return Confidence(tuple(map(tuple, np.mean(known, 0).tolist())))

    @property
    def quantile_levels(self) -> tuple[float, ...]:
        levels = {member.quantile_levels for member in self.members}
        return levels.pop() if len(levels) == 1 else ()

    def conformal(self) -> Conformal | None:
        """Without a folder of its own, the mean of the members'."""
        if self.held_out and self.home is not None:
            if not is_file(self.home.conformal):
                return None
            horizons = len(self.calibration.temperature)
            return read_conformals(self.home.read_json(self.home.conformal), horizons).get(NAME)
        each = [member.conformal() for member in self.members] if self.quantile_levels else []
        known = [one.widening for one in each if one is not None]
        return Conformal(tuple(np.mean(known, 0).tolist())) if each and len(known) == len(each) else None

    def test_scores(self) -> dict[str, Any]:
        """Of a folder of its own, with the weights that its members chose."""
        if self.home is None or not self.held_out:
            return {}
        return dict(self.home.read_summary()["parts"].get("test", {}))

    def seen_symbols(self) -> set[str] | None:
        """The symbols that any member was trained on; None where one does not say."""
        each = [member.seen_symbols() for member in self.members]
        known = [symbols for symbols in each if symbols is not None]
        return set().union(*known) if len(known) == len(each) else None

    def net(self, prepared: Prepared, device: torch.device) -> nn.Module:
        fitted = [build.fitted_of(member.folder, prepared) for member in self.members]
        for member, own in zip(self.members, fitted, strict=True):
            if own.categories != fitted[0].categories:
                names = ", ".join(own.categories)
                raise ConfigError(
                    f"run={member.folder} and run={self.folder} know other categories ({names}): train them "
                    f"on the same symbols to forecast as one"
                )
        return (
            Ensemble(
                [member.net(prepared, device) for member in self.members],
                fitted,
                [member.calibration for member in self.members],
                has_quantiles=bool(self.quantile_levels),
            )
            .to(device)
            .eval()
        )

    def to_dict(self) -> dict[str, Any]:
        each = [member.to_dict() for member in self.members]
        joint = hashlib.sha256("".join(one["sha256"] for one in each).encode()).hexdigest()
        return {"run": self.source, "weights": NAME, "sha256": joint, "members": each}
