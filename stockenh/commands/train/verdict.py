"""What the scores of a test part say, in a sentence per horizon, before a full evaluation says more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stockenh.report.figure import bars_text
from stockenh.report.table import between, number, percent

BETTER, WORSE, NOT_SHOWN = "good", "bad", "open"  # tones of `Verdict`


def test_verdicts(scores: Mapping[str, Mapping[str, Any]], relative: bool = False) -> list[tuple[str, str]]:
    """(tone, sentence) of each horizon. scores: {"h3": {...}} of summary.json's test part; relative: whether
    up is above the day's median."""
    return [_verdict(horizon, of, relative) for horizon, of in scores.items()]


def _verdict(horizon: str, of: Mapping[str, Any], relative: bool) -> tuple[str, str]:
    tone, text = NOT_SHOWN, ""
    if of.get("rank_ic") is not None:
        tone, text = _order(of)
    larger = "the larger side" if relative else "always the larger class"
    if of["accuracy"] is None:
        return tone, f"{bars_text(horizon)} ahead: {text or 'no row of the test part has a direction'}."
    figures = f"({percent(of['accuracy'])} against {percent(of['majority'])})"
    low, high = of.get("accuracy_low"), of.get("accuracy_high")
    if low is None or high is None or of["majority"] is None:
        direction = f"there are too few dates to compare the forecast direction with {larger} {figures}"
    elif low > of["majority"]:
        direction = f"the forecast direction is better than {larger} {figures}"
        tone = BETTER if not text else tone
    elif high < of["majority"]:
        direction = f"the forecast direction is worse than {larger} {figures}"
        tone = WORSE if not text else tone
    else:
        direction = f"the forecast direction is not shown to be better than {larger} {figures}"
    return tone, f"{bars_text(horizon)} ahead: {'; '.join(part for part in (text, direction) if part)}."


def _order(of: Mapping[str, Any]) -> tuple[str, str]:
    low, high = of.get("rank_ic_low"), of.get("rank_ic_high")
    figures = f"(rank IC {number(of['rank_ic'], 3)}, 95% {between(low, high, 1, 3)})"
    if low is None or high is None:
        return NOT_SHOWN, f"there are too few dates to judge the order of the day's symbols {figures}"
    if low > 0:
        return BETTER, f"the model orders the day's symbols better than chance {figures}"
    if high < 0:
        return WORSE, f"the model orders the day's symbols worse than chance {figures}"
    return NOT_SHOWN, f"the model is not shown to order the day's symbols better than chance {figures}"
