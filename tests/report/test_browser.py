"""The page in a real browser: no error, no request, tabs and sorting by click, text that stays text."""

import shutil
from functools import partial

import pytest

from stockenh.report.candles import candles_chart, tiles
from stockenh.report.page import Page, Picture, Tab, Table, Verdict, Words, write_page
from stockenh.report.table import Grid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt install chromium"),
    pytest.mark.usefixtures("pictures"),
]
PATIENCE = 600_000  # milliseconds: a busy machine only takes longer
HOSTILE = "<script>alert(1)</script>"


def symbol(number):
    bars = [[10 + day, 11.5 + day, 9.5 + day, 10.5 + day + number % 2] for day in range(40)]
    return {
        "symbol": HOSTILE if number == 0 else f"S{number:03}", "dates": ["2020-01-01"] * 40, "bars": bars,
        "up_prob": [0.5, 0.5 + number / 2000], "ret": [0.01, 0.02], "low": [-0.02, -0.05],
        "high": [0.03, 0.06], "is_forecast": number % 2 == 0, "rank": number + 1, "unseen": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of 500 symbols."""
    newest = {
        "asof": "2020-03-01", "horizons": [3, 10], "is_return": True, "has_quantiles": True,
        "symbols": [symbol(number) for number in range(500)],
    }  # fmt: skip
    rows = [(of["symbol"], str(of["rank"]), f"{100 * of['up_prob'][1]:.1f}%") for of in newest["symbols"]]
    grid = Grid("Symbols", ("symbol", "rank", "up"), [rows[:3], rows[3:]], "a caption", ("symbol",))
    tabs = [
        Tab("Overview", [Verdict("A verdict.", "good"), Words([HOSTILE]), Table(grid)]),
        Tab("Empty", []),
        Tab("Forecasts", [Picture("candles", "candles", partial(candles_chart, newest)), tiles(newest)]),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    return write_page(Page(f"Run {HOSTILE}", [("symbol", HOSTILE)], tabs), path)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE)


@pytest.fixture
def view(browser, page):
    """The page on a phone; whatever it says on the console or asks for fails the test."""
    opened = browser.new_page(viewport={"width": 390, "height": 844})
    opened.set_default_timeout(PATIENCE)
    said, requested = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    opened.on("request", lambda request: requested.append(request.url))
    opened.goto(page.as_uri())
    yield opened
    opened.close()
    assert said == [] and requested == [page.as_uri()]


def test_tabs_are_shown_by_click_and_by_key(view):
    assert view.locator("[role=tab]").all_text_contents() == ["Overview", "Forecasts"]
    assert view.get_by_text("A verdict.").is_visible() and not view.get_by_text("All symbols").is_visible()
    view.get_by_role("tab", name="Forecasts").click()
    assert view.get_by_text("All symbols").is_visible() and not view.get_by_text("A verdict.").is_visible()
    view.keyboard.press("ArrowLeft")
    assert view.get_by_text("A verdict.").is_visible()


def test_a_table_is_sorted_by_its_headings_and_filtered(view):
    first = view.locator("tbody tr").first.locator("td")
    view.get_by_role("columnheader", name="up").click()
    assert first.all_text_contents() == [HOSTILE, "1", "50.0%"]
    view.get_by_role("columnheader", name="up").click()
    assert first.all_text_contents() == ["S499", "500", "75.0%"]
    view.get_by_role("columnheader", name="symbol").press("Enter")
    assert first.first.text_content() == HOSTILE
    view.get_by_role("searchbox").first.fill("s01")
    assert view.locator("tbody tr:visible").count() == 10


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read_in_the_dark(view, scheme):
    view.emulate_media(color_scheme=scheme)
    assert view.evaluate("document.documentElement.scrollWidth") <= 390
    ink, back = view.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    level = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, back)]
    assert abs(level[0] - level[1]) > 500 and (level[0] > level[1]) == (scheme == "dark")


def test_without_scripts_and_on_paper_everything_is_shown(browser, page):
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.set_default_timeout(PATIENCE)
    plain.goto(page.as_uri())
    assert plain.get_by_text("All symbols").is_visible()
    context.close()
    printed = browser.new_page()
    printed.set_default_timeout(PATIENCE)
    printed.goto(page.as_uri())
    printed.emulate_media(media="print")
    assert printed.get_by_text("All symbols").is_visible()
    assert not printed.get_by_role("tablist").is_visible()
    printed.close()


def test_a_page_of_500_symbols_is_small(page):
    assert page.stat().st_size < 3_000_000
