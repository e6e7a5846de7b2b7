"""Medians, quartiles and aims; what a table shows of them."""

import pytest

from stockenh.commands.bench.figures import (
    Aim,
    Figure,
    benchmark_chart,
    benchmark_markdown,
    benchmark_table,
    median,
    skipped,
)
from stockenh.report.table import significant
from stockenh.report.terminal import console

pytestmark = pytest.mark.usefixtures("pictures")

MACHINE = {"processor": "a processor", "device_name": None, "threads": 1, "torch": "2", "load": 0.5,
           "seconds_are": "processor time"}  # fmt: skip


def found(*figures: Figure) -> dict:
    return {"machine": MACHINE, "seconds": 3.0, "figures": [figure.to_dict() for figure in figures]}


def test_a_median_has_its_quartiles():
    made = median("training", "a ratio", "times", [5.0, 1.0, 2.0, 4.0, 3.0])
    assert (made.low, made.value, made.high, made.rounds) == (2.0, 3.0, 4.0, 5)


@pytest.mark.parametrize(
    ("aim", "value", "met", "text"),
    [
        (Aim(2, hoped=3), 2.0, True, "at least 2, hoped 3"),
        (Aim(2), 1.99, False, "at least 2"),
        (Aim(4, at_most=True), 4.0, True, "at most 4"),
        (Aim(0.4, at_most=True), 0.41, False, "at most 0.4"),
    ],
)
def test_an_aim_is_met_or_missed(aim, value, met, text):
    figure = Figure("training", "a ratio", "times", value, aim=aim)
    assert (figure.met, str(aim)) == (met, text)
    row = f"| {value:.3g} times |  | 1 | {text}: {'met' if met else 'missed'} |"
    assert row in benchmark_markdown(found(figure))


def test_a_single_round_has_no_quartiles_to_show():
    page = benchmark_markdown(found(median("training", "a ratio", "times", [2.0])))
    assert "| a ratio | 2 times | one round | 1 |" in page


def test_what_was_not_measured_has_a_reason_and_meets_nothing():
    figure = skipped("techniques", "CUDA graphs", "no CUDA device", Aim(8))
    assert figure.met is None
    out = console()
    with out.capture() as shown:
        out.print(benchmark_table(found(figure)))
    assert "n/a" in shown.get() and "at least 8; not measured: no CUDA device" in shown.get()


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (99.5, "99.5"), (1234.4, "1,234")]
)
def test_three_digits_count(value, text):
    assert significant(value) == text


def test_no_dot_is_cut_at_the_edge(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("stockenh.commands.bench.figures.save", lambda figure, *_: drawn.append(figure))
    values = (0.1, 1.0, 50.0)
    benchmark_chart(found(*(median("training", f"ratio {n}", "times", [n] * 3) for n in values)), tmp_path)
    (axes,) = drawn[0].axes
    low, high = axes.get_ylim()
    assert low <= -0.5 and high >= len(values) - 0.5
    assert axes.get_xlim()[0] < min(values) / 1.3 and axes.get_xlim()[1] > max(values) * 1.3


def test_the_picture_shows_every_ratio_that_was_measured(tmp_path):
    ratios = [median("training", f"ratio {n}", "times", [n, n + 1.0, n + 2.0], Aim(2)) for n in (1.0, 9.0)]
    other = [Figure("growth", "time", "s", 3.0), skipped("techniques", "CUDA graphs", "no CUDA device")]
    two, none = (
        benchmark_chart(found(*figures), tmp_path / f"{len(figures)}.png")
        for figures in ([*ratios, *other], other)
    )
    assert two.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert two.stat().st_size > none.stat().st_size
