"""The sentences of an evaluation: the verdict, and what stands below the tables."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from stockenh.commands.evaluate.tables import (
    Found,
    bars,
    ends,
    has_ic,
    p_text,
    signed,
    symbols,
    title,
)
from stockenh.evaluation.baselines import FITTED, MAJORITY
from stockenh.evaluation.exposures import ROWS_PER_EXPOSURE
from stockenh.evaluation.ic import FEWEST_SYMBOLS, PANEL_SYMBOLS
from stockenh.evaluation.paired import holm
from stockenh.evaluation.summary import CALIBRATED, IMPLAUSIBLE
from stockenh.report.figure import bars_text
from stockenh.report.table import between, interval, number, percent

SIGNIFICANT = 0.05
BETTER, WORSE, NOT_SHOWN, UNKNOWN = "better", "worse", "not shown", "unknown"


def verdicts(found: Found) -> dict[str, dict[str, Any]]:
    """Per horizon `text order log_loss direction`: one sentence, and what was found of each.

    order: of the day's symbols, None without a panel; log_loss: against the train majority; direction:
    accuracy against the larger class of the same rows. Each is `better`, `worse`, `not shown` or `unknown`.
    What is shown has a p of at most 5% after Holm's correction for the number of horizons.
    """
    own = found["own"][-1]
    losses = _corrected(found, lambda of: _loss_against_majority(of, own).get("p"))
    directions = _corrected(found, lambda of: of["p_majority"][own])
    verdict = {}
    for horizon, of in found["horizons"].items():
        direction, of_direction = _direction(found, of, directions[horizon])
        loss, of_loss = _log_loss(of, own, losses[horizon])
        order = None
        if found["panel"] is None:
            parts = [of_loss, *_auc(of, own), of_direction]
        else:
            order, of_order = _order(found["panel"]["horizons"][horizon]["rank_ic"])
            parts = [of_order, of_direction]
        text = f"{bars_text(horizon)}, {found['part']}: {'; '.join(parts)}."
        verdict[horizon] = {"text": text, "order": order, "log_loss": loss, "direction": direction}
    return verdict


def _corrected(found: Found, p_of: Callable[[Found], float | None]) -> dict[str, float | None]:
    """p of each horizon after Holm's correction for those that have one."""
    known = {h: p for h, of in found["horizons"].items() if (p := p_of(of)) is not None}
    adjusted = dict(zip(known, (p for p, _ in holm(list(known.values()))), strict=True))
    return {horizon: adjusted.get(horizon) for horizon in found["horizons"]}


def _order(rank_ic: Found) -> tuple[str, str]:
    """How the forecast orders the symbols of a day."""
    mean, p = rank_ic["mean"], rank_ic["p_holm"]
    if mean is None:
        return UNKNOWN, "the model gives no order of the day's symbols"
    if p is None or rank_ic["low"] is None:
        return UNKNOWN, (
            f"there are too few dates to say whether the model orders the day's symbols better than chance "
            f"(rank IC {mean:.3f})"
        )
    figures = f"(rank IC {mean:.3f}, 95% {ends(rank_ic, 1, 3)}, Holm p {p_text(p)})"
    is_shown = p < SIGNIFICANT and (rank_ic["low"] > 0 or rank_ic["high"] < 0)
    if not is_shown:
        return NOT_SHOWN, f"the model is not shown to order the day's symbols better than chance {figures}"
    word = BETTER if mean > 0 else WORSE
    return word, f"the model orders the day's symbols {word} than chance {figures}"


def _direction(found: Found, of: Found, p: float | None) -> tuple[str, str]:
    """Accuracy against always the larger class."""
    f, above = of["forecasts"][found["own"][-1]], (of["up_share"] or 0) > 0.5
    if found["relative"]:
        what, always = "its side of the day's median", "always above" if above else "always below"
    else:
        what, always = "its direction", "always up" if above else "always down"
    if f["accuracy"] is None or p is None:
        reached = "" if f["accuracy"] is None else f" (accuracy {percent(f['accuracy'])})"
        return UNKNOWN, f"there are too few dates to compare {what} with {always}{reached}"
    figures = (
        f"(accuracy {percent(f['accuracy'])}, 95% {between(f['accuracy_low'], f['accuracy_high'], 100, 1)}, "
        f"against {percent(of['majority'])}, Holm p {p_text(p)})"
    )
    if p < SIGNIFICANT:
        return BETTER, f"{what} is better than {always} {figures}"
    return NOT_SHOWN, f"{what} is not shown to be better than {always} {figures}"


def _log_loss(of: Found, own: str, p: float | None) -> tuple[str, str]:
    """The log loss against a constant, train's share of up."""
    loss, d = number(of["forecasts"][own]["log_loss"]), _loss_against_majority(of, own)
    its = f"the {'calibrated ' if own == CALIBRATED else ''}model's log loss"
    if not d or d["difference"] is None:
        return UNKNOWN, f"{its} is {loss}"
    base = f"that of always the train part's share of up, {number(of['forecasts'][MAJORITY]['log_loss'])}"
    if p is None or d["low"] is None:
        return UNKNOWN, f"{its} is {loss}, and there are too few dates to compare it with {base}"
    figures = f"(difference {signed(d['difference'], 1, 4)}, 95% {ends(d, 1, 4)}, Holm p {p_text(p)})"
    if p < SIGNIFICANT and d["high"] < 0:
        return BETTER, f"{its}, {loss}, is lower than {base} {figures}"
    if d["low"] > 0:
        return WORSE, f"{its}, {loss}, is higher than {base} {figures}"
    return NOT_SHOWN, f"{its}, {loss}, is not shown to be lower than {base} {figures}"


def _loss_against_majority(of: Found, own: str) -> Found:
    against: Found = of["against"][own].get(MAJORITY, {}).get("log_loss", {})
    return against


def _auc(of: Found, own: str) -> list[str]:
    f = of["forecasts"][own]
    if f["auc"] is None:
        return []
    within = "" if f["auc_low"] is None else f", 95% {between(f['auc_low'], f['auc_high'], 1, 3)}"
    return [f"AUC {number(f['auc'], 3)}{within}, where chance is 0.5"]


def notes(found: Found) -> list[str]:
    """Warnings, what is n/a and why, and per horizon whether there is more than the majority class."""
    lines = [f"warning  {line}" for line in found["warnings"]]
    lines += [f"n/a      {line}" for line in _missing(found)]
    lines += [f"panel    {line}" for line in _survivors(found)]
    lines += [f"limit    {line}" for horizon in found["horizons"] if (line := _rank_ic_limit(found, horizon))]
    lines += [f"rank IC  {line}" for horizon in found["horizons"] if (line := _best_ranking(found, horizon))]
    lines += [f"log loss {line}" for horizon in found["horizons"] if (line := _lower_losses(found, horizon))]
    lines += [f"accuracy {_accuracy(found, horizon)}" for horizon in found["horizons"]]
    if found["implausible"]:
        run, suspect = shlex.quote(found["runs"][0]["run"]), " and ".join(map(bars, found["implausible"]))
        lines.append(
            f"warning  accuracy above {IMPLAUSIBLE:.0%} at {suspect} bars: on real daily bars that is a leak "
            f"until shown to be none. Checks: stockenh audit run={run}; stockenh data check on the bars; "
            f"whether another symbol or part holds the same bars; whether later events adjusted the prices"
        )
    return lines


def _accuracy(found: Found, horizon: str) -> str:
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


def _best_ranking(found: Found, horizon: str) -> str:
    """Of a panel, the fitted baseline with the highest rank IC, and how far the model is ahead of it."""
    figures = found["horizons"][horizon]
    against = figures.get("rank_ic_against", {})
    known = {name: figures["forecasts"][name]["rank_ic"] for name in FITTED if name in against}
    if found["panel"] is None or not known:
        return ""
    best = max(known, key=lambda name: float(known[name]["mean"]))
    own, difference = figures["forecasts"]["model"]["rank_ic"], against[best]
    verb = "is not shown to differ from"
    if difference["low"] is not None and not difference["low"] <= 0 <= difference["high"]:
        verb = "is ahead of" if difference["low"] > 0 else "is behind"
    by = f"{signed(difference['mean'], 1, 3)} ({ends(difference, 1, 3)})"
    return (
        f"{bars(horizon)} bars: the model's {number(own['mean'], 3)} {verb} {title(best)}, the best fitted "
        f"baseline, with {number(known[best]['mean'], 3)}: {by}"
    )


def _rank_ic_limit(found: Found, horizon: str) -> str:
    """The rank IC of the best possible forecast of the same rows, where it is known."""
    limit = found["horizons"][horizon].get("limit_rank_ic")
    if limit is None or limit["mean"] is None:
        return ""
    own = found["horizons"][horizon]["forecasts"]["model"]["rank_ic"]
    if own is None:
        return ""
    return (
        f"{bars(horizon)} bars: rank IC {number(own['mean'], 3)} ({ends(own, 1, 3)}), that of the best "
        f"possible forecast {number(limit['mean'], 3)} ({ends(limit, 1, 3)})"
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
    points = f"{signed(difference['difference'], 100, 1)} points ({ends(difference, 100, 1)})"
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
        by = f"{against['difference']:.4f} ({ends(against, 1, 4)})"
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
    if not has_ic(found):
        lines.append(
            f"IC: it compares {FEWEST_SYMBOLS} or more symbols of a date, and no date has them "
            f"({symbols(found)})"
        )
    lines += _missing_of_panel(found)
    if not found["views"] and found["members"] == 1:
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


def _missing_of_panel(found: Found) -> list[str]:
    """What a panel lacks, and why."""
    panel = found["panel"]
    if panel is None:
        return [f"panel: it takes {PANEL_SYMBOLS} or more symbols on two dates or more ({symbols(found)})"]
    lines, each = [], list(panel["horizons"].values())
    if all(of["top_less_bottom"]["mean"] is None for of in each):
        lines.append(
            f"returns by quantile and tranches: no date has {panel['quantiles']} symbols in a strict order; "
            f"set evaluate.quantiles"
        )
    if all(of["decay"] is None for of in each):
        lines.append(
            "tranches, IC by bars ahead, by volatility and by size, and IC left after them: data=windows has "
            "no raw bars"
        )
    elif all(of["residual"] is None for of in each):
        least = ROWS_PER_EXPOSURE * (len(panel["exposures"]) + 1)
        is_small = panel["symbols_a_day"] < least
        why = f"it takes {least} symbols of a date" if is_small else "nothing is left of the forecast"
        lines.append(f"IC left after past return, volatility and size: {why}")
    return lines


def _survivors(found: Found) -> list[str]:
    """How many symbols end early; none of a real panel is a sign of survivorship."""
    panel = found["panel"]
    if panel is None or panel["ended_early"] is None or found["generated"]:
        return []
    early = panel["ended_early"]
    count = f"{early['ended']} of {early['symbols']} symbols ({percent(early['share'])}) end"
    line = f"{count} more than {early['dates']} dates before the last one"
    if not early["ended"]:
        line += (
            ": a sign of survivorship. Symbols that failed or were taken over are missing, and returns are "
            "flattered; compare symbols with each other"
        )
    return [line]
