"""What tta-predict prints: rows of symbols that training never saw, and what the forecasts are worth."""

import io
from datetime import date

import pytest
from rich.console import Console

from stockenh.commands.tta_predict import forecast_table, verdict_lines


def forecast(symbol, horizon=5, up_prob=0.6, rank=1, day=1):
    return {
        "symbol": symbol, "date": date(2024, 1, day), "horizon": horizon, "ret": 0.01, "score": 0.01,
        "up_prob": up_prob, "uncertainty": None, "confident": None, "rank": rank,
    }  # fmt: skip


def printed(rows, **options):
    console = Console(file=io.StringIO(), width=80)
    console.print(forecast_table(rows, "a run", **options))
    return console.file.getvalue()


def panel(symbols):
    return [forecast(name, rank=place + 1) for place, name in enumerate(symbols)]


def of_dates(symbols):
    return [forecast(name, horizon, day=day) for name in symbols for day in (1, 2, 3) for horizon in (3, 5)]


NAMES = [f"S{number:02}" for number in range(40)]


@pytest.mark.parametrize("rows", [panel(NAMES), of_dates(NAMES)], ids=["ranked", "of dates"])
@pytest.mark.parametrize("new", [["S20"], ["S00"], ["S39"], ["S20", "S21", "S22"], NAMES[14:26]])
def test_a_symbol_never_seen_in_training_is_among_the_rows_shown(rows, new):
    output = printed(rows, seen=set(NAMES) - set(new))
    for name in new:
        assert f" {name} * " in output
    assert "*: no window of this symbol was in the train part" in " ".join(output.split())
    assert output.count("2024-01-") <= 24 and " S05 * " not in output
    assert f"and {len(rows) - output.count('2024-01-')} more rows in the files" in " ".join(output.split())


@pytest.mark.parametrize("seen", [None, set(NAMES)])
def test_nothing_is_marked_where_all_were_seen_or_nobody_knows(seen):
    output = printed(panel(NAMES), seen=seen)
    assert "*" not in output and output.count("2024-01-") == 12


SCORES = {"accuracy": 0.52, "accuracy_low": 0.48, "accuracy_high": 0.56, "majority": 0.534, "up_share": 0.534}


@pytest.mark.parametrize(
    ("probabilities", "scores", "expected"),
    [
        ((0.6, 0.7, 0.8), SCORES, "5 bars: all 3 forecasts are up, not shown to be better than always up"),
        ((0.6,), SCORES, "(accuracy 52.0%, 95% 48.0 to 56.0, against 53.4%, on the run's own test part)"),
        ((0.4, 0.5), SCORES, "both forecasts are down, not shown"),
        ((0.6,), SCORES, "5 bars: the forecast is up, not shown"),
        ((0.6, 0.4, 0.3), SCORES, "1 of 3 forecasts is up, not shown"),
        ((0.6, 0.4, 0.7), SCORES, "2 of 3 forecasts are up, not shown"),
        ((0.6,), SCORES | {"accuracy_low": 0.54}, "is up, better than always up"),
        ((0.6,), SCORES | {"up_share": 0.466}, "than always down"),
        ((0.6,), SCORES | {"up_share": None}, "than the larger class"),
        ((0.6,), SCORES | {"accuracy_low": None}, "too few dates to compare"),
        ((0.6,), {}, "no test figures of these weights say what they are worth"),
    ],
)  # fmt: skip
def test_a_verdict_stands_under_every_forecast(probabilities, scores, expected):
    rows = [forecast(f"S{number}", up_prob=p) for number, p in enumerate(probabilities)]
    (line,) = verdict_lines(rows, {"h5": scores, "h3": {}})
    assert expected in line
