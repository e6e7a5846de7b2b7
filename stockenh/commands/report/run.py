"""The report of one run: everything that its folder holds of training, test, evaluation and forecasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from stockenh.commands.audit.show import audit_chart
from stockenh.commands.evaluate.panel_tables import panel_grids
from stockenh.commands.evaluate.pictures import DETAILS, pictures
from stockenh.commands.evaluate.sentences import notes
from stockenh.commands.evaluate.tables import grids, part_line
from stockenh.commands.report.reading import damaged, optional
from stockenh.commands.report.several import curves_chart
from stockenh.commands.runs.listing import option_of
from stockenh.commands.train.details import NAME
from stockenh.commands.train.figures import PART_TITLES, accuracy_chart, reliability_chart, training_curves
from stockenh.commands.train.result import loss_in_words, result_grid, title_of
from stockenh.commands.train.verdict import test_verdicts
from stockenh.evaluation.reliability import ends_of_lists
from stockenh.inference.calibration import curves_of_lists
from stockenh.report.candles import candles_chart, tiles
from stockenh.report.page import Block, Code, Page, Picture, Tab, Table, Verdict, Words
from stockenh.report.table import Grid, number, of_target, percent
from stockenh.storage.run_folder import RunFolder
from stockenh.storage.untrusted import is_file

Found = Mapping[str, Any]

TONES = {"better": "good", "worse": "bad"}
OF_ORDER = ("years", "ic", "quantiles", "decay")  # pictures
MOST_ROWS = 2000  # of a table, and symbols that are drawn: a folder may hold any number


def run_page(folder: RunFolder) -> Page:
    """The page of a run that has trained. Raises RunFolderError where a file is not what a run writes."""
    config = folder.read_config()
    summary = dict(folder.read_summary()) if is_file(folder.summary) else {}
    details = optional(folder.report / NAME)
    evaluated = optional(folder.report / "evaluation.json")
    series = optional(folder.report / DETAILS)
    if not series:
        evaluated = {}
    with damaged(folder.path):
        tabs = [
            Tab("Overview", _overview(config, summary, evaluated)),
            Tab("Training", _training(folder, config, summary)),
            *evaluation_tabs(evaluated, series),
            Tab("Calibration", _calibration(summary, details)),
            Tab("Years and symbols", part_tables(series or details, of_target(_target(config)))),
            Tab("Forecasts", forecast_blocks(details.get("newest"))),
            Tab("Leaks", _audit(optional(folder.report / "audit.json"))),
            Tab("Distillation", _distillation(optional(folder.path / "distillation.json"))),
            Tab("Config", _config(folder, config)),
        ]
        return Page(f"Run {folder.path.absolute().name}", _facts(config, summary), tabs)


def evaluation_tabs(found: Found, series: Found) -> list[Tab]:
    """Panel, baselines and portfolio of an evaluation; none without one."""
    if not found:
        return []
    drawn = {picture.name: picture for picture in pictures(found, series)}

    def some(names: Sequence[str]) -> list[Block]:
        return [drawn[name] for name in names if name in drawn]

    of_panel = [Table(grid) for grid in panel_grids(found)]
    rest = [Table(grid) for grid in grids(found)]
    traded = [table for table in rest if table.grid.title.startswith("Next bar")]
    scores = [table for table in rest if table not in traded]
    lines = [line.replace("  ", " ") for line in notes(found)]
    return [
        Tab("Order of symbols", [*some(OF_ORDER), *of_panel] if of_panel else []),
        Tab("Baselines", [*some(("baselines", "coverage")), *scores, Words(lines, "What the figures say")]),
        Tab("Portfolio", [*some(("tranches", "curve")), *traded]),
    ]


def verdict_blocks(found: Found) -> list[Block]:
    """The verdicts of an evaluation, first."""
    return [Verdict(of["text"], _tone(of)) for of in found["verdict"].values()]


def part_tables(of: Found, target: str) -> list[Block]:
    """Scores by year at every horizon, and by symbol at the largest."""
    made: list[Block] = []
    if by_year := of.get("by_year"):
        rows = [
            (year, horizon.removeprefix("h"), *_score_cells(scores))
            for year, horizons in by_year.items()
            for horizon, scores in horizons.items()
        ]
        made.append(Table(_part_grid(f"Direction by year{target}", ("year", "bars"), rows)))
    if by_symbol := of.get("by_symbol"):
        last = list(next(iter(by_symbol.values())))[-1]
        rows = [(symbol, *_score_cells(scores[last])) for symbol, scores in by_symbol.items()]
        title = f"Direction by symbol at {last.removeprefix('h')} bars{target}"
        made.append(Table(_part_grid(title, ("symbol",), rows)))
    return made


def forecast_blocks(newest: Found | None) -> list[Block]:
    """The newest bars with their forecasts: the most interesting large, all of them small."""
    if not newest or not newest["symbols"]:
        return []
    newest = {**newest, "symbols": newest["symbols"][:MOST_ROWS]}
    return [Picture("candles", "newest bars and forecasts", partial(candles_chart, newest)), tiles(newest)]


def _part_grid(title: str, first: tuple[str, ...], rows: Sequence[Sequence[str]]) -> Grid:
    columns = (*first, "n", "accuracy", "majority", "points above", "AUC", "log loss")
    caption = (
        "on the test part, rows without direction left out. majority: share of the larger class of these "
        "rows. With so many rows of the table some stand out by chance alone"
    )
    return Grid(title, columns, [rows[:MOST_ROWS]], caption, ("symbol",))


def _score_cells(of: Found) -> tuple[str, ...]:
    above = "n/a" if of["accuracy"] is None else f"{100 * (of['accuracy'] - of['majority']):+.1f}"
    return (
        f"{of['n']:,}", percent(of["accuracy"]), percent(of["majority"]), above, number(of["auc"], 3),
        number(of["log_loss"]),
    )  # fmt: skip


def _overview(config: Found, summary: Found, evaluated: Found) -> list[Block]:
    if not summary:
        return [Verdict("The run is not finished: it has no result yet.")]
    parts, target = summary["parts"], summary.get("target", "absolute")
    blocks: list[Block] = verdict_blocks(evaluated) if evaluated else []
    if not blocks:
        relative = target in ("market_relative", "rank")
        blocks = [Verdict(text, tone) for tone, text in test_verdicts(parts.get("test", {}), relative)]
    if evaluated:
        blocks.append(Words([f"Evaluated on {part_line(evaluated)}."]))
    else:
        blocks.append(Words(["stockenh evaluate run=RUN compares it with fitted baselines, here."]))
    blocks.append(Table(result_grid(parts, title_of(summary), 1000, target)))
    if set(parts) & set(PART_TITLES):
        draw: Callable[[Path], object] = partial(accuracy_chart, parts, of=of_target(target))
        blocks.append(Picture("accuracy", "direction accuracy by part and horizon", draw))
    if warnings := summary.get("warnings"):
        blocks.append(Words([str(line) for line in warnings], "Warnings"))
    return blocks


def _member_histories(folder: RunFolder, summary: Found) -> dict[str, list[dict[str, Any]]]:
    """The epochs of each member of an ensemble, by its seed."""
    found = {}
    for one in summary.get("members", ()):
        member = RunFolder(folder.path / "members" / str(int(one["seed"])))
        found[f"seed {one['seed']}"] = [dict(line) for line in member.read_metrics()]
    return found


def _cell(value: object) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _training(folder: RunFolder, config: Found, summary: Found) -> list[Block]:
    if members := _member_histories(folder, summary):
        draw: Callable[[Path], object] = partial(curves_chart, members)
        names = ("seed", "weights", "best_epoch", "epochs", "val_loss", "seconds")
        cells = [[_cell(one[name]) for name in names] for one in summary["members"]]
        grid = Grid("Members", [name.replace("_", " ") for name in names], [cells], left=("weights",))
        return [Picture("members", "validation loss of every member by epoch", draw), Table(grid)]
    history: list[dict[str, Any]] = [dict(line) for line in folder.read_metrics()][-MOST_ROWS:]
    if not history:
        return []
    draw = partial(training_curves, history, loss=loss_in_words(config))
    rows = [
        (
            str(line["epoch"]), number(line["train_loss"]), number(line["val_loss"]),
            f"{line['lr']:.3g}" if line.get("lr") is not None else "n/a",
            f"{line['windows_per_second']:,.0f}", str(line["weights"]), "best" if line.get("best") else "",
        )
        for line in history
    ]  # fmt: skip
    columns = (
        "epoch",
        "train loss",
        "validation loss",
        "learning rate",
        "windows/s",
        "weights",
        "best so far",
    )
    caption = (
        "validation loss: the plain loss of the base recipe, whatever loss is trained, so that runs compare"
    )
    return [
        Picture("curves", "loss, accuracy and learning rate by epoch", draw),
        Table(Grid("Epochs", columns, [rows], caption, ("weights", "best so far"))),
    ]


def _calibration(summary: Found, details: Found) -> list[Block]:
    if not (curves := details.get("reliability")):
        return []
    before, after = (curves_of_lists(curves[name]) for name in ("before", "after"))
    ends = ends_of_lists(details["intervals"])
    part = f"the test part{of_target(summary.get('target', 'absolute'))}"
    return [
        Picture(
            "reliability",
            "how often prices rose by the forecast probability",
            partial(reliability_chart, before, after, part=part, intervals=ends),
        )
    ]


def _audit(found: Found) -> list[Block]:
    if not found:
        return [Words(["stockenh audit run=RUN looks for leaks, and adds its findings here."])]
    leaks = found["leaks"]
    text = f"Leaks found: {', '.join(leaks)}." if leaks else "No leak was found."
    keys = ("name", "finding", "measured", "advice")
    rows: list[tuple[str, ...]] = [tuple(str(check[key]) for key in keys) for check in found["checks"]]
    names = ("check", "finding", "what was measured", "what to do")
    blocks: list[Block] = [
        Verdict(text, "bad" if leaks else "good"),
        Table(Grid("Checks", names, [rows], left=names)),
        Picture("audit", "correlations of inputs, and accuracy by split", partial(audit_chart, found)),
    ]
    if found.get("splits"):
        rows = [
            (
                model, horizon.removeprefix("h"), split, f"{of['n']:,}", percent(of["accuracy"]),
                percent(of["majority"]),
            )
            for model, by_horizon in found["splits"].items()
            for horizon, by_split in by_horizon.items()
            for split, of in by_split.items()
        ]  # fmt: skip
        columns = ("model", "bars", "split", "n", "accuracy", "majority")
        caption = "accuracy on the context features alone: the run's split, and its windows split at random"
        grid = Grid("Random against purged split", columns, [rows], caption, ("model", "split"))
        blocks.append(Table(grid))
    return blocks


def _distillation(found: Found) -> list[Block]:
    if not found:
        return []
    from stockenh.commands.distill.compare import cost_grid, distillation_chart, retention_grid

    blocks: list[Block] = []
    if found["part"]:
        draw: Callable[[Path], object] = partial(distillation_chart, found["scores"], target=found["target"])
        blocks += [
            Picture("distillation", "accuracy of teacher and students", draw),
            Table(retention_grid(found["scores"], found["target"])),
        ]
    return [*blocks, Table(cost_grid(found["cost"], f"on {found['device']}, eager fp32"))]


def _config(folder: RunFolder, config: Found) -> list[Block]:
    blocks: list[Block] = [
        Code(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), "config.yaml")
    ]
    if is_file(folder.manifest):
        manifest = dict(folder.read_manifest())
        blocks.append(Code(yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True), "Made with"))
    return blocks


def _facts(config: Found, summary: Found) -> list[tuple[str, str]]:
    options = {
        name: option_of(name, node)
        for name in ("model", "data", "target", "split", "loss", "embedding")
        if isinstance(node := config.get(name), Mapping) and "_target_" in node
    }
    facts = [(name, str(option)) for name, option in options.items()]
    if summary:
        facts += [
            ("windows", f"{summary['windows']:,}"),
            ("parameters", f"{summary['parameters']:,}"),
            ("weights", f"{summary['weights']}, epoch {summary['best_epoch']} of {summary['epochs']}"),
            ("trained in", f"{summary['seconds']:,.0f} s on {summary['device']} in {summary['precision']}"),
            ("seed", str(summary["seed"])),
        ]
    return facts


def _target(config: Found) -> str:
    node = config.get("target")
    return option_of("target", node) if isinstance(node, Mapping) and "_target_" in node else "absolute"


def _tone(of: Found) -> str:
    return TONES.get(str(of.get("order") or of.get("direction") or ""), "open")
