"""The verdict and the other sentences of an evaluation, from figures alone."""

import pytest

from stockenh.commands.evaluate.sentences import notes, verdicts


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
        "bootstrap": {"block": 20}, "symbols": 4, "views": 4, "members": 1, "curve": {}, "has_bars": True,
        "fitted_on": 9, "panel": None, "relative": False, "generated": False, "part": "test part",
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


def judged(
    rank_ic=None, p_majority=0.4, loss=(-0.01, -0.02, -0.001, 0.001), relative=False, own="calibrated"
):
    """The verdict of one horizon. rank_ic: mean, ends, p; loss: difference to the majority's, ends, p."""
    names = ("difference", "low", "high", "p")
    scores = {
        "log_loss": 0.6931, "accuracy": 0.523, "accuracy_low": 0.501, "accuracy_high": 0.545,
        "auc": 0.531, "auc_low": 0.508, "auc_high": 0.553,
    }  # fmt: skip
    of = {
        "up_share": 0.53, "majority": 0.53, "p_majority": {own: p_majority},
        "forecasts": {own: scores, "majority": {"log_loss": 0.7031}},
        "against": {own: {"majority": {"log_loss": dict(zip(names, loss, strict=True))}}},
    }  # fmt: skip
    panel = None
    if rank_ic is not None:
        order = dict(zip(("mean", "low", "high", "p_holm"), rank_ic, strict=True))
        panel = {"horizons": {"h10": {"rank_ic": order}}}
    found = {"own": [own], "part": "test part", "relative": relative, "panel": panel, "horizons": {"h10": of}}
    return verdicts(found)["h10"]


@pytest.mark.parametrize(
    ("rank_ic", "order", "says"),
    [
        (
            (0.028, 0.006, 0.05, 0.02),
            "better",
            "10 bars, test part: the model orders the day's symbols better than chance "
            "(rank IC 0.028, 95% 0.006 to 0.050, Holm p 0.020); ",
        ),
        (
            (-0.03, -0.05, -0.01, 0.0004),
            "worse",
            "orders the day's symbols worse than chance (rank IC -0.030",
        ),
        ((0.028, 0.001, 0.05, 0.08), "not shown", "is not shown to order the day's symbols better"),
        # neither the p nor the interval alone shows it
        ((0.028, -0.001, 0.05, 0.04), "not shown", "is not shown to order"),
        ((0.028, None, None, None), "unknown", "there are too few dates to say whether the model orders"),
        ((None, None, None, None), "unknown", "the model gives no order of the day's symbols"),
    ],
)
def test_the_verdict_of_a_panel_speaks_of_the_order_of_a_day(rank_ic, order, says):
    verdict = judged(rank_ic)
    assert verdict["order"] == order and says in verdict["text"]
    assert "log loss" not in verdict["text"] and verdict["text"].endswith(".")
    assert verdict["text"].count(". ") == 0  # one sentence


def test_the_verdict_without_a_panel_speaks_of_the_log_loss_and_the_auc():
    verdict = judged()
    assert verdict["order"] is None and verdict["log_loss"] == "better"
    assert (
        "10 bars, test part: the calibrated model's log loss, 0.6931, is lower than that of always the train "
        "part's share of up, 0.7031 (difference -0.0100, 95% -0.0200 to -0.0010, Holm p 0.001); "
        "AUC 0.531, 95% 0.508 to 0.553, where chance is 0.5; "
    ) in verdict["text"]
    assert "rank IC" not in verdict["text"]


@pytest.mark.parametrize(
    ("loss", "status", "says"),
    [
        ((-0.001, -0.01, 0.01, 0.4), "not shown", "is not shown to be lower than"),
        ((0.01, 0.001, 0.02, 0.99), "worse", "is higher than"),
        ((0.01, None, None, None), "unknown", "too few dates to compare it"),
        ((None, None, None, None), "unknown", "the model's log loss is 0.6931; AUC"),
    ],
)
def test_a_log_loss_that_is_not_shown_to_be_lower(loss, status, says):
    verdict = judged(loss=loss, own="model")
    assert verdict["log_loss"] == status and says in verdict["text"]


@pytest.mark.parametrize(
    ("p", "relative", "status", "says"),
    [
        (
            0.01,
            False,
            "better",
            "better than always up (accuracy 52.3%, 95% 50.1 to 54.5, against 53.0%, Holm",
        ),
        (0.4, False, "not shown", "its direction is not shown to be better than always up (accuracy 52.3%"),
        (0.4, True, "not shown", "its side of the day's median is not shown to be better than always above"),
        (None, False, "unknown", "too few dates to compare its direction with always up"),
    ],
)
def test_direction_is_compared_with_always_the_larger_class(p, relative, status, says):
    for rank_ic in (None, (0.03, 0.01, 0.05, 0.01)):
        verdict = judged(rank_ic, p, relative=relative)
        assert verdict["direction"] == status and says in verdict["text"]


def test_what_is_shown_is_shown_of_all_horizons_together():
    """A p of 4% alone is shown, beside two others it is not."""
    names = ("difference", "low", "high", "p")
    scores = {"log_loss": 0.69, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "auc": None}

    def of(p):
        loss = dict(zip(names, (-0.01, -0.02, -0.001, p), strict=True))
        return {
            "up_share": 0.4, "majority": 0.6, "p_majority": {"model": p},
            "forecasts": {"model": scores, "majority": {"log_loss": 0.7}},
            "against": {"model": {"majority": {"log_loss": loss}}},
        }  # fmt: skip

    about = {"own": ["model"], "part": "test part", "relative": False, "panel": None}
    alone = verdicts({**about, "horizons": {"h1": of(0.04)}})["h1"]
    assert alone["log_loss"] == alone["direction"] == "better" and "always down" in alone["text"]
    assert alone["text"].startswith("1 bar, test part") and "AUC" not in alone["text"]
    three = verdicts({**about, "horizons": {"h1": of(0.04), "h2": of(0.3), "h3": of(None)}})
    assert [each["direction"] for each in three.values()] == ["not shown", "not shown", "unknown"]
    assert "Holm p 0.080" in three["h1"]["text"]


@pytest.mark.parametrize(
    ("ended", "generated", "says"),
    [
        (
            0,
            False,
            "panel    0 of 30 symbols (0.0%) end more than 20 dates before the last one: a sign of surviv",
        ),
        (3, False, "panel    3 of 30 symbols (10.0%) end more than 20 dates before the last one"),
        (0, True, None),
    ],
)
def test_a_panel_of_which_nothing_ends_is_a_sign_of_survivorship(ended, generated, says):
    early = {"symbols": 30, "ended": ended, "share": ended / 30, "dates": 20}
    horizon = {"top_less_bottom": {"mean": 0.1}, "decay": [], "residual": {}}
    panel = {"ended_early": early, "horizons": {"h5": horizon}, "quantiles": 5, "exposures": {}}
    lines = [line for line in notes({**found(), "panel": panel, "generated": generated}) if "panel" in line]
    assert len(lines) == (says is not None) and all(line.startswith(says or "") for line in lines)
    assert any("survivorship" in line for line in lines) == (not ended and not generated)
