"""What a teacher answers to a student's train windows: asked once, kept in the student's folder.

Legend: k train windows, H horizons.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from stockenh import build
from stockenh.build import Prepared
from stockenh.config import RunConfig
from stockenh.data.batches import Answers
from stockenh.data.fitted import Fitted
from stockenh.errors import RunFolderError
from stockenh.run.provenance import require_same_weights
from stockenh.run.trained import Trained
from stockenh.runfolder import RunFolder
from stockenh.training.predict import Predictions, predict
from stockenh.training.threads import default_threads, threads


def answers(
    config: RunConfig, folder: RunFolder, prepared: Prepared, fitted: Fitted, on: torch.device, out: Console
) -> Answers | None:
    """The teacher's answers for all windows, NaN outside train; None where there is no teacher.

    A resumed or moved student finds them in its own folder and needs its teacher no more.
    """
    if config.teacher is None:
        return None
    rows = prepared.rows["train"]
    if not folder.taught.exists():
        teacher = Trained.open(RunFolder.open(Path(config.teacher)), config.weights)
        out.print(
            f"teacher  {teacher.name} weights of {teacher.folder} answer {len(rows):,} windows",
            soft_wrap=True, markup=False,
        )  # fmt: skip
        # building a network draws from the random state that the student's training starts from
        with torch.random.fork_rng([on] if on.type == "cuda" else []):
            given = ask(config, teacher, prepared, rows, on)
        folder.write_tensors(
            folder.taught,
            {
                "rows": torch.from_numpy(rows),
                "ret": torch.from_numpy(given.ret.astype(np.float32)),
                "up_logits": torch.from_numpy(given.up_logits.astype(np.float32)),
            },
        )
    kept = _read(folder, rows, len(prepared.windows.horizons))
    unit = torch.tensor(fitted.return_std)
    return Answers(
        ret=_spread(kept["ret"] / unit, rows, len(prepared.windows)).to(on),
        up_logits=_spread(kept["up_logits"], rows, len(prepared.windows)).to(on),
    )


def ask(
    config: RunConfig, teacher: Trained, prepared: Prepared, rows: np.ndarray, on: torch.device
) -> Predictions:
    """The teacher's predictions for these windows, in fp32 and evaluation mode, with its own statistics and
    its own embedding. Raises ConfigError where the config makes other labels or inputs than it knows."""
    teacher.require_inputs(config, "teacher")
    require_same_weights(teacher.folder, teacher.run.embedding)
    theirs = prepared
    if not config.embedding.agrees_with(teacher.run.embedding):
        theirs = build.data(replace(config, embedding=teacher.run.embedding, model=teacher.run.model), on)
    net = teacher.net(theirs, on)
    ready, fitted = teacher.ready(theirs, on)
    with threads(config.threads or default_threads(net)):
        return predict(net, ready, rows, fitted)


def _read(folder: RunFolder, rows: np.ndarray, horizons: int) -> dict[str, Tensor]:
    kept = folder.read_tensors(folder.taught)
    shape = (len(rows), horizons)
    if (
        set(kept) != {"rows", "ret", "up_logits"}
        or any(kept[name].shape != shape or not kept[name].isfinite().all() for name in ("ret", "up_logits"))
        or not torch.equal(kept["rows"], torch.from_numpy(rows))
    ):
        raise RunFolderError(f"{folder.taught} does not hold the teacher's answers to this run's windows")
    return kept


def _spread(values: Tensor, rows: np.ndarray, windows: int) -> Tensor:
    full = torch.full((windows, values.shape[1]), torch.nan)
    full[torch.from_numpy(rows)] = values.float()
    return full
