"""The tables of an evaluation, and the sentences below them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from stockenh.commands.evaluate.paths import path_grid
from stockenh.evaluation.baselines import FITTED
from stockenh.evaluation.ic import FEWEST_SYMBOLS
from stockenh.evaluation.summary import IMPLAUSIBLE, MARGIN, SPREAD
from stockenh.report.table import Grid, interval, number, percent

TITLES = {"majority": "train majority", "lightgbm": "LightGBM"}
RULES = {MARGIN: "largest margin", SPREAD: "least spread over views"}
EXECUTIONS = {"open": "traded at the next open", "close": "traded at the close that decides"}
SIGNIFICANT = 0.05

Found = Mapping[str, Any]
Cells = tuple[str, ...]


def header(found: Found) -> list[str]:
    """What was evaluated, on which rows, and how intervals are made."""
    bootstrap = found["bootstrap"]
    return [
        "# Evaluation",
        "",
        *(f"- run {run['run']} ({run['weights']} weights)" for run in found["runs"]),
        f"- {part_line(found)}",
        f"- 95%: moving-block bootstrap over dates, {bootstrap['resamples']:,} draws of blocks of "
        f"{bootstrap['block']} dates, paired over all forecasts",
    ]


def part_line(found: Found) -> str:
    """The part with its size and dates."""
    return (
        f"{found['part']}: {found['windows']:,} windows of {_symbols(found)} on {found['dates']:,} dates, "
        f"ending {found['from']} to {found['to']}"
    )


def grids(found: Found) -> list[Grid]:
    """All tables; those not on_screen hold what a terminal has no room for."""
    made = [_scores(found), _against(found), _returns(found)]
    if _has_ic(found):
        made.append(_coefficients(found))
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
            percent(f["accuracy"]), interval(f["accuracy_low"], f["accuracy_high"]),
            percent(f["balanced_accuracy"]), number(f["mcc"], 3), number(f["auc"], 3), number(f["log_loss"]),
            number(f["brier"], 3), number(f["ece"], 3),
        )  # fmt: skip

    counts = "; ".join(
        f"{bars(horizon)} bars {of['n']:,} ({percent(of['tie_share'])}), majority {percent(of['majority'])}"
        for horizon, of in found["horizons"].items()
    )
    return Grid(
        f"Direction, {found['part']}",
        ("bars", "forecast", "accuracy", "95%", "bal.", "MCC", "AUC", "log loss", "Brier", "ECE"),
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
                bars(horizon), title(other), _signed(d["accuracy"]["difference"], 100, 1),
                _ends(d["accuracy"], 100, 1), number(d["accuracy"]["p"], 3),
                _signed(d["log_loss"]["difference"], 1, 4), _ends(d["log_loss"], 1, 4),
            )
            for other, d in figures["against"][own].items()
        ]  # fmt: skip
        p = number(figures["p_majority"][own], 3)
        blocks.append([*rows, (bars(horizon), "own majority", "", "", p, "", "")])
    return Grid(
        f"{title(own).capitalize()} minus each baseline, {found['part']}",
        ("bars", "minus", "accuracy", "95%", "p", "log loss", "95%"),
        blocks,
        "accuracy in points, above 0 is better; log loss, below 0 is better. p: one-sided, that accuracy is "
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
            number(ic["mean"], 3), _ends(ic, 1, 3), number(ic["icir"], 2), number(ic["t"], 1), *_rank_ic(rank)
        )  # fmt: skip

    blocks = _by_forecast(found, cells)
    for block, (horizon, figures) in zip(blocks, found["horizons"].items(), strict=True):
        if "limit_rank_ic" in figures:
            limit = _rank_ic(figures["limit_rank_ic"])
            block.append((bars(horizon), "limit of rank IC", "", "", "", "", *limit))
    return Grid(
        f"Daily IC across symbols, {found['part']}",
        ("bars", "forecast", "IC", "95%", "ICIR", "t", "rank IC", "ICIR", "t", "5%", "dates"),
        blocks,
        "correlation of forecast and simple return over the symbols of a date, on dates with "
        f"{FEWEST_SYMBOLS} or more. ICIR: mean / standard deviation, per date. t: Newey and West; 5%: what "
        "it exceeds once in twenty without skill",
        ("forecast",),
    )


def _rank_ic(of: Found) -> Cells:
    return (
        number(of["mean"], 3), number(of["icir"], 2), number(of["t"], 1), number(of["critical"], 2),
        str(of["dates"]),
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
        how = f"least spread over {found['views']} noisy views and the window"
    return Grid(
        f"Accuracy of the forecasts of {RULES[rule]}, {found['part']}",
        tuple(columns),
        [rows],
        f"kept: share of rows, those of the {how}; maj.: share of the larger class of the rows kept",
        on_screen=rule == MARGIN,
    )


def _curve(found: Found) -> Grid:
    curve, rows = found["curve"], []
    bound = ""
    if curve["execution"] == "close":
        bound = ". A close that is known can be traded no more: an upper bound where there is skill"
    for name, figures in curve["strategies"].items():
        above = figures["above_hold"]
        rows.append(
            (
                name, percent(figures["total"]), number(figures["sharpe"], 2),
                between(figures["sharpe_low"], figures["sharpe_high"], 1, 2), percent(figures["drawdown"]),
                percent(figures["turnover"]),
                "" if above is None else f"{_signed(above['mean'], 100, 1)} ({_ends(above, 100, 1)})",
            )
        )  # fmt: skip
    return Grid(
        f"Next bar after costs, {EXECUTIONS[curve['execution']]}, {found['part']}",
        ("strategy", "growth", "Sharpe", "95%", "drawdown", "a bar", "over hold (95%)"),
        [rows],
        f"{curve['dates']:,} bars; by the {curve['forecast']} probability of {curve['horizon']} bars against "
        f"0.5, {curve['cost_bps']:g} basis points of what is traded. a bar: traded share of wealth; "
        f"over hold: points a year. hold: every symbol bought once, in equal shares{bound}",
        ("strategy",),
    )


def _quantiles(found: Found) -> Grid:
    def share(of: Found | None) -> Cells:
        return ("n/a", "n/a") if of is None else (percent(of["value"]), interval(of["low"], of["high"]))

    rows = []
    for horizon, of in found["quantiles"].items():
        against = of["against"] or {"value": None, "low": None, "high": None}
        rows.append(
            (
                bars(horizon), number(of["pinball"] and of["pinball"]["value"], 5),
                _signed(against["value"], 1, 5), _ends(against, 1, 5), *share(of["coverage"]),
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
    own, blocks = found["own"][-1], []
    for fold in found["folds"]:
        rows: list[Cells] = []
        for horizon, figures in fold["horizons"].items():
            f = figures["forecasts"].get(own) or figures["forecasts"]["model"]
            rows.append(
                (
                    f"{fold['from']} to {fold['to']}", bars(horizon), f"{figures['n']:,}",
                    percent(f["accuracy"]), interval(f["accuracy_low"], f["accuracy_high"]),
                    percent(figures["majority"]), number(f["auc"], 3), number(f["log_loss"]),
                )
            )  # fmt: skip
        blocks.append(rows)
    return Grid(
        f"Each fold, {title(own)}",
        ("test part", "bars", "n", "accuracy", "95%", "majority", "AUC", "log loss"),
        blocks,
        "majority: share of the larger class of the fold's own rows",
        ("test part",),
    )


def _all_intervals(found: Found) -> Grid:
    """What the other tables have no room for."""

    def cells(f: Found) -> Cells:
        names = ("balanced_accuracy", "mcc", "auc", "log_loss", "brier")
        rank = f["rank_ic"] or {"low": None, "high": None}
        return (*(between(f[f"{name}_low"], f[f"{name}_high"], 1, 4) for name in names), _ends(rank, 1, 4))

    return Grid(
        f"95% intervals of the other figures, {found['part']}",
        ("bars", "forecast", "balanced accuracy", "MCC", "AUC", "log loss", "Brier", "rank IC"),
        _by_forecast(found, cells),
        "ECE has none: noise alone raises it, and resampling raises it again",
        ("forecast",),
        on_screen=False,
    )


def notes(found: Found) -> list[str]:
    """Warnings, what is n/a and why, and per horizon whether there is more than the majority class."""
    lines = [f"warning  {line}" for line in found["warnings"]]
    lines += [f"n/a      {line}" for line in _missing(found)]
    lines += [f"verdict  {_verdict(found, horizon)}" for horizon in found["horizons"]]
    lines += [f"limit    {line}" for horizon in found["horizons"] if (line := _rank_ic_limit(found, horizon))]
    lines += [f"log loss {line}" for horizon in found["horizons"] if (line := _lower_losses(found, horizon))]
    if found["implausible"]:
        run, suspect = shlex.quote(found["runs"][0]["run"]), " and ".join(map(bars, found["implausible"]))
        lines.append(
            f"warning  accuracy above {IMPLAUSIBLE:.0%} at {suspect} bars: on real daily bars that is a leak "
            f"until shown to be none. Checks: stockenh audit run={run}; stockenh data check on the bars; "
            f"whether another symbol or part holds the same bars; whether later events adjusted the prices"
        )
    return lines


def _verdict(found: Found, horizon: str) -> str:
    own, figures = found["own"][-1], found["horizons"][horizon]
    f, p = figures["forecasts"][own], figures["p_majority"][own]
    accuracy = (
        f"{bars(horizon)} bars, {title(own)}: accuracy {percent(f['accuracy'])} "
        f"({interval(f['accuracy_low'], f['accuracy_high'])}) on {figures['n']:,} rows of {found['part']}, "
        f"majority {percent(figures['majority'])}"
    )
    if p is None or f["accuracy"] is None:
        result = "too few dates to test the difference"
    elif p < SIGNIFICANT:
        result = f"better than the majority class, p {p:.3f}"
    else:
        result = f"not shown to be better than the majority class, p {p:.3f}"
    result += _best_baseline(found, figures, own)
    if (limit := figures.get("limit_accuracy")) is not None:
        result += f"; the limit is {percent(limit)}"
        if f["gap_closed"] is not None:
            result += f", closed {percent(f['gap_closed'], 0)} of the way from majority"
    return f"{accuracy}: {result}"


def _rank_ic_limit(found: Found, horizon: str) -> str:
    """The rank IC of the best possible forecast of the same rows, where it is known."""
    limit = found["horizons"][horizon].get("limit_rank_ic")
    own = found["horizons"][horizon]["forecasts"]["model"]["rank_ic"]
    if limit is None or limit["mean"] is None or own is None:
        return ""
    return (
        f"{bars(horizon)} bars: rank IC {number(own['mean'], 3)} ({_ends(own, 1, 3)}), that of the best "
        f"possible forecast {number(limit['mean'], 3)} ({_ends(limit, 1, 3)})"
    )


def _best_baseline(found: Found, figures: Found, own: str) -> str:
    """The baseline that was most often right here, which makes it a hard one, and the difference to it."""
    accuracies = {name: figures["forecasts"][name]["accuracy"] for name in found["baselines"]}
    known = {name: accuracy for name, accuracy in accuracies.items() if accuracy is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name])
    difference = figures["against"][own][best]["accuracy"]
    if difference["difference"] is None:
        return ""
    points = f"{_signed(difference['difference'], 100, 1)} points ({_ends(difference, 100, 1)})"
    return f"; best baseline {title(best)} {percent(known[best])}, difference {points}"


def _lower_losses(found: Found, horizon: str) -> str:
    """The fitted baselines whose log loss is lower than the run's own, with the paired interval."""
    own, figures = found["own"][-1], found["horizons"][horizon]
    own_loss, lower = figures["forecasts"][own]["log_loss"], []
    for name in (name for name in FITTED if name in figures["forecasts"]):
        against = figures["against"][own][name]["log_loss"]
        if against["difference"] is None or against["difference"] <= 0:
            continue
        if against["low"] is None:
            verb = "is lower than"
        else:
            verb = "beats" if against["low"] > 0 else "is lower, not shown to be better, than"
        by = f"{against['difference']:.4f} ({_ends(against, 1, 4)})"
        loss = number(figures["forecasts"][name]["log_loss"])
        lower.append(f"{title(name)} {loss} {verb} {title(own)} {number(own_loss)} by {by}")
    return f"{bars(horizon)} bars: {'; '.join(lower)}" if lower else ""


def _missing(found: Found) -> list[str]:
    """What is n/a, and why."""
    block, needed = found["bootstrap"]["block"], 2 * max(int(bars(h)) for h in found["horizons"])
    dates = min(figures["dates"] for figures in found["horizons"].values())
    lines = []
    if dates < 2 * block:
        remedy = f"two of the largest horizon take {needed}: bring more dates"
        if dates >= needed:
            remedy = f"evaluate.block={dates // 2} would fit"
        lines.append(f"intervals and p: two blocks of {block} dates do not fit into {dates} dates; {remedy}")
    if not _has_ic(found):
        lines.append(
            f"IC: it compares {FEWEST_SYMBOLS} or more symbols of a date, and no date has them "
            f"({_symbols(found)})"
        )
    if not found["views"]:
        why = "tta.views=0" if found["has_bars"] else "data=windows has no raw bars to add noise to"
        lines.append(f"coverage by spread over views: {why}")
    if found["curve"] is None:
        why = "no window has two bars after it" if found["has_bars"] else "data=windows has no raw bars"
        lines.append(f"next-bar curve: {why} to trade on")
    if found["fitted_on"] is None:
        lines.append(
            "fitted baselines: the run's own bars are gone, so there is no train part to fit them on"
        )
    elif "lightgbm" not in found["baselines"]:
        lines.append("LightGBM: pip install 'stockenh[gbm]'")
    return lines


def _has_ic(found: Found) -> bool:
    return any(of["forecasts"]["model"]["ic"]["dates"] for of in found["horizons"].values())


def _symbols(found: Found) -> str:
    return f"{found['symbols']} symbol{'s' * (found['symbols'] > 1)}"


def title(name: str) -> str:
    """A forecaster's name as tables and pictures show it."""
    return TITLES.get(name, name)


def bars(horizon: str) -> str:
    return horizon.removeprefix("h")


def _signed(value: float | None, scale: float, digits: int) -> str:
    return "n/a" if value is None else f"{scale * value:+.{digits}f}"


def _ends(of: Mapping[str, Any], scale: float, digits: int) -> str:
    return between(of["low"], of["high"], scale, digits)


def between(low: float | None, high: float | None, scale: float, digits: int) -> str:
    """`-0.012 to 0.034`: a minus between could be a sign."""
    if low is None or high is None:
        return "n/a"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
