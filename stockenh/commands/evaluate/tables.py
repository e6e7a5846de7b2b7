"""The tables of an evaluation."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from stockenh.evaluation.ic import FEWEST_SYMBOLS
from stockenh.evaluation.summary import IMPLAUSIBLE
from stockenh.report.table import Grid, interval, number, percent

TITLES = {"majority": "train majority", "lightgbm": "LightGBM"}

Found = Mapping[str, Any]


def header(found: Found) -> list[str]:
    """What was judged, on which rows, and how intervals are made."""
    runs = [f"{of['run']} ({of['weights']} weights)" for of in found["runs"]]
    bootstrap = found["bootstrap"]
    return [
        "# Evaluation",
        "",
        *(f"- run {run}" for run in runs),
        f"- {part_line(found)}",
        f"- 95%: moving-block bootstrap over dates, {bootstrap['resamples']:,} draws of blocks of "
        f"{bootstrap['block']} dates, paired over all forecasts",
    ]


def part_line(found: Found) -> str:
    """The part with its size and dates."""
    symbols = f"{found['symbols']} symbol{'s' * (found['symbols'] > 1)}"
    return (
        f"{found['part']}: {found['windows']:,} windows of {symbols} on {found['dates']:,} dates, ending "
        f"{found['from']} to {found['to']}"
    )


def grids(found: Found) -> list[Grid]:
    """All tables; those not on_screen hold what a terminal has no room for."""
    made = [_scores(found), _against(found), _returns(found)]
    if any(of["forecasts"]["model"]["ic"]["dates"] for of in found["horizons"].values()):
        made.append(_coefficients(found))
    if found["coverage"]:
        made.append(_coverage(found))
    if found["curve"]:
        made.append(_curve(found))
    if found["folds"]:
        made.append(_folds(found))
    return [*made, _all_intervals(found)]


def _scores(found: Found) -> Grid:
    blocks: list[list[tuple[str, ...]]] = []
    for horizon, of in found["horizons"].items():
        rows: list[tuple[str, ...]] = [
            (
                bars(horizon), title(name), percent(f["accuracy"]),
                interval(f["accuracy_low"], f["accuracy_high"]), percent(f["balanced_accuracy"]),
                number(f["mcc"], 3), number(f["auc"], 3), number(f["log_loss"]), number(f["brier"], 3),
                number(f["ece"], 3),
            )
            for name, f in of["forecasts"].items()
        ]  # fmt: skip
        blocks.append(rows)
    counted = "; ".join(
        f"{bars(horizon)} bars {of['n']:,} ({percent(of['tie_share'])}), majority {percent(of['majority'])}"
        for horizon, of in found["horizons"].items()
    )
    return Grid(
        f"Direction, {found['part']}",
        ("bars", "forecast", "accuracy", "95%", "bal.", "MCC", "AUC", "log loss", "Brier", "ECE"),
        blocks,
        f"rows (share of returns of exactly 0, which accuracy, bal., MCC, AUC and ECE leave out): {counted}. "
        "majority: share of the larger class of these rows, known only afterwards; train majority: always "
        "the class that was larger in train. bal.: balanced accuracy",
        ("forecast",),
    )


def _against(found: Found) -> Grid:
    own = found["own"][-1]
    blocks: list[list[tuple[str, ...]]] = []
    for horizon, of in found["horizons"].items():
        rows: list[tuple[str, ...]] = [
            (
                bars(horizon), title(other), _points(d["accuracy"]["difference"]),
                _ends(d["accuracy"], 100, 1), number(d["accuracy"]["p"], 3),
                _signed(d["log_loss"]["difference"], 4), _ends(d["log_loss"], 1, 4),
            )
            for other, d in of["against"][own].items()
        ]  # fmt: skip
        rows.append((bars(horizon), "own majority", "", "", number(of["p_majority"][own], 3), "", ""))
        blocks.append(rows)
    return Grid(
        f"{title(own).capitalize()} minus each baseline, {found['part']}",
        ("bars", "minus", "accuracy", "95%", "p", "log loss", "95%"),
        blocks,
        "accuracy in points, above 0 is better; log loss, below 0 is better. p: one-sided, that accuracy is "
        "no better. own majority: always the larger class of these very rows, chosen in hindsight",
        ("minus",),
    )


def _returns(found: Found) -> Grid:
    blocks: list[list[tuple[str, ...]]] = []
    for horizon, of in found["horizons"].items():
        rows: list[tuple[str, ...]] = [
            (
                bars(horizon), title(name), number(f["mae"], 5), between(f["mae_low"], f["mae_high"], 1, 5),
                percent(f["r2"], 2), between(f["r2_low"], f["r2_high"], 100, 2),
            )
            for name, f in of["forecasts"].items()
            if f["mae"] is not None
        ]  # fmt: skip
        blocks.append([*rows, (bars(horizon), "always 0", number(of["mae_of_zero"], 5), "", "0.00%", "")])
    return Grid(
        f"Returns, {found['part']}",
        ("bars", "forecast", "MAE", "95%", "R2", "95%"),
        blocks,
        "MAE in raw units, 0.01 is one percent. R2 against a forecast of 0, in percent. train majority: the "
        "mean return of train; persistence: the return of the last so many bars",
        ("forecast",),
    )


def _coefficients(found: Found) -> Grid:
    blocks: list[list[tuple[str, ...]]] = []
    for horizon, of in found["horizons"].items():
        rows: list[tuple[str, ...]] = []
        for name, f in of["forecasts"].items():
            if f["ic"] is not None:
                ic, rank = f["ic"], f["rank_ic"]
                rows.append(
                    (
                        bars(horizon), title(name), number(ic["mean"], 3),
                        between(ic["low"], ic["high"], 1, 3), number(ic["icir"], 2), number(ic["t"], 1),
                        number(rank["mean"], 3), number(rank["icir"], 2), number(rank["t"], 1),
                        str(rank["dates"]),
                    )
                )  # fmt: skip
        blocks.append(rows)
    return Grid(
        f"Daily IC across symbols, {found['part']}",
        ("bars", "forecast", "IC", "95%", "ICIR", "t", "rank IC", "ICIR", "t", "dates"),
        blocks,
        f"correlation of forecast and return over the symbols of a date, on dates with {FEWEST_SYMBOLS} or "
        "more. ICIR: mean / standard deviation, per date. t: Newey and West",
        ("forecast",),
    )


def _coverage(found: Found) -> Grid:
    horizons = list(found["coverage"])
    columns = ["kept"]
    for horizon in horizons:
        columns += [f"{bars(horizon)} bars", "95%", "maj."]
    points = zip(*found["coverage"].values(), strict=False)
    rows: list[tuple[str, ...]] = []
    for at in points:
        cells = [percent(at[0]["coverage"], 0)]
        for point in at:
            cells += [
                percent(point["accuracy"]),
                interval(point["low"], point["high"]),
                percent(point["majority"]),
            ]
        rows.append(tuple(cells))
    return Grid(
        f"Accuracy of the least uncertain forecasts, {found['part']}",
        tuple(columns),
        [rows],
        f"kept: share of rows, by spread over {found['views']} noisy views and the window; maj.: share of "
        "the larger class of the rows kept",
    )


def _curve(found: Found) -> Grid:
    curve = found["curve"]
    rows = []
    for name, of in curve["strategies"].items():
        above = of["above_hold"]
        rows.append(
            (
                name, percent(of["total"]), number(of["sharpe"], 2),
                between(of["sharpe_low"], of["sharpe_high"], 1, 2), percent(of["drawdown"]),
                percent(of["turnover"]),
                "" if above is None else f"{_points(above['mean'])} ({_ends(above, 100, 1)})",
            )
        )  # fmt: skip
    return Grid(
        f"Next bar after costs, {found['part']}",
        ("strategy", "growth", "Sharpe", "95%", "drawdown", "a bar", "over hold (95%)"),
        [rows],
        f"{curve['dates']:,} bars; by the {curve['forecast']} probability of {curve['horizon']} bars against "
        f"0.5, {curve['cost_bps']:g} basis points of what is traded. a bar: traded share of wealth; "
        "over hold: points a year. hold: every symbol bought once, in equal shares",
        ("strategy",),
    )


def _folds(found: Found) -> Grid:
    own = found["own"][-1]
    blocks: list[list[tuple[str, ...]]] = []
    for fold in found["folds"]:
        rows: list[tuple[str, ...]] = []
        for horizon, of in fold["horizons"].items():
            f = of["forecasts"].get(own) or of["forecasts"]["model"]
            rows.append(
                (
                    f"{fold['from']} to {fold['to']}", bars(horizon), f"{of['n']:,}", percent(f["accuracy"]),
                    interval(f["accuracy_low"], f["accuracy_high"]), percent(of["majority"]),
                    number(f["auc"], 3), number(f["log_loss"]),
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
    blocks: list[list[tuple[str, ...]]] = []
    for horizon, of in found["horizons"].items():
        rows = []
        for name, f in of["forecasts"].items():
            cells = [bars(horizon), title(name)]
            for figure in ("balanced_accuracy", "mcc", "auc", "log_loss", "brier"):
                cells.append(between(f[f"{figure}_low"], f[f"{figure}_high"], 1, 4))
            rank = f["rank_ic"] or {"low": None, "high": None}
            rows.append((*cells, between(rank["low"], rank["high"], 1, 4)))
        blocks.append(rows)
    return Grid(
        f"95% intervals of the other figures, {found['part']}",
        ("bars", "forecast", "balanced accuracy", "MCC", "AUC", "log loss", "Brier", "rank IC"),
        blocks,
        "ECE has none: noise alone raises it, and resampling raises it again",
        ("forecast",),
        on_screen=False,
    )


def title(name: str) -> str:
    """A forecaster's name as tables and pictures show it."""
    return TITLES.get(name, name)


def bars(horizon: str) -> str:
    return horizon.removeprefix("h")


def _points(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:+.1f}"


def _signed(value: float | None, digits: int) -> str:
    return "n/a" if value is None else f"{value:+.{digits}f}"


def _ends(of: Mapping[str, Any], scale: float, digits: int) -> str:
    return between(of["low"], of["high"], scale, digits)


def between(low: float | None, high: float | None, scale: float, digits: int) -> str:
    """`-0.012 to 0.034`: a minus between could be a sign."""
    if low is None or high is None:
        return "n/a"
    return f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"


SIGNIFICANT = 0.05


def notes(found: Found) -> list[str]:
    """Warnings, what is n/a and why, and per horizon whether there is more than the majority class."""
    lines = [f"warning  {line}" for line in found["warnings"]]
    lines += [f"n/a      {line}" for line in _not_there(found)]
    for horizon, of in found["horizons"].items():
        lines.append(f"verdict  {_verdict(found, horizon, of)}")
    if found["implausible"]:
        run = shlex.quote(found["runs"][0]["run"])
        told = " and ".join(bars(horizon) for horizon in found["implausible"])
        lines += [
            f"warning  accuracy above {IMPLAUSIBLE:.0%} at {told} bars: on real daily bars that is a leak "
            f"until shown to be none. Checks: stockenh audit run={run}; stockenh data check on the bars; "
            f"whether another symbol or part holds the same bars; whether later events adjusted the prices"
        ]
    return lines


def _verdict(found: Found, horizon: str, of: Found) -> str:
    own = found["own"][-1]
    f, p = of["forecasts"][own], of["p_majority"][own]
    told = (
        f"{bars(horizon)} bars, {title(own)}: accuracy {percent(f['accuracy'])} "
        f"({interval(f['accuracy_low'], f['accuracy_high'])}) on {of['n']:,} rows of {found['part']}, "
        f"majority {percent(of['majority'])}"
    )
    if p is None or f["accuracy"] is None:
        said = "nothing can be said of the difference"
    elif p < SIGNIFICANT:
        said = f"better than the majority class, p {p:.3f}"
    else:
        said = f"not shown to be better than the majority class, p {p:.3f}"
    said += _best_baseline(found, of, own)
    limit = of.get("limit_accuracy")
    if limit is not None:
        said += f"; the limit is {percent(limit)}"
        if f["gap_closed"] is not None:
            said += f", closed {percent(f['gap_closed'], 0)} of the way from majority"
    return f"{told}: {said}"


def _best_baseline(found: Found, of: Found, own: str) -> str:
    """The baseline that was most often right here, which makes it a hard one, and the difference to it."""
    right = {name: of["forecasts"][name]["accuracy"] for name in found["baselines"]}
    known = {name: accuracy for name, accuracy in right.items() if accuracy is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name])
    difference = of["against"][own][best]["accuracy"]
    if difference["difference"] is None:
        return ""
    ends = between(difference["low"], difference["high"], 100, 1)
    return (
        f"; best baseline {title(best)} {percent(known[best])}, difference "
        f"{100 * difference['difference']:+.1f} points ({ends})"
    )


def _not_there(found: Found) -> list[str]:
    bootstrap, horizons = found["bootstrap"], [int(bars(h)) for h in found["horizons"]]
    lines = []
    dates = min(of["dates"] for of in found["horizons"].values())
    if dates < 2 * bootstrap["block"]:
        need = 2 * max(horizons)
        remedy = (
            f"evaluate.block={dates // 2} would fit"
            if dates >= need
            else f"two of the largest horizon take {need}: bring more dates"
        )
        lines.append(
            f"intervals and p: two blocks of {bootstrap['block']} dates do not fit into {dates} "
            f"dates; {remedy}"
        )
    if not any(of["forecasts"]["model"]["ic"]["dates"] for of in found["horizons"].values()):
        have = f"{found['symbols']} symbol{'s' * (found['symbols'] > 1)}"
        lines.append(
            f"IC: it compares {FEWEST_SYMBOLS} or more symbols of a date, and no date has them ({have})"
        )
    if found["coverage"] is None:
        why = "tta.views=0" if found["curve"] else "data=windows has no raw bars to add noise to"
        lines.append(f"coverage by uncertainty: {why}")
    if found["curve"] is None:
        lines.append("next-bar curve: data=windows has no raw bars to trade on")
    if found["fitted_on"] is None:
        lines.append(
            "fitted baselines: the run's own bars are gone, so there is no train part to fit them on"
        )
    elif "lightgbm" not in found["baselines"]:
        lines.append("LightGBM: pip install 'stockenh[gbm]'")
    return lines
