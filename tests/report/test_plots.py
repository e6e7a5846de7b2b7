"""Pictures: what is drawn, read back from the figure that is written."""

import re
import struct
from datetime import date

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from stockenh.commands.evaluate.figures import baselines_chart, coverage_chart, curve_chart, ic_chart
from stockenh.commands.evaluate.panel_figures import decay_chart, quantiles_chart, years_chart
from stockenh.commands.explain.show import attention_chart, attributions_chart, bars_chart, weights_chart
from stockenh.commands.train.figures import accuracy_chart, reliability_chart, training_curves
from stockenh.commands.tta_predict import forecast_chart
from stockenh.evaluation.ic import hac_mean

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """Draws a chart of data into a PNG file; the figure that was saved."""
    figures: list[Figure] = []
    save = Figure.savefig

    def remember(figure, path, **options):
        figures.append(figure)
        save(figure, path, **options)

    def run(chart, *data, least=900):
        path = tmp_path / "report" / "chart.png"
        chart(*data, path)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG") and struct.unpack(">I", content[16:20])[0] >= least
        return figures[-1]

    monkeypatch.setattr(Figure, "savefig", remember)
    return run


def epoch(number, val_loss, best, horizons=("h3", "h10"), accuracy=0.52):
    val = {name: {"accuracy": accuracy, "majority": 0.5 + 0.01 * i} for i, name in enumerate(horizons, 1)}
    losses = {"train_loss": 0.6, "val_loss": val_loss}
    return {"epoch": number, "lr": 1e-3 / number, **losses, "val": val, "best": best}


def score(accuracy=0.53, low=0.50, high=0.56, majority=0.55):
    return {"accuracy": accuracy, "accuracy_low": low, "accuracy_high": high, "majority": majority, "n": 9}


def lines(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def texts(artists):
    return [artist.get_text() for artist in artists]


def legend(axes):
    return texts(axes.get_legend().get_texts())


def test_training_curves_show_losses_the_best_epoch_accuracies_and_the_rate(draw):
    history = [epoch(1, 0.63, True), epoch(2, 0.61, True), epoch(3, 0.64, False)]
    figure = draw(lambda path: training_curves(history, path, "loss=focal"))
    train, loss, accuracy, lr = figure.axes
    assert lines(train)["training"] == [0.6] * 3 and "training" not in lines(loss)
    assert "loss=focal" in train.get_ylabel() and "plain loss" in loss.get_ylabel()
    assert "not comparable" in figure.get_suptitle()
    assert lines(loss)["validation"] == [0.63, 0.61, 0.64]
    assert lines(loss)["best epoch"] == [0.61]
    assert legend(accuracy) == ["3 bars", "10 bars", "majority"]
    dashed = [line for line in accuracy.lines if line.get_linestyle() == "--" and len(line.get_ydata())]
    assert [(line.get_color(), line.get_ydata()[0]) for line in dashed] == [
        (accuracy.lines[0].get_color(), pytest.approx(0.51)),
        (accuracy.lines[2].get_color(), pytest.approx(0.52)),
    ]
    assert list(lr.lines[0].get_ydata()) == [1e-3, 5e-4, pytest.approx(1e-3 / 3)]
    assert "epoch 2 of 3 is best" in figure.get_suptitle()


@pytest.mark.parametrize("horizons", [("h3",), ("h1", "h3", "h5", "h10", "h20")])
def test_training_curves_of_one_epoch_put_it_in_the_middle(draw, horizons):
    figure = draw(training_curves, [epoch(1, 0.6, True, horizons)])
    for axes in figure.axes:
        assert axes.get_xlim() == (0.5, 1.5)
        assert [t for t in axes.get_xticks() if 0.5 <= t <= 1.5] == [1.0]
    assert len(legend(figure.axes[2])) == len(horizons) + 1


def test_training_curves_leave_null_figures_out(draw):
    figure = draw(training_curves, [epoch(1, None, False, accuracy=None), epoch(2, 0.6, True)])
    _, loss, accuracy, _ = figure.axes
    np.testing.assert_equal(lines(loss)["validation"], [np.nan, 0.6])
    np.testing.assert_equal(lines(accuracy)["3 bars"], [np.nan, 0.52])
    figure = draw(training_curves, [{**epoch(n, None, True), "val": {}} for n in (1, 2)])
    loss, val, accuracy, _ = figure.axes
    assert legend(loss) == ["training"]
    assert texts(val.texts) == texts(accuracy.texts) == ["no validation part"]
    assert figure.get_suptitle() == "Training by epoch"


def test_accuracy_chart_draws_points_intervals_majorities_and_the_50_line(draw):
    parts = {
        "train": {"h3": score(0.9, 0.9, 0.9)},
        "val": {"h10": score(0.51), "h3": score(0.53)},
        "test": {"h10": score(0.52), "h3": score(0.54, 0.51, 0.57, 0.56)},
    }
    figure = draw(accuracy_chart, parts)
    (axes,) = figure.axes
    assert texts(axes.get_xticklabels()) == ["3 bars ahead", "10 bars ahead"]
    assert texts(axes.texts) == ["53.0%", "51.0%", "54.0%", "52.0%"]
    values = [list(line.get_ydata()) for line in axes.lines]
    for value in ([0.54], [0.51, 0.57], [0.56, 0.56], [0.5, 0.5]):
        assert value in values
    assert [0.9] not in values
    for words in ("validation and test", "95% moving-block bootstrap over dates"):
        assert words in figure.get_suptitle()


@pytest.mark.parametrize("limit", [{}, {"limit_accuracy": 0.81}])
def test_accuracy_chart_draws_a_limit_where_there_is_one(draw, limit):
    axes = draw(accuracy_chart, {"val": {"h3": score() | limit}, "test": {"h3": score()}}).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines].count([0.81, 0.81]) == len(limit)
    assert any("limit" in text for text in legend(axes)) == bool(limit)


@pytest.mark.parametrize("horizons", [("h1",), ("h1", "h3", "h5", "h10", "h20")])
def test_accuracy_chart_labels_do_not_overlap(draw, horizons):
    (axes,) = draw(accuracy_chart, {part: dict.fromkeys(horizons, score()) for part in ("val", "test")}).axes
    for labels in (axes.texts, axes.get_xticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_charts_of_nothing_or_of_null_figures_are_drawn(draw):
    before = matplotlib.get_backend(auto_select=False)
    parts = {"val": {"h3": score(None, None, None, None)}, "test": {"h3": score(0.54, None, None)}}
    assert texts(draw(accuracy_chart, parts).axes[0].texts) == ["n/a", "54.0%"]
    draw(accuracy_chart, {})
    draw(training_curves, [])
    draw(attributions_chart, {"up": {"h3": attributed(0.0)}}, "9 windows", least=0)
    bars = draw(bars_chart, {"up": {"h3": attributed(0.0)}}, "9 windows", least=0)
    assert bars.axes[0].images[0].get_clim() == (0, 1)
    assert matplotlib.get_backend(auto_select=False) == before


def curve(*points):
    forecast, share = np.array(points, float).T
    return forecast, share, np.full(len(points), 10)


def test_reliability_chart_draws_both_curves_and_their_errors(draw):
    before = {"h10": curve((0.4, 0.5), (0.6, 0.7)), "h3": curve((0.5, 0.5))}
    after = {"h10": curve((0.5, 0.5), (0.7, 0.68)), "h3": (np.empty(0), np.empty(0), np.empty(0, int))}
    three, ten = draw(reliability_chart, before, after).axes
    assert [axes.get_title() for axes in (three, ten)] == ["3 bars ahead", "10 bars ahead"]
    assert lines(ten)["uncalibrated: ECE 0.100"] == [0.5, 0.7]
    assert lines(ten)["calibrated: ECE 0.010"] == [0.5, 0.68]
    assert legend(three) == ["uncalibrated: ECE 0.000", "calibrated: n/a"]
    assert not any(line.get_linestyle() == "-" for line in ten.lines)  # ten bins in a row are no curve


def test_reliability_chart_draws_an_interval_per_calibrated_bin(draw):
    bins = {"h3": curve((0.4, 0.5), (0.6, 0.7))}
    ends = {"h3": (np.array([0.3, np.nan]), np.array([0.65, np.nan]))}
    (axes,) = draw(lambda path: reliability_chart(bins, bins, path, intervals=ends)).axes
    bars = [segment.tolist() for segment in axes.collections[0].get_segments()]
    assert bars[0] == [[0.4, 0.3], [0.4, 0.65]]
    assert axes.get_ylim()[0] < 0.3 and axes.get_ylim()[1] > 0.7
    assert "95% moving-block bootstrap" in axes.figure.get_suptitle()


def forecasts(symbols, days, confident=True):
    spread = None if confident is None else 0.02
    return [
        {"symbol": symbol, "date": date(2024, 1, 1 + day), "horizon": horizon,
         "up_prob": 0.5 + 0.01 * place, "uncertainty": spread, "confident": confident}
        for place, symbol in enumerate(symbols)
        for day in range(days)
        for horizon in (3, 10)
    ]  # fmt: skip


def test_forecast_chart_lists_the_symbols_farthest_from_even_with_their_uncertainty(draw):
    figure = draw(forecast_chart, forecasts(["A$B$", "NAN"], 1))
    left, right = figure.axes
    assert [axes.get_title() for axes in (left, right)] == ["3 bars ahead", "10 bars ahead"]
    assert texts(left.get_yticklabels()) == [r"A\$B\$", "NAN"] and texts(left.texts) == ["±2.00"] * 2
    assert "filled: confident" in figure.get_suptitle()
    assert re.search(r"a rise, as of \S+\n", figure.get_suptitle())
    plain = draw(forecast_chart, forecasts(["A$B$", "NAN"], 1, confident=None))
    assert "confident" not in plain.get_suptitle() and "±" not in plain.get_suptitle()
    names = [f"S{n:02d}" for n in range(40)]
    figure = draw(forecast_chart, forecasts(names, 1))
    assert texts(figure.axes[0].get_yticklabels()) == names[15:]
    assert "the 25 of 40 symbols farthest from 50%" in figure.get_suptitle()


def test_forecast_chart_of_many_days_draws_lines(draw):
    figure = draw(forecast_chart, forecasts(["A", "B"], 5))
    axes = figure.axes[0]
    assert legend(axes) == ["A", "B"] and lines(axes)["B"] == [0.51] * 5
    assert "dots: confident" in figure.get_suptitle()
    assert re.search(r"a rise, \S+ to \S+\n", figure.get_suptitle())
    figure.draw_without_rendering()
    assert axes.xaxis.get_offset_text().get_text() == ""


def attributed(scale=1.0, inputs=20):
    """Figures of one horizon: input i has size (i + 1) scale, and the last bar of volume the most."""
    return {
        "groups": {name: {"size": scale * size} for name, size in (("price", 3), ("technical", 1))},
        "inputs": {f"x{i}": {"size": scale * (i + 1)} for i in range(inputs)},
        "price_by_bar": {"close": [0.0, 0.1 * scale, 0.2 * scale], "volume": [0.0, 0.0, 0.9 * scale]},
    }


def test_attributions_chart_has_a_column_per_output_and_the_largest_inputs_first(draw):
    targets = {"h3": attributed(), "h10": attributed(2.0)}
    figure = draw(attributions_chart, {"up": targets, "ret": targets}, "9 windows", least=1500)
    up, largest, ret, _ = figure.axes
    assert texts(up.get_yticklabels()) == ["price", "technical"]
    assert [bar.get_width() for bar in up.patches] == [3, 1, 6, 2]
    assert legend(up) == ["3 bars ahead", "10 bars ahead"]
    names = texts(largest.get_yticklabels())
    assert names[:2] == ["x19", "x18"] and len(names) == 15
    assert largest.get_ylim()[0] > largest.get_ylim()[1]  # the first row stands above
    assert ret.get_title() == "return: groups of inputs"
    assert "9 windows" in figure.get_suptitle()


@pytest.mark.parametrize("horizons", [("h3",), ("h3", "h5", "h10")])
def test_bars_chart_is_a_row_per_series_the_oldest_bar_left_on_one_scale(draw, horizons):
    targets = {horizon: attributed(i + 1.0) for i, horizon in enumerate(horizons)}
    *panels, _ = draw(bars_chart, {"up": targets}, "9 windows", least=0).axes
    assert len(panels) == len(horizons)
    for axes in panels:
        (image,) = axes.images
        assert image.get_array().shape == (2, 3)
        assert axes.get_xlim() == (2.5, -0.5)
        assert image.get_clim() == (0, pytest.approx(0.9 * len(horizons)))
        assert texts(axes.get_yticklabels()) == ["close", "volume"]


def test_weights_and_attention_stand_beside_equal_shares(draw):
    def spread(mean):
        return {"mean": mean, "low": mean / 2, "high": 2 * mean}

    weights = {
        "price": {"close": spread(0.25), "volume": spread(0.75)},
        "static": {"rsi": spread(0.1), "atr": spread(0.3), "embedding": spread(0.6)},
    }
    price, static = draw(weights_chart, weights, "9 windows", least=0).axes
    assert [bar.get_width() for bar in price.patches] == [0.25, 0.75]
    assert texts(static.get_yticklabels()) == ["embedding", "atr", "rsi"]
    assert lines(static)["equal weights"] == [0, 1]
    assert [0.3, 1.2] in [list(line.get_xdata()) for line in static.lines]
    attention = {"mean": [0.1, 0.2, 0.3, 0.4], "low": [0.0] * 4, "high": [0.5] * 4}
    (axes,) = draw(attention_chart, attention, "9 windows", least=0).axes
    assert lines(axes)["mean"] == [0.1, 0.2, 0.3, 0.4] and axes.get_xlim() == (3, 0)
    assert lines(axes)["equal attention"] == [0.25, 0.25]


def test_baselines_stand_below_each_other_the_runs_own_in_colour_majority_dashed(draw):
    own, other = score(0.53), score(0.51, None, None)
    horizons = {h: {"forecasts": {"model": own, "majority": other}, "majority": 0.55} for h in ("h3", "h10")}
    figure = draw(baselines_chart, horizons, ["model"], "9 windows")
    first, second = figure.axes
    assert texts(first.get_yticklabels()) == ["model", "train majority"]
    assert (first.get_title(), second.get_title()) == ("3 bars ahead", "10 bars ahead")
    points = [line for line in first.lines if line.get_marker() == "o"]
    assert [list(point.get_xdata()) for point in points] == [[0.53], [0.51]]
    assert points[0].get_color() != points[1].get_color()
    assert lines(first)["larger class of these rows"] and first.lines[-1].get_xdata()[0] == 0.55
    assert "9 windows" in figure.get_suptitle()


def test_coverage_is_a_line_per_rule_beside_the_majority_of_the_rows_kept(draw):
    def points(slope):
        return [
            {"coverage": c, "accuracy": 0.6 - slope * c, "low": None, "high": None, "majority": 0.5}
            for c in (0.5, 1.0)
        ]

    rules = {rule: {"h3": points(slope), "h5": []} for rule, slope in (("margin", 0.1), ("spread", 0.2))}
    figure = draw(coverage_chart, rules, "9 windows", least=0)
    first = lines(figure.axes[0])
    assert first["largest margin"] == [pytest.approx(0.55), 0.5]
    assert first["least spread"] == [pytest.approx(0.5), pytest.approx(0.4)]
    assert first["larger class of margin's rows"] == [0.5, 0.5]
    assert texts(figure.legends[0].get_texts())[::2] == ["largest margin", "least spread"]
    (only,) = draw(coverage_chart, {"margin": {"h3": points(0.1)}}, "9 windows", least=0).axes
    assert "least spread" not in lines(only)


DAYS = np.arange("2024-01-01", "2024-01-04", dtype="datetime64[D]")


def test_rank_ic_adds_up_over_time(draw):
    (axes,) = draw(ic_chart, {"h3": (DAYS, np.array([0.1, -0.3, 0.5]))}, "9 windows", least=0).axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.1, -0.2, 0.3])
    assert axes.get_title() == "3 bars ahead: mean +0.100"
    assert "too few dates for a band" in axes.figure.get_suptitle() and not axes.collections


def test_rank_ic_has_a_band_that_widens(draw):
    values = np.random.default_rng(0).normal(0.1, 0.5, 200)
    days = np.arange("2024-01-01", "2024-07-19", dtype="datetime64[D]")
    three, ten = draw(ic_chart, {"h3": (days, values), "h10": (days, values)}, "9 windows", least=0).axes
    assert "bands: 95% at each date" in three.figure.get_suptitle()
    for axes, horizon in ((three, 3), (ten, 10)):
        edge = axes.collections[0].get_paths()[0].vertices[:, 1]
        mean = hac_mean(values, horizon)
        assert edge.min() < values.sum() < edge.max()
        assert 200 * mean["low"] == pytest.approx(edge[np.abs(edge - 200 * mean["low"]).argmin()])


def test_wealth_starts_at_1_and_falls_below_its_peak(draw):
    net = {"long/flat": np.array([0.1, -0.5, 0.2]), "hold": np.array([-0.1, 0.0, 0.0])}
    wealth, below = draw(curve_chart, DAYS, net, "9 windows", least=0).axes
    assert lines(wealth)["long/flat: -34.0%"] == pytest.approx([1.1, 0.55, 0.66])
    assert list(below.lines[0].get_ydata()) == pytest.approx([0, -0.5, -0.4])
    assert list(below.lines[1].get_ydata()) == pytest.approx([-0.1, -0.1, -0.1])


def test_a_long_title_stays_within_the_picture(draw):
    about = (
        "test parts of 5 folds, target market_relative: 145,053 windows of 227 symbols on 1,639 dates, ending"
    )
    for words in (about, f"{about}\n{about} 2014-06-17 to 2016-12-27"):
        figure = draw(curve_chart, DAYS, {"hold": np.array([-0.1, 0.0, 0.0])}, words, least=0)
        (title,) = (text for text in figure.texts if "From bar" in text.get_text())
        assert " ".join(title.get_text().split()) == " ".join(f"From bar to bar after costs {words}".split())
        box = title.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def point(mean, low, high, **more):
    return {"mean": mean, "low": low, "high": high, **more}


def test_returns_by_quantile_are_bars_with_their_intervals(draw):
    quantiles = [point(-0.01, -0.02, 0.0), point(None, None, None), point(0.02, 0.01, 0.03)]
    of = {"by_quantile": quantiles}
    first, second = draw(quantiles_chart, {"h3": of, "h5": of}, "9 windows").axes
    assert [bar.get_height() for bar in first.patches][::2] == [-0.01, 0.02]
    assert list(first.lines[2].get_ydata()) == [0.01, 0.03]
    assert (first.get_title(), second.get_title()) == ("3 bars ahead", "5 bars ahead")


def test_the_decay_marks_the_forecasts_own_horizon(draw):
    decay = [point(0.1 / bars, 0.0, 0.2, bars=bars) for bars in range(1, 21)]
    decay[-1] = point(None, None, None, bars=20)
    (axes,) = draw(decay_chart, {"h10": {"decay": decay}}, "9 windows").axes
    assert list(axes.lines[0].get_ydata())[:2] == [0.1, 0.05] and np.isnan(axes.lines[0].get_ydata()[-1])
    assert list(axes.lines[2].get_xdata()) == [10, 10]


def test_a_year_that_a_horizon_lacks_is_a_gap(draw):
    horizons = {
        "h1": {"by_year": {"2020": point(0.1, 0.0, 0.2), "2021": point(0.2, None, None)}},
        "h5": {"by_year": {"2020": point(0.3, 0.1, 0.5)}},
    }
    (axes,) = draw(years_chart, horizons, "9 windows").axes
    assert texts(axes.get_xticklabels()) == ["2020", "2021"]
    assert legend(axes) == ["1 bar ahead", "5 bars ahead"]
