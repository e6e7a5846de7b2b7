"""What an evaluation comes to in words: verdicts, warnings, and what is not there and why."""

from __future__ import annotations

import shlex

from stockenh.analysis.evaluation import IMPLAUSIBLE
from stockenh.analysis.ic import FEWEST_SYMBOLS
from stockenh.tables.evaluate import Found, bars, between, title
from stockenh.tables.figures import interval, percent

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
