"""Pictures: what is drawn, read back from the figure that is written."""

import re
import struct
from datetime import date
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from stockenh.commands.evaluate.figures import baselines_chart, coverage_chart, curve_chart, ic_chart
from stockenh.commands.explain.show import attention_chart, attributions_chart, bars_chart, weights_chart
from stockenh.commands.train.figures import accuracy_chart, reliability_chart, training_curves
from stockenh.commands.tta_predict import forecast_chart

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture
def drawn(monkeypatch):
    """The figures saved during a test."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure, path, **options):
        figures.append(figure)
        save(figure, path, **options)

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


def epoch(number, val_loss, best, horizons=("h3", "h10"), accuracy=0.52):
    val = {name: {"accuracy": accuracy, "majority": 0.5 + 0.01 * i} for i, name in enumerate(horizons, 1)}
    losses = {"train_loss": 0.6, "val_loss": val_loss}
    return {"epoch": number, "lr": 1e-3 / number, **losses, "val": val, "best": best}


def score(accuracy=0.53, low=0.50, high=0.56, majority=0.55):
    return {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high, "majority": majority, "n": 9}


def width_in_pixels(path: Path) -> int:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG")
    return struct.unpack(">I", content[16:20])[0]


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_training_curves_show_losses_the_best_epoch_accuracies_and_the_rate(tmp_path, drawn):
    history = [epoch(1, 0.63, True), epoch(2, 0.61, True), epoch(3, 0.64, False)]
    path = training_curves(history, tmp_path / "report" / "curves.png")
    assert path == tmp_path / "report" / "curves.png"
    assert width_in_pixels(path) >= 900
    loss, accuracy, lr = drawn[0].axes
    assert lines(loss)["validation"] == [0.63, 0.61, 0.64]
    assert lines(loss)["best epoch"] == [0.61]
    assert legend(accuracy) == ["3 bars", "10 bars", "majority"]
    dashed = [line for line in accuracy.lines if line.get_linestyle() == "--" and len(line.get_ydata())]
    assert [(line.get_color(), line.get_ydata()[0]) for line in dashed] == [
        (accuracy.lines[0].get_color(), pytest.approx(0.51)),
        (accuracy.lines[2].get_color(), pytest.approx(0.52)),
    ]
    assert list(lr.lines[0].get_ydata()) == [1e-3, 5e-4, pytest.approx(1e-3 / 3)]
    assert "epoch 2 of 3 is best" in drawn[0].get_suptitle()


@pytest.mark.parametrize("horizons", [("h3",), ("h1", "h3", "h5", "h10", "h20")])
def test_training_curves_of_one_epoch_put_it_in_the_middle(tmp_path, drawn, horizons):
    training_curves([epoch(1, 0.6, True, horizons)], tmp_path / "curves.png")
    for axes in drawn[0].axes:
        assert axes.get_xlim() == (0.5, 1.5)
        assert [t for t in axes.get_xticks() if 0.5 <= t <= 1.5] == [1.0]
    assert len(legend(drawn[0].axes[1])) == len(horizons) + 1


def test_training_curves_leave_null_figures_out(tmp_path, drawn):
    history = [epoch(1, None, False, accuracy=None), epoch(2, 0.6, True)]
    training_curves(history, tmp_path / "curves.png")
    loss, accuracy, _ = drawn[0].axes
    np.testing.assert_equal(lines(loss)["validation"], [np.nan, 0.6])
    np.testing.assert_equal(lines(accuracy)["3 bars"], [np.nan, 0.52])
    training_curves([], tmp_path / "empty.png")
    assert width_in_pixels(tmp_path / "empty.png") >= 900


def test_accuracy_chart_draws_points_intervals_majorities_and_the_50_line(tmp_path, drawn):
    parts = {
        "train": {"h3": score(0.9, 0.9, 0.9)},
        "val": {"h10": score(0.51), "h3": score(0.53)},
        "test": {"h10": score(0.52), "h3": score(0.54, 0.51, 0.57, 0.56)},
    }
    path = accuracy_chart(parts, tmp_path / "accuracy.png")
    assert width_in_pixels(path) >= 900
    (axes,) = drawn[0].axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["3 bars ahead", "10 bars ahead"]
    assert [t.get_text() for t in axes.texts] == ["53.0%", "51.0%", "54.0%", "52.0%"]
    drawn_values = [list(line.get_ydata()) for line in axes.lines]
    for value in ([0.54], [0.51, 0.57], [0.56, 0.56], [0.5, 0.5]):
        assert value in drawn_values
    assert [0.9] not in drawn_values
    title = drawn[0].get_suptitle()
    assert "validation and test" in title
    assert "95% moving-block bootstrap over dates" in title


def test_accuracy_chart_draws_a_limit_where_there_is_one(tmp_path, drawn):
    parts = {"val": {"h3": {**score(), "limit_accuracy": 0.81}}, "test": {"h3": score()}}
    accuracy_chart(parts, tmp_path / "limit.png")
    accuracy_chart({"test": {"h3": score()}}, tmp_path / "none.png")
    limited, plain = (figure.axes[0] for figure in drawn)
    assert [list(line.get_ydata()) for line in limited.lines].count([0.81, 0.81]) == 1
    assert [any("limit" in text for text in legend(axes)) for axes in (limited, plain)] == [True, False]


@pytest.mark.parametrize("horizons", [("h1",), ("h1", "h3", "h5", "h10", "h20")])
def test_accuracy_chart_labels_do_not_overlap(tmp_path, drawn, horizons):
    parts = {part: {horizon: score() for horizon in horizons} for part in ("val", "test")}
    accuracy_chart(parts, tmp_path / "accuracy.png")
    (axes,) = drawn[0].axes
    for texts in (axes.texts, axes.get_xticklabels()):
        boxes = [text.get_window_extent() for text in texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_accuracy_chart_shows_n_a_for_null_figures(tmp_path, drawn):
    parts = {"val": {"h3": score(None, None, None, None)}, "test": {"h3": score(0.54, None, None)}}
    accuracy_chart(parts, tmp_path / "accuracy.png")
    assert [t.get_text() for t in drawn[0].axes[0].texts] == ["n/a", "54.0%"]
    accuracy_chart({}, tmp_path / "empty.png")
    assert width_in_pixels(tmp_path / "empty.png") >= 900


def test_plots_leave_the_global_backend_alone(tmp_path):
    before = matplotlib.get_backend(auto_select=False)
    training_curves([epoch(1, 0.6, True)], tmp_path / "curves.png")
    assert matplotlib.get_backend(auto_select=False) == before


def test_training_curves_without_a_validation_part_have_a_note(tmp_path, drawn):
    history = [{**epoch(n, None, True), "val": {}} for n in (1, 2)]
    training_curves(history, tmp_path / "curves.png")
    loss, accuracy, _ = drawn[0].axes
    assert legend(loss) == ["training"]
    assert [text.get_text() for text in accuracy.texts] == ["no validation part"]
    assert drawn[0].get_suptitle() == "Training by epoch"


def curve(*points):
    forecast, share = np.array(points, float).T
    return forecast, share, np.full(len(points), 10)


def test_reliability_chart_draws_both_curves_and_their_errors(tmp_path, drawn):
    before = {"h10": curve((0.4, 0.5), (0.6, 0.7)), "h3": curve((0.5, 0.5))}
    after = {"h10": curve((0.5, 0.5), (0.7, 0.68)), "h3": (np.empty(0), np.empty(0), np.empty(0, int))}
    path = reliability_chart(before, after, tmp_path / "reliability.png")
    assert width_in_pixels(path) >= 900
    three, ten = drawn[0].axes
    assert [axes.get_title() for axes in drawn[0].axes] == ["3 bars ahead", "10 bars ahead"]
    assert lines(ten)["uncalibrated: ECE 0.100"] == [0.5, 0.7]
    assert lines(ten)["calibrated: ECE 0.010"] == [0.5, 0.68]
    assert legend(three) == ["uncalibrated: ECE 0.000", "calibrated: n/a"]


def forecasts(symbols, days, confident=True):
    spread = None if confident is None else 0.02
    return [
        {"symbol": symbol, "date": date(2024, 1, 1 + day), "horizon": horizon,
         "up_prob": 0.5 + 0.01 * place, "uncertainty": spread, "confident": confident}
        for place, symbol in enumerate(symbols)
        for day in range(days)
        for horizon in (3, 10)
    ]  # fmt: skip


def test_forecast_chart_lists_symbols_with_their_uncertainty(tmp_path, drawn):
    names = ["A$B$", "NAN"]
    assert width_in_pixels(forecast_chart(forecasts(names, 1), tmp_path / "f.png")) >= 900
    left, right = drawn[0].axes
    assert [axes.get_title() for axes in (left, right)] == ["3 bars ahead", "10 bars ahead"]
    assert [t.get_text() for t in left.get_yticklabels()] == [r"A\$B\$", "NAN"]
    assert "filled: confident" in drawn[0].get_suptitle()
    assert re.search(r"a rise, as of \S+\n", drawn[0].get_suptitle())
    assert [note.get_text() for note in left.texts] == ["±2.00"] * 2
    forecast_chart(forecasts(names, 1, confident=None), tmp_path / "plain.png")
    assert "confident" not in drawn[1].get_suptitle()


def test_forecast_chart_shows_the_symbols_farthest_from_even(tmp_path, drawn):
    names = [f"S{n:02d}" for n in range(40)]
    forecast_chart(forecasts(names, 1), tmp_path / "f.png")
    assert [t.get_text() for t in drawn[0].axes[0].get_yticklabels()] == names[15:]
    assert "the 25 of 40 symbols farthest from 50%" in drawn[0].get_suptitle()


def test_forecast_chart_of_many_days_draws_lines(tmp_path, drawn):
    forecast_chart(forecasts(["A", "B"], 5), tmp_path / "f.png")
    axes = drawn[0].axes[0]
    assert legend(axes) == ["A", "B"]
    assert lines(axes)["B"] == [0.51] * 5
    assert "dots: confident" in drawn[0].get_suptitle()
    assert re.search(r"a rise, \S+ to \S+\n", drawn[0].get_suptitle())
    drawn[0].draw_without_rendering()
    assert axes.xaxis.get_offset_text().get_text() == ""


def attributed(scale=1.0, inputs=20):
    """Figures of one horizon: input i has size (i + 1) scale, and the last bar of volume the most."""
    return {
        "groups": {name: {"size": scale * size} for name, size in (("price", 3), ("technical", 1))},
        "inputs": {f"x{i}": {"size": scale * (i + 1)} for i in range(inputs)},
        "price_by_bar": {"close": [0.0, 0.1 * scale, 0.2 * scale], "volume": [0.0, 0.0, 0.9 * scale]},
    }


def test_attributions_chart_has_a_column_per_output_and_the_largest_inputs_first(tmp_path, drawn):
    targets = {"h3": attributed(), "h10": attributed(2.0)}
    path = attributions_chart({"up": targets, "ret": targets}, "9 windows", tmp_path / "a.png")
    assert width_in_pixels(path) >= 1500
    up, largest, ret, _ = drawn[0].axes
    assert [label.get_text() for label in up.get_yticklabels()] == ["price", "technical"]
    assert [bar.get_width() for bar in up.patches] == [3, 1, 6, 2]
    assert legend(up) == ["3 bars ahead", "10 bars ahead"]
    names = [label.get_text() for label in largest.get_yticklabels()]
    assert names[:2] == ["x19", "x18"] and len(names) == 15
    assert largest.get_ylim()[0] > largest.get_ylim()[1]  # the first row stands above
    assert ret.get_title() == "return: groups of inputs"
    assert "9 windows" in drawn[0].get_suptitle()


@pytest.mark.parametrize("horizons", [("h3",), ("h3", "h5", "h10")])
def test_bars_chart_is_a_row_per_series_the_oldest_bar_left_on_one_scale(tmp_path, drawn, horizons):
    targets = {horizon: attributed(i + 1.0) for i, horizon in enumerate(horizons)}
    bars_chart({"up": targets}, "9 windows", tmp_path / "bars.png")
    panels = drawn[0].axes[: len(horizons)]
    assert len(drawn[0].axes) == len(horizons) + 1
    for axes in panels:
        (image,) = axes.images
        assert image.get_array().shape == (2, 3)
        assert axes.get_xlim() == (2.5, -0.5)
        assert image.get_clim() == (0, pytest.approx(0.9 * len(horizons)))
        assert [label.get_text() for label in axes.get_yticklabels()] == ["close", "volume"]


def test_a_chart_of_attributions_that_are_all_zero_is_drawn(tmp_path, drawn):
    attributions_chart({"up": {"h3": attributed(0.0)}}, "9 windows", tmp_path / "a.png")
    bars_chart({"up": {"h3": attributed(0.0)}}, "9 windows", tmp_path / "b.png")
    assert [axes.images[0].get_clim() for axes in drawn[1].axes[:1]] == [(0, 1)]


def test_weights_and_attention_stand_beside_equal_shares(tmp_path, drawn):
    def spread(mean):
        return {"mean": mean, "low": mean / 2, "high": 2 * mean}

    weights = {
        "price": {"close": spread(0.25), "volume": spread(0.75)},
        "static": {"rsi": spread(0.1), "atr": spread(0.3), "embedding": spread(0.6)},
    }
    weights_chart(weights, "9 windows", tmp_path / "weights.png")
    attention = {"mean": [0.1, 0.2, 0.3, 0.4], "low": [0.0] * 4, "high": [0.5] * 4}
    attention_chart(attention, "9 windows", tmp_path / "attention.png")
    price, static = drawn[0].axes
    assert [bar.get_width() for bar in price.patches] == [0.25, 0.75]
    assert [label.get_text() for label in static.get_yticklabels()] == ["embedding", "atr", "rsi"]
    assert lines(static)["equal weights"] == [0, 1]
    assert [0.3, 1.2] in [list(line.get_xdata()) for line in static.lines]
    (axes,) = drawn[1].axes
    assert lines(axes)["mean"] == [0.1, 0.2, 0.3, 0.4] and axes.get_xlim() == (3, 0)
    assert lines(axes)["equal attention"] == [0.25, 0.25]


def test_baselines_stand_below_each_other_the_runs_own_in_colour_majority_dashed(tmp_path, drawn):
    own, other = score(0.53), score(0.51, None, None)
    horizons = {h: {"forecasts": {"model": own, "majority": other}, "majority": 0.55} for h in ("h3", "h10")}
    assert width_in_pixels(baselines_chart(horizons, ["model"], "9 windows", tmp_path / "b.png")) > 900
    first, second = drawn[0].axes
    assert [text.get_text() for text in first.get_yticklabels()] == ["model", "train majority"]
    assert (first.get_title(), second.get_title()) == ("3 bars ahead", "10 bars ahead")
    points = [line for line in first.lines if line.get_marker() == "o"]
    assert [list(point.get_xdata()) for point in points] == [[0.53], [0.51]]
    assert points[0].get_color() != points[1].get_color()
    assert lines(first)["larger class of these rows"] and first.lines[-1].get_xdata()[0] == 0.55
    assert "9 windows" in drawn[0].get_suptitle()


def test_coverage_is_a_line_with_its_interval_beside_the_majority_of_the_rows_kept(tmp_path, drawn):
    points = [
        {"coverage": c, "accuracy": 0.6 - 0.1 * c, "low": None, "high": None, "majority": 0.5}
        for c in (0.5, 1.0)
    ]
    coverage_chart({"h3": points, "h5": points}, "9 windows", tmp_path / "c.png")
    first = drawn[0].axes[0]
    assert lines(first)["accuracy"] == [pytest.approx(0.55), 0.5]
    assert lines(first)["larger class of the rows kept"] == [0.5, 0.5]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()][1] == "accuracy"


def test_rank_ic_adds_up_over_time(tmp_path, drawn):
    days = np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]")
    ic_chart({"h3": (days, np.array([0.1, -0.3, 0.5]))}, "9 windows", tmp_path / "i.png")
    (axes,) = drawn[0].axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.1, -0.2, 0.3])
    assert legend(axes) == ["3 bars ahead: mean +0.100"]


def test_wealth_starts_at_1_and_falls_below_its_peak(tmp_path, drawn):
    days = np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]")
    net = {"long/flat": np.array([0.1, -0.5, 0.2]), "hold": np.array([-0.1, 0.0, 0.0])}
    curve_chart(days, net, "9 windows", tmp_path / "w.png")
    wealth, below = drawn[0].axes
    assert lines(wealth)["long/flat: -34.0%"] == pytest.approx([1.1, 0.55, 0.66])
    assert list(below.lines[0].get_ydata()) == pytest.approx([0, -0.5, -0.4])
    assert list(below.lines[1].get_ydata()) == pytest.approx([-0.1, -0.1, -0.1])
