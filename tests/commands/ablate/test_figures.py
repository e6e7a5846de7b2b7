"""Measures of an ablation's runs, by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from stockenh.commands.ablate import report
from stockenh.commands.ablate.claims import FAILS, HOLDS, OPEN, Claim
from stockenh.commands.ablate.forecasts import PartShares
from stockenh.commands.ablate.lines import lines_of
from stockenh.commands.ablate.measures import difference, epochs_to_plain, measured, roughness
from stockenh.commands.ablate.plan import Plan, Recipe, Row
from stockenh.commands.ablate.report import claims_table, recipes_table
from stockenh.commands.ablate.results import Found, SeedFigures
from stockenh.config.compose import compose
from stockenh.config.schema import parse, plain
from stockenh.evaluation.paired import BOTH

PLAIN, EMA, TTA = Row("plain", "plain", "plain"), Row("ema", "EMA", "ema"), Row("tta", "TTA", "plain", True)
DATES, BLOCK = 60, 15


def even(**scores: float) -> dict:
    """A horizon's scores, as much of them on every date."""
    return {name: np.full(DATES, value / DATES) for name, value in scores.items()}


def scores(accuracy: float, ece: float = 0.1, **more: float) -> dict:
    return {"h5": even(accuracy=accuracy, ece=ece, majority=0.5, **more)}


def run(raw: dict, views: dict | None = None, ema: dict | None = None, **more: object) -> SeedFigures:
    given = {"raw": raw, "views": views, "ema": ema}
    return SeedFigures(PartShares("rows", {k: v for k, v in given.items() if v}), **more)  # type: ignore[arg-type]


FOUND = Found(
    runs={
        ("plain", 1): run(scores(0.60), scores(0.61), curve=(0.7, 0.6, 0.65), averaged=(0.7, 0.6, 0.65)),
        ("plain", 2): run(scores(0.62), scores(0.61), curve=(0.7, 0.5, 0.65), averaged=(0.7, 0.5, 0.65)),
        ("ema", 2): run(scores(0.65, 0.08), curve=(0.5, 0.4, 0.4), averaged=(0.7, 0.65, 0.6)),
        ("ema", 3): run(scores(0.99)),
    },
    cost={
        "train_speed": {"plain": [1.0, 1.0, 1.0], "ema": [0.5, 1.0, 0.8]},
        "inference_speed": {"plain": [1.0], "tta": [0.2]},
        "memory": {"plain": 200, "ema": 300},
        "weights_bytes": {"plain": 100, "ema": None},
    },
    failed={},
    block=BLOCK,
)


@pytest.mark.parametrize(
    ("measure", "row", "mean", "n"),
    [
        ("accuracy", EMA, 3.0, 1),  # only seed 2 has both
        ("accuracy", TTA, 0.0, 2),
        ("accuracy", PLAIN, 0.0, 2),
        ("ece", EMA, -0.02, 1),
        ("auc", EMA, None, 0),
        ("train_speed", EMA, 2.3 / 3, 3),
        ("inference_speed", TTA, 0.2, 1),
        ("memory", EMA, 1.5, 1),
        ("weights_bytes", EMA, None, 0),
        ("convergence", EMA, 2.0, 1),  # plain is best at epoch 2, and EMA as low at epoch 1
        ("time_to_plain", EMA, 0.5 / 0.8, 1),  # half the epochs at 0.8 of the speed
        ("roughness", EMA, 0.05 / 0.175, 1),
        ("accuracy_kept", EMA, 0.15 / 0.12, 1),  # of the accuracy above the majority class
    ],
)
def test_a_measure(measure, row, mean, n):
    found = measured(measure, row, FOUND, "h5")
    if mean is None:
        assert found is None
    else:
        assert found.shown.mean == pytest.approx(mean) and found.shown.n == n


def test_the_gap_that_is_closed_is_in_points_of_the_way_to_the_limit():
    runs = {("plain", 1): run(scores(0.60, limit_accuracy=0.75)),
            ("ema", 1): run(scores(0.65, limit_accuracy=0.75))}  # fmt: skip
    assert difference("gap_closed", EMA, replace(FOUND, runs=runs), "h5").mean == pytest.approx(20.0)
    near = {key: run(scores(0.5, limit_accuracy=0.505)) for key in runs}
    assert difference("gap_closed", EMA, replace(FOUND, runs=near), "h5") is None


def test_a_row_is_judged_by_weights_of_its_own_or_by_those_that_validation_chose():
    ema = run(scores(0.60), ema=scores(0.65))
    runs = {("plain", 1): run(scores(0.60)), ("ema", 1): ema}
    found = replace(FOUND, runs=runs)
    assert measured("accuracy", EMA, found, "h5").shown.mean == pytest.approx(0.0)
    assert measured("accuracy", replace(EMA, weights="ema"), found, "h5").shown.mean == pytest.approx(5.0)
    kept = replace(found, runs=runs | {("ema", 1): replace(ema, weights="ema")})
    assert measured("accuracy", EMA, kept, "h5").shown.mean == pytest.approx(5.0)
    none = replace(found, runs=runs | {("ema", 1): run(scores(0.60))})  # too short to make any
    assert measured("accuracy", replace(EMA, weights="ema"), none, "h5") is None


def noisy(level: float, seed: int, spread: float = 0.02) -> dict:
    """Scores of a run whose accuracy varies by date and by seed."""
    rng = np.random.default_rng(seed)
    noise = spread * (rng.normal() + rng.normal(size=DATES))
    found = scores(level)
    found["h5"]["accuracy"] = (level + noise) / DATES
    return found


def kept(student: float, plain_level: float, least: float = 0.95, spread: float = 0.002):
    """The line of the claim that a student keeps a share of the plain recipe's accuracy."""
    runs = {("plain", s): run(noisy(plain_level, s, spread), epochs=1) for s in (1, 2, 3)}
    runs |= {("ema", s): run(noisy(student, 10 + s, spread), epochs=1) for s in (1, 2, 3)}
    row = replace(EMA, claims={"accuracy_kept": Claim("accuracy_kept", least)})
    plan = Plan((Recipe("plain"), Recipe("ema")), (PLAIN, row), (1, 2, 3))
    return lines_of(plan, replace(FOUND, runs=runs), CONFIG, {}, 5)[1].claims[0]


CONFIG = parse(plain(compose(["ablate=quick"], "ablate")))


@pytest.mark.parametrize(
    ("student", "plain_level", "word"),
    [
        (0.64, 0.64, HOLDS),
        (0.66, 0.64, HOLDS),
        (0.60, 0.64, FAILS),  # 97% of the accuracy as such, but 71% of what is above the majority class
        (0.45, 0.64, FAILS),  # below the majority class: less than nothing is kept
        (0.50, 0.50, OPEN),
        (0.60, 0.45, OPEN),  # nothing to keep, however good the student is
    ],
)
def test_accuracy_kept_is_of_the_accuracy_above_the_majority_class(student, plain_level, word):
    found = kept(student, plain_level)
    assert found.verdict.word == word
    if word == OPEN:
        assert "nothing to keep" in found.verdict.why and found.measured is None
    else:
        share = (student - 0.5) / (plain_level - 0.5)
        assert found.measured.mean == pytest.approx(share, abs=0.06)
        assert found.measured.over == BOTH
        assert found.measured.low < found.measured.mean < found.measured.high


def test_the_interval_of_a_share_leaves_out_what_its_test_rejects():
    found = kept(0.60, 0.64, spread=0.01)
    for share, is_out in ((found.measured.high + 0.01, True), (found.measured.high - 0.01, False)):
        assert (kept(0.60, 0.64, share, spread=0.01).p <= 0.05) == is_out


def test_the_loss_of_the_plain_recipe_may_never_be_reached():
    assert epochs_to_plain([0.7, 0.5, 0.6], [0.9, 0.8]) == (2, 3)
    assert epochs_to_plain([0.7, 0.5, 0.6], [0.9, 0.5]) == (2, 2)


def test_roughness_is_the_mean_change():
    assert roughness([1.0, 0.5, 0.75]) == pytest.approx(0.375)
    assert roughness([1.0]) is None


def test_a_line_says_which_weights_are_judged_and_which_validation_kept():
    plan = Plan((Recipe("plain"), Recipe("ema")), (EMA, replace(EMA, name="own", weights="ema")), (1, 2))
    runs = {
        ("plain", s): run(scores(0.6, log_loss=0.6, auc=0.6), epochs=6) for s in (1, 2)
    } | {
        ("ema", s): run(scores(0.6, log_loss=0.6, auc=0.7), ema=scores(0.6), weights=w, epochs=6)
        for s, w in ((1, "raw"), (2, "ema"))
    }  # fmt: skip
    chosen, own = lines_of(plan, replace(FOUND, runs=runs), CONFIG, {}, 5)
    assert chosen.judged == "raw in 1 of 2, ema in 1 of 2"
    assert own.judged == "ema; validation kept raw in 1 of 2"
    assert chosen.compute == 1.0
    # AUC and log loss stand beside accuracy; what one seed lacks has no difference
    both = replace(FOUND, runs=runs | {("ema", 2): replace(runs["ema", 2], weights="raw")})
    (line, _) = lines_of(plan, both, CONFIG, {}, 5)
    assert line.differences["h5"]["auc"].mean == pytest.approx(0.1)
    assert line.level["h5"]["auc"] == pytest.approx(0.7)
    assert line.judged == "raw"
    assert own.differences["h5"]["auc"] is None


def test_all_claims_of_an_ablation_are_one_family():
    claims = {"accuracy": Claim("accuracy", 1.0), "ece": Claim("ece", None, 0.0)}
    rows = tuple(replace(EMA, name=name, claims=claims) for name in ("a", "b"))
    runs = {("plain", s): run(noisy(0.6, s), epochs=1) for s in (1, 2, 3)}
    runs |= {("ema", s): run(noisy(0.6, 10 + s), epochs=1) for s in (1, 2, 3)}
    found = lines_of(Plan((Recipe("plain"), Recipe("ema")), rows, (1, 2, 3)), replace(FOUND, runs=runs),
                     CONFIG, {}, 5)  # fmt: skip
    of_accuracy = measured("accuracy", EMA, replace(FOUND, runs=runs), "h5").beyond(1.0).p()
    # ECE is the same on all dates and seeds: two claims are sure, the two others share what is left
    assert [line.claims[0].p for line in found] == [pytest.approx(min(1.0, 2 * of_accuracy))] * 2


def shown_lines() -> list:
    """Lines of techniques with a sure gain, a sure loss in log loss, and a single doubtful claim."""
    claims = {"accuracy": Claim("accuracy", 1.0, 3.0, "+1 to 3")}
    rows = (PLAIN, replace(EMA, title="all minus gradient accumulation", weights="ema", claims=claims),
            replace(EMA, name="other", title="other", claims=claims))  # fmt: skip
    runs = {}
    for s in (1, 2, 3):
        runs["plain", s] = run(noisy(0.6, s, 0.001), epochs=1)
        runs["ema", s] = run(noisy(0.601, 10 + s), ema=noisy(0.65, 20 + s, 0.001), epochs=1)
        for part in runs["plain", s].test.shares.values():
            part["h5"]["log_loss"] = even(log_loss=0.6)["log_loss"]
        for part in runs["ema", s].test.shares.values():
            part["h5"]["log_loss"] = even(log_loss=0.65)["log_loss"]
    plan = Plan((Recipe("plain"), Recipe("ema")), rows, (1, 2, 3))
    return lines_of(plan, replace(FOUND, runs=runs), CONFIG, {}, 5)


@pytest.mark.parametrize("width", [80, 160])
def test_the_tables_fit_the_terminal(width):
    console = Console(width=width, record=True, file=io.StringIO())
    lines = shown_lines()
    console.print(recipes_table(lines, "h5", "Recipes", width))
    console.print(claims_table(lines))
    text = console.export_text()
    assert all(len(line) <= width for line in text.splitlines()) and "…" not in text
    words = " ".join(text.split())
    assert "+0.0500*" in text if width == 80 else "+0.0500 [+0.0500, +0.0500]" in text
    assert ("No room for" in words) == (width == 80)
    assert "corrected for the number of claims" in words
    assert "all minus gradient accumulation: ema; validation kept raw in 3 of 3" in words
    assert "<0.001" in text and "holds" in text


def test_the_picture_shows_the_interval_that_decides(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(report, "save", lambda figure, title, path: drawn.append((figure, title)) or path)
    lines = shown_lines()
    report.forest(lines, "h5", tmp_path / "a.png")
    ((figure, title),) = drawn
    (axes,) = figure.axes
    ends = {tuple(line.get_xdata()) for line in axes.lines}
    for line in lines[1:]:
        found = line.differences["h5"]["accuracy"]
        assert (found.low, found.high) in ends and line.claims[0].corrected in ends
    assert "corrected for the number of claims" in axes.get_xlabel() and "3 seeds" in title
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert labels == {"claimed", *(f"measured, {line.claims[0].verdict.word}" for line in lines[1:])}
