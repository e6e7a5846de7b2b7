"""Pictures of a search, drawn by Optuna: history, course of each trial, parameters, and their importance."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import TrialState

from stockenh.errors import counted
from stockenh.report.figure import GREY, legend_above, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEWEST_FOR_IMPORTANCE = 20  # complete trials; of fewer, importances change with every trial
MOST_NAMED = 8  # trials in a legend


def draw(study: optuna.Study, metric: str, folder: Path, suffix: str = ".png") -> list[Path]:
    """Draws what the trials so far allow, as PNG or SVG by the suffix, and returns the paths written."""
    import matplotlib
    from matplotlib import pyplot

    matplotlib.use("agg")
    complete, missing = len(_values(study)), undrawn(study)
    wanted = {
        "history": complete > 0 and _history,
        "intermediate": "intermediate" not in missing and _intermediate,
        "parallel": complete > 1 and _parallel,
        "importance": "importance" not in missing and _importance,
    }
    for name in missing:  # of a search that was resumed
        (folder / f"{name}.png").unlink(missing_ok=True)
    drawn = []
    for name, picture in wanted.items():
        # Optuna sets a style for all that is drawn afterwards, and warns of axes with one value
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                if picture:
                    path = folder / f"{name}{suffix}"
                    picture(study, metric, path)
                    drawn.append(path)
            except (ValueError, RuntimeError, ZeroDivisionError):
                pass  # no importance where the trials share no parameter
            finally:
                pyplot.close("all")
    return drawn


def undrawn(study: optuna.Study) -> dict[str, str]:
    """The pictures that would show noise or nothing, by name, and why each is left out."""
    missing, values = {}, _values(study)
    if max((len(trial.intermediate_values) for trial in study.trials), default=0) < 2:
        missing["intermediate"] = "no trial has two epochs, so there is no course to draw"
    if len(values) < FEWEST_FOR_IMPORTANCE:
        trials = counted(len(values), "complete trial")
        missing["importance"] = (
            f"{trials} of the {FEWEST_FOR_IMPORTANCE} that importances need, of fewer they are noise"
        )
    elif len(set(values)) < 2:
        missing["importance"] = "all complete trials have the same metric"
    return missing


def _values(study: optuna.Study) -> list[float]:
    """The metrics of the complete trials."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial.value for trial in complete if trial.value is not None]


def _smaller(study: optuna.Study) -> bool:
    """Whether a smaller metric is better."""
    return study.direction == optuna.study.StudyDirection.MINIMIZE


def _history(study: optuna.Study, metric: str, path: Path) -> None:
    """The metric of every complete trial by number, and the best so far."""
    axes = optuna.visualization.matplotlib.plot_optimization_history(study, target_name=metric)
    axes.lines[0].set(drawstyle="steps-post", label="best so far")
    axes.collections[0].set_label("complete trial")
    _bound(axes, _values(study), study)
    axes.set(xlabel="trial", ylabel=f"{metric} on validation")
    _save(axes, "Trials of the search", path)


def _intermediate(study: optuna.Study, metric: str, path: Path) -> None:
    """The metric of every trial by epoch, the best one in black."""
    axes = optuna.visualization.matplotlib.plot_intermediate_values(study)
    best = study.best_trial.number if _values(study) else None
    for line in axes.lines:
        number = int(str(line.get_label()).removeprefix("Trial"))
        line.set_label(f"trial {number}" if len(axes.lines) <= MOST_NAMED else "")
        if number == best:
            line.set(color="black", linewidth=2.2, zorder=4, label=f"trial {number}, the best")
    _bound(axes, [value for trial in study.trials for value in trial.intermediate_values.values()], study)
    axes.set(xlabel="epoch", ylabel=f"{metric} on validation")
    _save(axes, "Every trial by epoch", path)


def _parallel(study: optuna.Study, metric: str, path: Path) -> None:
    """Every complete trial as a line through its values, dark where the metric is good."""
    axes = optuna.visualization.matplotlib.plot_parallel_coordinate(study, target_name=metric)
    lines: Any = axes.collections[0]
    lines.colorbar.remove()
    ranks = np.argsort(np.argsort(lines.get_array()))  # one hopeless trial takes no colour from the others
    pale = 0.3 * len(ranks)
    lines.set(array=ranks, clim=(0, len(ranks) + pale) if _smaller(study) else (-pale, len(ranks)))
    names = sorted(
        {name for trial in study.get_trials(states=(TrialState.COMPLETE,)) for name in trial.params}
    )
    axes.set_xticks(axes.get_xticks(), [metric, *(n.rpartition(".")[2] for n in names)], rotation=0)
    width = max(7.0, 1.7 * (len(names) + 1))
    for each in axes.figure.axes:
        each.set_position((0.8 / width, 0.1, 1 - 1.8 / width, 0.78))
        for label in each.get_yticklabels(which="both"):
            label.set(bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}, fontsize=9)
    title = f"Values of {len(_values(study))} complete trials; the darker, the better"
    _save(axes, title, path, width, layout="none")


def _importance(study: optuna.Study, metric: str, path: Path) -> None:
    """Which parameters the metric's variance comes from (functional ANOVA, Hutter et al. 2014)."""
    axes = optuna.visualization.matplotlib.plot_param_importances(
        study, optuna.importance.FanovaImportanceEvaluator(seed=0), target_name=metric
    )
    axes.containers[0].set_label("")
    for text in axes.texts:
        text.set_text(f" {text.get_text()}")
    axes.set(
        xlabel=f"share of the variance of {metric} among {len(_values(study))} complete trials", ylabel=""
    )
    _save(axes, "Importance of the parameters", path, height=1.6 + 0.45 * len(axes.get_yticks()))


def _bound(axes: Axes, values: Sequence[float], study: optuna.Study) -> None:
    """Keeps one hopeless trial from squeezing all others into a line."""
    if len(values) < 4:
        return
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    smaller = _smaller(study)
    space = 4 * max(middle - low if smaller else high - middle, 1e-9)
    bottom, top = (low - 0.1 * space, middle + space) if smaller else (middle - space, high + 0.1 * space)
    if low < bottom or high > top:
        axes.set_ylim(bottom, top)
        where = "above" if smaller else "below"
        axes.set_title(f"trials {where} the frame are left out", loc="right", fontsize=9, color=GREY)


def _save(
    axes: Axes, title: str, path: Path, width: float = 9.0, height: float = 5.0, layout: str = "constrained"
) -> None:
    """Gives Optuna's picture the size and look of the others, and writes it."""
    from matplotlib.ticker import MaxNLocator

    figure: Any = axes.figure
    figure.set_layout_engine(layout)
    figure.set_size_inches(width, height)
    figure.set_dpi(150)
    axes.set_facecolor("white")
    axes.grid(False)
    for side in ("center", "left"):
        axes.set_title("", loc=side)
    if legend := axes.get_legend():
        legend.remove()
        axes.grid(axis="y", color="#E0E0E0", linewidth=0.8)
    if axes.get_xlabel() in ("trial", "epoch"):
        axes.set_xlim(axes.dataLim.xmin - 0.5, axes.dataLim.xmax + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend_above(axes)
    figure.suptitle(title, fontsize=12)
    write_picture(figure, path)
