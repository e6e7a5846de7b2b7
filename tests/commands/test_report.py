"""The page of results: what it holds, and what it makes of folders that are not whole or somebody else's."""

import html
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

SVG_EVENTS = ("onload=", "onclick=", "onerror=")


class Outline(HTMLParser):
    """Tabs, tables and what could load or run something."""

    def __init__(self, text):
        super().__init__()
        self.tabs, self.scripts, self.links, self.rows, self._in_tab = [], 0, [], 0, False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.scripts += tag == "script"
        self.rows += tag == "tr"
        self._in_tab = given.get("role") == "tab"
        values = (value or "" for name, value in attrs if name in ("src", "href", "xlink:href"))
        self.links += [value for value in values if not value.startswith(("#", "data:,"))]

    def handle_data(self, data):
        if self._in_tab:
            self.tabs.append(data)
            self._in_tab = False


@pytest.fixture(scope="module")
def run(finished_run, tmp_path_factory):
    return Path(shutil.copytree(finished_run, tmp_path_factory.mktemp("report") / "run"))


def outline(folder):
    return Outline((folder / "report.html").read_text())


def test_training_leaves_a_page_that_stands_alone(finished_run):
    page = outline(finished_run)
    assert page.tabs == [
        "Overview", "Training", "Calibration", "Years and symbols", "Forecasts", "Leaks", "Config"
    ]  # fmt: skip
    assert page.scripts == 1 and page.links == []
    text = (finished_run / "report.html").read_text()
    assert text.count("<svg") >= 5 and len(text) < 3_000_000
    assert "always the larger class" in text and "default-src 'none'" in text


def test_an_evaluation_joins_the_page_of_its_run(run, stockenh, here):
    before = outline(run)
    answer = stockenh("evaluate", f"run={run}", "tta.views=0", "evaluate.resamples=100", code=0)
    assert f"page     {run / 'report.html'}" in answer.out
    after = outline(run)
    assert after.tabs[:4] == ["Overview", "Training", "Baselines", "Portfolio"]
    assert after.rows > before.rows + 30
    verdict = json.loads((run / "report" / "evaluation.json").read_text())["verdict"]["h3"]["text"]
    assert html.escape(verdict, quote=False).replace("'", "&#39;") in (run / "report.html").read_text()
    stockenh("evaluate", f"run={run}", "tta.views=0", "evaluate.resamples=100", "hydra.run.dir=ev", code=0)
    assert outline(here / "ev").tabs[0] == "Overview" and "Config" not in outline(here / "ev").tabs


def test_report_draws_the_same_page_again_from_the_folder_alone(run, stockenh, here):
    stockenh("report", str(run), code=0)
    first = (run / "report.html").read_text()
    moved = Path(shutil.copytree(run, here / "moved" / "run"))
    for gone in ("weights", "checkpoints", "fitted.json"):
        shutil.rmtree(moved / gone) if (moved / gone).is_dir() else (moved / gone).unlink()
    stockenh("report", str(moved), "out=page.html", code=0)
    assert (here / "page.html").read_text() == first
    stockenh("report", f"run={run}", code=0)


def test_several_runs_are_compared(run, finished_run, stockenh, here):
    answer = stockenh("report", str(run), str(finished_run), code=0)
    assert "report.html" in answer.out
    page = outline(here)
    assert page.tabs == ["Overview", "Config"] and page.rows >= 6


def test_a_forecast_has_a_page_of_its_own(run, stockenh, here):
    stockenh("tta-predict", f"run={run}", "hydra.run.dir=fc", code=0)
    assert outline(here / "fc").tabs == ["Forecasts"]
    newest = json.loads((here / "fc" / "forecast.json").read_text())["newest"]
    assert [of["symbol"] for of in newest["symbols"]] == ["AAA", "BBB"]
    for of in newest["symbols"]:
        assert len(of["bars"]) == len(of["dates"]) == 40 and all(len(bar) == 4 for bar in of["bars"])
        assert of["low"][0] < of["high"][0] and not of["is_forecast"]
    text = (here / "fc" / "report.html").read_text()
    assert text.count('class="tile"') == 2


HOSTILE = "<script>alert(1)</script>\x1b[31m\" onload='x"


def renamed(value, old, new):
    """The same containers with a text replaced everywhere, in keys too."""
    if isinstance(value, dict):
        return {renamed(k, old, new): renamed(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [renamed(v, old, new) for v in value]
    return new if value == old else value


def test_what_comes_from_data_stays_text(run, stockenh, here):
    copy = Path(shutil.copytree(run, here / "hostile"))
    for path in (copy / "report").glob("*.json"):
        path.write_text(json.dumps(renamed(json.loads(path.read_text()), "AAA", HOSTILE)))
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps({**summary, "warnings": [HOSTILE], "device": HOSTILE}))
    stockenh("report", str(copy), code=0)
    text = (copy / "report.html").read_text()
    assert outline(copy).scripts == 1 and "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[31m" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("report/details.json", {"newest": {"symbols": [{"symbol": "A"}], "horizons": [1]}}),
        ("report/details.json", {"reliability": {"before": 3}}),
        ("report/evaluation.json", {"horizons": {}}),
        ("report/evaluation_series.json", [1, 2]),
        ("report/audit.json", {"leaks": 5}),
        ("summary.json", {"parts": {}}),
        ("config.yaml", "3"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_line(name, content, run, refused, here):
    copy = Path(shutil.copytree(run, here / "damaged"))
    text = content if isinstance(content, str) else json.dumps(content)
    (copy / name).write_text(text)
    assert str(copy) in refused("report", str(copy))


def test_nothing_is_written_through_a_link(run, refused, here):
    copy = Path(shutil.copytree(run, here / "linked"))
    (copy / "report.html").unlink()
    (copy / "report.html").symlink_to(here / "elsewhere")
    assert "link" in refused("report", str(copy))
    assert not (here / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no folder given"),
        (["nowhere"], "nowhere: no such folder"),
        (["--open"], "o such option: --open"),
        (["model=x"], "model: no such key"),
        (["."], "holds no result of stockenh"),
    ],
)
def test_what_is_no_folder_of_results_is_refused(arguments, message, stockenh, here):
    answer = stockenh("report", *arguments)
    assert answer.code in (1, 2) and message in answer.err and "\n" not in answer.err.strip()
