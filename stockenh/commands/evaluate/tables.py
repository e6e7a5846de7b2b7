"""The tables of an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stockenh.commands.evaluate.paths import path_grid
from stockenh.errors import counted
from stockenh.evaluation.ic import FEWEST_SYMBOLS
from stockenh.evaluation.summary import MARGIN, SPREAD
from stockenh.report.table import Grid, between, interval, number, percent

TITLES = {"majority": "train majority", "lightgbm": "LightGBM"}
RULES = {MARGIN: "largest margin", SPREAD: "least spread"}
EXECUTIONS = {"open": "traded at the next open", "close": "traded at the close that decides"}

Found = Mapping[str, Any]
Cells = tuple[str, ...]


def header(found: Found) -> list[str]:
    """The verdict; what was evaluated, on which rows, and how intervals are made."""
    bootstrap = found["bootstrap"]
    return [
        "# Evaluation",
        "",
        *(f"- **{of['text']}**" for of in found["verdict"].values()),
        "",
        *(f"- run {run['run']} ({run['weights']} weights)" for run in found["runs"]),
        f"- {part_line(found)}",
        f"- 95%: moving-block bootstrap over dates, {bootstrap['resamples']:,} draws of blocks of "
        f"{bootstrap['block']} dates, paired over all forecasts",
    ]


def part_line(found: Found) -> str:
    """The part with its size and dates."""
    return (
        f"{found['part']}: {counted(found['windows'], 'window')} of {symbols(found)} on "
        f"{counted(found['dates'], 'date')}, ending {found['from']} to {found['to']}"
    )


def grids(found: Found) -> list[Grid]:
    """All tables but those of a panel; those not on_screen hold what a terminal has no room for."""
    made = [_coefficients(found), _rank_ic_against(found)] if has_ic(found) else []
    made += [_scores(found), _against(found), _returns(found)]
    made += [_coverage(found, rule) for rule in found["coverage"]]
    made += [
        grid(found)
        for key, grid in (
            ("curve", _curve),
            ("folds", _folds),
            ("quantiles", _quantiles),
            ("paths", path_grid),
        )
        if found[key]
    ]
    return [*made, _all_intervals(found)]


def _by_forecast(found: Found, cells: Callable[[Found], Cells | None]) -> list[list[Cells]]:
    """A block per horizon with a row per forecast: bars, name, and its `cells`; None leaves it out."""
    return [
        [
            (bars(horizon), title(name), *row)
            for name, f in figures["forecasts"].items()
            if (row := cells(f)) is not None
        ]
        for horizon, figures in found["horizons"].items()
    ]


def _scores(found: Found) -> Grid:
    def cells(f: Found) -> Cells:
        return (
            number(f["auc"], 3), number(f["log_loss"]), number(f["brier"], 3), number(f["ece"], 3),
            percent(f["accuracy"]), interval(f["accuracy_low"], f["accuracy_high"]),
            percent(f["balanced_accuracy"]), number(f["mcc"], 3),
        )  # fmt: skip

    counts = "; ".join(
        f"{bars(horizon)} bars {of['n']:,} ({percent(of['tie_share'])}), majority {percent(of['majority'])}"
        for horizon, of in found["horizons"].items()
    )
    return Grid(
        f"Direction, {found['part']}",
        ("bars", "forecast", "AUC", "log loss", "Brier", "ECE", "accuracy", "95%", "bal.", "MCC"),
        _by_forecast(found, cells),
        f"rows (share without direction, which accuracy, bal., MCC, AUC and ECE leave out): {counts}. "
        "majority: share of the larger class of these rows, known only afterwards; train majority: always "
        "the class that was larger in train. bal.: balanced accuracy",
        ("forecast",),
    )


def _against(found: Found) -> Grid:
    own, blocks = found["own"][-1], []
    for horizon, figures in found["horizons"].items():
        rows: list[Cells] = [
            (
                bars(horizon), title(other), signed(d["log_loss"]["difference"], 1, 4),
                ends(d["log_loss"], 1, 4), signed(d["accuracy"]["difference"], 100, 1),
                ends(d["accuracy"], 100, 1), number(d["accuracy"]["p"], 3),
            )
            for other, d in figures["against"][own].items()
        ]  # fmt: skip
        p = number(figures["p_majority"][own], 3)
        blocks.append([*rows, (bars(horizon), "own majority", "", "", "", "", p)])
    return Grid(
        f"{title(own).capitalize()} minus each baseline, {found['part']}",
        ("bars", "minus", "log loss", "95%", "accuracy", "95%", "p"),
        blocks,
        "log loss, below 0 is better; accuracy in points, above 0 is better. p: one-sided, that accuracy is "
        "no better. own majority: always the larger class of the same rows, chosen in hindsight",
        ("minus",),
    )


def _returns(found: Found) -> Grid:
    def cells(f: Found) -> Cells | None:
        if f["mae"] is None:
            return None
        mae, r2 = between(f["mae_low"], f["mae_high"], 1, 5), between(f["r2_low"], f["r2_high"], 100, 2)
        return (number(f["mae"], 5), mae, percent(f["r2"], 2), r2)

    blocks = _by_forecast(found, cells)
    for block, (horizon, figures) in zip(blocks, found["horizons"].items(), strict=True):
        block.append((bars(horizon), "always 0", number(figures["mae_of_zero"], 5), "", "0.00%", ""))
    is_return = found["target"] == "absolute"
    unit = "raw units, 0.01 is one percent" if is_return else "units of the target"
    return Grid(
        f"Returns, {found['part']}",
        ("bars", "forecast", "MAE", "95%", "R2", "95%"),
        blocks,
        f"MAE in {unit}. R2 against a forecast of 0, in percent. train majority: the mean of train; "
        "persistence: that of the last so many bars",
        ("forecast",),
    )


def _coefficients(found: Found) -> Grid:
    def cells(f: Found) -> Cells | None:
        ic, rank = f["ic"], f["rank_ic"]
        if ic is None:
            return None
        return (
            *_rank_ic(rank), number(ic["mean"], 3), number(ic["icir"], 2), number(ic["t"], 1),
            str(rank["dates"]),
        )  # fmt: skip

    blocks = _by_forecast(found, cells)
    for block, (horizon, figures) in zip(blocks, found["horizons"].items(), strict=True):
        if "limit_rank_ic" in figures:
            limit = figures["limit_rank_ic"]
            row = (*_rank_ic(limit), "", "", "", str(limit["dates"]))
            block.append((bars(horizon), "limit of rank IC", *row))
    return Grid(
        f"Daily IC across symbols, {found['part']}",
        ("bars", "forecast", "rank IC", "95%", "ICIR", "t", "5%", "IC", "ICIR", "t", "dates"),
        blocks,
        "correlation of forecast and simple return over the symbols of a date, on dates with "
        f"{FEWEST_SYMBOLS} or more. ICIR: mean / standard deviation, per date. t: Newey and West; 5%: what "
        "it exceeds once in twenty without skill",
        ("forecast",),
    )


def _rank_ic_against(found: Found) -> Grid:
    blocks = [
        [
            (bars(horizon), title(other), signed(d["mean"], 1, 3), ends(d, 1, 3))
            for other, d in figures["rank_ic_against"].items()
        ]
        for horizon, figures in found["horizons"].items()
    ]
    return Grid(
        f"Rank IC of the model minus that of each baseline, {found['part']}",
        ("bars", "minus", "rank IC", "95%"),
        blocks,
        "mean difference over the dates on which both have one, above 0 is better",
        ("minus",),
        on_screen=False,
    )


def _what_spreads(found: Found) -> str:
    views = f"{found['views']} noisy views and the window" if found["views"] else ""
    members = f"{found['members']} members" if found["members"] > 1 else ""
    return " of ".join(text for text in (views, members) if text)


def _rank_ic(of: Found) -> Cells:
    return (
        number(of["mean"], 3), ends(of, 1, 3), number(of["icir"], 2), number(of["t"], 1),
        number(of["critical"], 2),
    )  # fmt: skip


def _coverage(found: Found, rule: str) -> Grid:
    columns, rows, by_horizon = ["kept"], [], found["coverage"][rule]
    for horizon in by_horizon:
        columns += [f"{bars(horizon)} bars", "95%", "maj."]
    for points in zip(*by_horizon.values(), strict=False):
        cells = [percent(points[0]["coverage"], 0)]
        for p in points:
            cells += [percent(p["accuracy"]), interval(p["low"], p["high"]), percent(p["majority"])]
        rows.append(tuple(cells))
    how = "largest margin abs(p - 50%), which `confident` goes by"
    if rule == SPREAD:
        how = f"least spread over {_what_spreads(found)}"
    return Grid(
        f"Accuracy of the forecasts of {RULES[rule]}, {found['part']}",
        tuple(columns),
        [rows],
        f"kept: share of rows, those of the {how}; maj.: share of the larger class of the rows kept",
        on_screen=rule == MARGIN,
    )


def _curve(found: Found) -> Grid:
    curve, rows = found["curve"], []
    for name, figures in curve["strategies"].items():
        above = figures["above_hold"]
        rows.append(
            (
                name, percent(figures["total"]), number(figures["sharpe"], 2),
                between(figures["sharpe_low"], figures["sharpe_high"], 1, 2), percent(figures["drawdown"]),
                percent(figures["turnover"]),
                "" if above is None else f"{signed(above['mean'], 100, 1)} ({ends(above, 100, 1)})",
            )
        )  # fmt: skip
    return Grid(
        f"Next bar after costs, {EXECUTIONS[curve['execution']]}, {found['part']}",
        ("strategy", "growth", "Sharpe", "95%", "drawdown", "a bar", "over hold (95%)"),
        [rows],
        f"{curve['dates']:,} bars; by the {curve['forecast']} probability of {curve['horizon']} bars against "
        f"0.5, {curve['cost_bps']:g} basis points of what is traded. a bar: traded share of wealth; "
        f"over hold: points a year. hold: every symbol bought once, in equal shares{bound_of(curve)}",
        ("strategy",),
    )


def bound_of(traded: Found) -> str:
    """What a caption adds where trades are made at the close that decides them."""
    if traded["execution"] == "open":
        return ""
    return ". A close that is known can be traded no more: an upper bound where there is skill"


def _quantiles(found: Found) -> Grid:
    def share(of: Found | None) -> Cells:
        return ("n/a", "n/a") if of is None else (percent(of["value"]), interval(of["low"], of["high"]))

    rows = []
    for horizon, of in found["quantiles"].items():
        against = of["against"] or {"value": None, "low": None, "high": None}
        rows.append(
            (
                bars(horizon), number(of["pinball"] and of["pinball"]["value"], 5),
                signed(against["value"], 1, 5), ends(against, 1, 5), *share(of["coverage"]),
                number(of["width"], 3), *share(of["conformal"]), number(of["conformal_width"], 3),
            )
        )  # fmt: skip
    return Grid(
        f"Quantiles, {found['part']}",
        ("bars", "pinball", "less train", "95%", "covered", "95%", "width", "widened", "95%", "width"),
        [rows],
        "pinball: mean loss over the levels; less train: minus that of the quantiles of the train labels, "
        "below 0 is better. covered: share of labels from the 10% to the 90% quantile, which should be 80%; "
        "widened: share in the interval that was widened, or narrowed, on validation",
    )


def _folds(found: Found) -> Grid:
    own, blocks, is_panel = found["own"][-1], [], has_ic(found)
    rank_ic = ("rank IC",) if is_panel else ()
    columns = ("test part", "bars", "n", *rank_ic, "AUC", "log loss", "accuracy", "95%", "majority")
    for fold in found["folds"]:
        rows: list[Cells] = []
        for horizon, figures in fold["horizons"].items():
            f = figures["forecasts"].get(own) or figures["forecasts"]["model"]
            rank = figures["forecasts"]["model"]["rank_ic"]
            rows.append(
                (
                    f"{fold['from']} to {fold['to']}", bars(horizon), f"{figures['n']:,}",
                    *([number(rank["mean"], 3)] if is_panel else []), number(f["auc"], 3),
                    number(f["log_loss"]), percent(f["accuracy"]),
                    interval(f["accuracy_low"], f["accuracy_high"]), percent(figures["majority"]),
                )
            )  # fmt: skip
        blocks.append(rows)
    return Grid(
        f"Each fold, {title(own)}",
        columns,
        blocks,
        "majority: share of the larger class of the fold's own rows",
        ("test part",),
    )


def _all_intervals(found: Found) -> Grid:
    """What the other tables have no room for."""

    def cells(f: Found) -> Cells:
        names = ("auc", "log_loss", "brier", "balanced_accuracy", "mcc")
        of_ic = f["ic"] or {"low": None, "high": None}
        return (ends(of_ic, 1, 4), *(between(f[f"{name}_low"], f[f"{name}_high"], 1, 4) for name in names))

    return Grid(
        f"95% intervals of the other figures, {found['part']}",
        ("bars", "forecast", "IC", "AUC", "log loss", "Brier", "balanced accuracy", "MCC"),
        _by_forecast(found, cells),
        "ECE has none: noise alone raises it, and resampling raises it again",
        ("forecast",),
        on_screen=False,
    )


def has_ic(found: Found) -> bool:
    return any(of["forecasts"]["model"]["ic"]["dates"] for of in found["horizons"].values())


def symbols(found: Found) -> str:
    return f"{found['symbols']} symbol{'s' * (found['symbols'] > 1)}"


def title(name: str) -> str:
    """A forecaster's name as tables and pictures show it."""
    return TITLES.get(name, name)


def bars(horizon: str) -> str:
    return horizon.removeprefix("h")


def p_text(p: float | None) -> str:
    """`0.020`, and `<0.001` where three digits would be zeros."""
    return "<0.001" if p is not None and p < 0.0005 else number(p, 3)


def signed(value: float | None, scale: float, digits: int) -> str:
    return "n/a" if value is None else f"{scale * value:+.{digits}f}"


def ends(of: Mapping[str, Any], scale: float, digits: int) -> str:
    return between(of["low"], of["high"], scale, digits)
