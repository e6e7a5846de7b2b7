"""What the cells of an ablation left in their folders.

Everything here is read from files, so that the table can be made again from the folder alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stockenh.commands.ablate.cells import DONE, AblationFolder
from stockenh.commands.ablate.forecasts import VIEWS, PartShares, Shares, read_test_part
from stockenh.commands.ablate.plan import PLAIN, Cell, Plan, Row
from stockenh.errors import RunFolderError
from stockenh.evaluation.bootstrap import Resampling
from stockenh.storage.run_folder import RunFolder


@dataclass(frozen=True)
class SeedFigures:
    """One run of a recipe.

    test:        its scores of the test part
    curve:       the validation loss by epoch, of the weights that were best then
    averaged:    the same of the EMA weights, where there are none of the raw ones
    weights:     which validation chose
    epochs:      trained in all, the trials of a search together
    """

    test: PartShares
    curve: tuple[float, ...] = ()
    averaged: tuple[float, ...] = ()
    weights: str = "raw"
    epochs: int = 0

    def of(self, row: Row) -> Shares | None:
        """The scores of what a row judges: with noisy views, of weights of its own, or of those chosen."""
        return self.test.shares.get(VIEWS if row.views else row.weights or self.weights)


@dataclass(frozen=True)
class Found:
    """All figures of an ablation: runs by recipe and seed, and what the recipes cost.

    block: dates whose labels overlap, for intervals
    """

    runs: Mapping[tuple[str, int], SeedFigures]
    cost: Mapping[str, Any]
    failed: Mapping[str, str]
    block: int

    def seeds(self, row: Row) -> list[int]:
        """The seeds that both a row and the plain recipe have."""
        mine = [seed for (recipe, seed), run in self.runs.items() if recipe == row.recipe and run.of(row)]
        return sorted(seed for seed in mine if (PLAIN, seed) in self.runs)

    def shares(self, row: Row, seed: int) -> Shares:
        """A row's scores with one seed."""
        return self.runs[row.recipe, seed].of(row) or {}

    def plain(self, seed: int) -> Shares:
        run = self.runs[PLAIN, seed]
        return run.test.shares.get(run.weights, {})


def collect(folder: AblationFolder, plan: Plan, horizons: Sequence[int]) -> Found:
    """Reads every cell that is done. Raises RunFolderError where its files are damaged.

    A run whose test rows are others than those of the first plain run can't be paired, and counts as failed.
    """
    runs: dict[tuple[str, int], SeedFigures] = {}
    cost: Mapping[str, Any] = {}
    failed: dict[str, str] = {}
    first = ""
    for cell in plan.cells:
        state = folder.state(cell)
        if state and state["state"] != DONE:
            failed[cell.path] = str(state["why"])
        elif state and cell.recipe is None:
            cost = state["figures"]
        elif state and cell.recipe is not None and cell.seed is not None:
            try:
                run = _of_run(folder, cell, state["figures"], horizons)
            except KeyError as error:
                raise RunFolderError(f"{cell.path} of {folder.path} lacks {error}") from None
            first = first or run.test.rows
            if run.test.rows == first:
                runs[cell.recipe.name, cell.seed] = run
            else:
                failed[cell.path] = "its test rows are not those of the plain recipe, so it can't be paired"
    return Found(runs, cost, failed, Resampling().block_of(horizons))


def _of_run(
    folder: AblationFolder, cell: Cell, figures: Mapping[str, Any], horizons: Sequence[int]
) -> SeedFigures:
    assert cell.recipe is not None
    run: RunFolder = folder.run(cell)
    test, weights = read_test_part(run, horizons), figures["weights"]
    if weights not in test.shares:
        raise RunFolderError(f"{folder.forecasts(cell)} has no forecasts of the {weights} weights")
    if cell.recipe.kind == "search":
        return SeedFigures(test, weights=weights, epochs=figures["epochs"])
    history = run.read_metrics()
    averaged = [line["by_weights"].get("ema", line["by_weights"]["raw"])["loss"] for line in history]
    return SeedFigures(
        test=test,
        curve=tuple(loss for line in history if (loss := line["val_loss"]) is not None),
        averaged=tuple(loss for loss in averaged if loss is not None),
        weights=weights,
        epochs=run.read_summary()["epochs"],
    )
