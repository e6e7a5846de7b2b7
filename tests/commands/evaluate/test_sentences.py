"""The sentences of an evaluation's report, from figures alone."""

import pytest

from stockenh.commands.evaluate.sentences import notes


def found(**differences):
    """Figures of one horizon; differences: of the run's log loss to each baseline's, with their interval."""
    losses = {name: 0.66 - (d[0] or 0) for name, d in differences.items()}
    forecast = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "ic": {"dates": 1}}
    against = {
        name: {
            "log_loss": dict(zip(("difference", "low", "high"), d, strict=True)),
            "accuracy": {"difference": None},
        }
        for name, d in differences.items()
    }
    return {
        "warnings": [], "implausible": [], "own": ["model", "calibrated"], "baselines": list(differences),
        "bootstrap": {"block": 20}, "symbols": 4, "views": 4, "curve": {}, "has_bars": True, "fitted_on": 9,
        "panel": None, "target": "absolute", "generated": False,
        "part": "test part",
        "horizons": {
            "h5": {
                "dates": 90, "n": 9, "majority": 0.5, "p_majority": {"calibrated": None},
                "against": {"calibrated": against},
                "forecasts": {
                    "model": forecast, "calibrated": {**forecast, "log_loss": 0.66},
                    **{name: {**forecast, "log_loss": loss} for name, loss in losses.items()},
                },
            }
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        (
            {"logistic": (0.02, 0.005, 0.035)},
            "logistic 0.6400 beats calibrated 0.6600 by 0.0200 (0.0050 to 0.0350)",
        ),
        (
            {"boosting": (0.02, -0.01, 0.05)},
            "boosting 0.6400 is lower, not shown to be better, than calibrated 0.6600 by 0.0200 "
            "(-0.0100 to 0.0500)",
        ),
        ({"lightgbm": (0.02, None, None)}, "LightGBM 0.6400 is lower than calibrated 0.6600 by 0.0200 (n/a)"),
        ({"logistic": (-0.02, -0.03, -0.01), "majority": (0.1, 0.05, 0.2)}, None),
        ({"logistic": (None, None, None)}, None),
    ],
)
def test_a_fitted_baseline_with_a_lower_log_loss_is_named(differences, says):
    lines = [line for line in notes(found(**differences)) if line.startswith("log loss")]
    assert lines == ([] if says is None else [f"log loss 5 bars: {says}"])


def test_all_that_are_lower_share_a_line():
    (line,) = (
        line
        for line in notes(found(logistic=(0.01, 0.005, 0.02), boosting=(0.02, 0.01, 0.03)))
        if line.startswith("log loss")
    )
    assert "logistic 0.6500 beats" in line and "; boosting 0.6400 beats" in line
