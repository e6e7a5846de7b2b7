"""The subcommands. Typer reads the command line, Hydra composes what follows; neither imports torch."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

import stockenh
from stockenh.config.catalog import complete, default_keys, groups, groups_of, plugin_keys, root_of
from stockenh.config.hints import refuse_first_word, refuse_words
from stockenh.errors import StockenhError, printable
from stockenh.training.world import refuse_several

# Keys with a structure below them, which the docs of the command describe.
STRUCTURES = ("ablate.techniques", "ablate.all_claims", "sweep.params", "sweep.sampler", "sweep.pruner")
USAGE = 2
INTERRUPTED = 130
PLUGINS = "stockenh.plugins"  # in a command's context
LONGEST = 4000  # characters of a message, which may quote a value

app = typer.Typer(
    help="Trains, tunes, compresses and judges deep models that forecast stocks from daily bars.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
data_app = typer.Typer(help="Looks after a user's bars.", no_args_is_help=True)
app.add_typer(data_app, name="data")

PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


class WithPlugins(TyperCommand):
    """A command that takes --plugin."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        from stockenh.config import registry

        if ctx.resilient_parsing:  # completion
            ctx.meta[PLUGINS] = registry.named_in(args)
            return super().parse_args(ctx, args)
        with guarded():
            named, rest = registry.without_flags(args)
        before = ctx.find_root().params.get("plugin") or ()
        ctx.meta[PLUGINS] = [*before, *named]
        return super().parse_args(ctx, rest)

    def invoke(self, ctx: Any) -> Any:
        with guarded():
            from stockenh.config import plugins

            plugins.use(ctx.meta[PLUGINS])
            plugins.load()
        return super().invoke(ctx)


class Composed(WithPlugins):
    """A command with a root config, whose groups and keys its help lists."""

    def invoke(self, ctx: Any) -> Any:
        arguments = ctx.params.get("overrides") or []
        with guarded():
            if "path" in ctx.params:
                refuse_first_word(str(ctx.params["path"]), arguments)
            refuse_words(_root(ctx), arguments)
        return super().invoke(ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with guarded():
            _load_named(ctx.meta.get(PLUGINS, ()))
        super().format_help(ctx, formatter)
        _print_keys(_root(ctx))


def _load_named(named: Sequence[str]) -> None:
    """Loads the plugins that a command line names, but none that are installed; imports nothing for none."""
    if named:
        from stockenh.config import plugins

        plugins.use(named)
        plugins.load(installed=False)


def _print_keys(root: str) -> None:
    """Prints a root config's groups with their options, and its keys with default and comment."""
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console, known = Console(), groups()
    console.print(" Config groups and their options:")
    for group, option in groups_of(root).items():
        if group in known:
            default = f"   [dim](default: {option})[/dim]" if option is not None else ""
            line = f"[bold]{group}[/bold]={' | '.join(known[group])}{default}"
            console.print(Padding(line, (0, 0, 0, 3), expand=False), highlight=False)
    console.print("\n Keys (KEY=VALUE), with those of each group's default option and of plugins:")
    table = Table(box=box.SIMPLE, padding=(0, 1), header_style="dim")
    table.add_column("key", no_wrap=True)
    table.add_column("default", overflow="fold")
    table.add_column("what it is", ratio=1)
    for key in [*default_keys(root), *plugin_keys(root)]:
        if not key.name.startswith(STRUCTURES):
            table.add_row(Text(key.name), Text(key.default), Text(key.comment))
    console.print(table)


def _root(context: typer.Context) -> str:
    """The name of a command's root config: `data_check` for `data check`."""
    parent = context.parent.info_name if context.parent is not None else None
    return root_of(f"{parent} {context.info_name}" if parent == "data" else str(context.info_name))


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    # bash's own words: typer leaves out those before the cursor, and an "=" under it
    words = os.environ.get("COMP_WORDS", "").split("\n")
    index = int(os.environ.get("COMP_CWORD") or 0)
    with contextlib.suppress(Exception):  # what is wrong with a plugin is said when the command runs
        from stockenh.config import registry

        _load_named(registry.named_in(words[:index]) if index else ctx.meta.get(PLUGINS, ()))
    if 0 < index < len(words):
        return complete(_root(ctx), words[:index], words[index])
    return complete(_root(ctx), [], incomplete)


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[GROUP=OPTION|KEY=VALUE]...",
        help="Hydra overrides, and Hydra's flags such as --multirun, --cfg job, --config-dir DIR. "
        "--plugin FILE.py, or a module: own models, losses and targets (docs/own_model.md).",
        autocompletion=_complete,
    ),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"stockenh {stockenh.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE.py|MODULE", help="Own models, losses and targets: docs/own_model.md."),
    ] = None,
) -> None:
    if context.invoked_subcommand not in (None, "train"):
        with guarded():
            refuse_several(f"stockenh {context.invoked_subcommand}")


@app.command(cls=Composed, context_settings=PASS_ON)
def train(overrides: Overrides = None) -> None:
    """Train one run; with resume=RUN continue one; with --multirun train a grid.

    run_config=FILE takes a sweep's best.yaml, or a run's config.yaml, as the recipe.

    Example: stockenh train model=timeformer data=files data.path=DIR train.epochs=10
    """
    with guarded():
        from stockenh.commands import train as task

        task.train(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def sweep(overrides: Overrides = None) -> None:
    """Search hyper-parameters with Optuna: trials chosen on validation, pruned, resumable, in parallel.

    Example: stockenh sweep model=student sweep.n_trials=20 sweep.n_workers=2; stockenh sweep resume=DIR
    """
    with guarded():
        from stockenh.commands import sweep as task

        task.sweep(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def ablate(overrides: Overrides = None) -> None:
    """Compare every technique with the plain recipe, alone and together, over seeds; judge what is claimed.

    Example: stockenh ablate ablate=quick; stockenh ablate ablate=full data=sample; stockenh ablate resume=DIR
    """
    with guarded():
        from stockenh.commands import ablate as task

        task.ablate(overrides or [])


@app.command(cls=WithPlugins)
def runs(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DIR|RUN]... [KEY=VALUE]...",
            help="Folders to look in (default: outputs), and values that the runs' configs must have.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            help="Send the runs to a tracker: mlflow, tensorboard or wandb; with tracker.KEY=VALUE."
        ),
    ] = None,
) -> None:
    """List run folders, newest first; set two or more side by side; send them to a tracker.

    Examples: stockenh runs; stockenh runs DIR model=timeformer loss=focal; stockenh runs RUN RUN;
    stockenh runs DIR --to mlflow tracker.uri=http://HOST:5000
    """
    with guarded():
        from stockenh.commands import runs as task

        task.runs(arguments or [], to)


@app.command()
def report(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="FOLDER... [out=FILE]", help="A folder that stockenh wrote, or several runs."),
    ] = None,
) -> None:
    """Write one self-contained HTML page of a run, an evaluation, a sweep, an ablation, or of several runs.

    Examples: stockenh report RUN; stockenh report RUN RUN out=compare.html
    """
    with guarded():
        from stockenh.commands import report as task

        task.report(arguments or [])


@app.command("find-lr", cls=Composed, context_settings=PASS_ON)
def find_lr(overrides: Overrides = None) -> None:
    """Find the learning rate: a range test with a run's training step, its curve and an override to paste.

    Example: stockenh find-lr model=timeformer_xl train.batch_size=256
    """
    with guarded():
        from stockenh.commands import train as task

        task.find_lr(overrides or [])


@app.command("tta-predict", cls=Composed, context_settings=PASS_ON)
def tta_predict(overrides: Overrides = None) -> None:
    """Forecast the newest bar of every symbol, or tta.from to tta.to, with a finished run; no labels needed.

    Example: stockenh tta-predict run=RUN data=files data.path=DIR tta.views=4 weights=ema
    """
    with guarded():
        from stockenh.commands import finished as task

        task.tta_predict(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def track(overrides: Overrides = None) -> None:
    """Score recorded forecasts by the bars since, beside what the run's own test part promised.

    Example: stockenh track ledger=FILE data=files data.path=DIR
    """
    with guarded():
        from stockenh.commands import track as task

        task.track(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def distill(overrides: Overrides = None) -> None:
    """Train a student on a finished run, and the same student without it; a table sets them side by side.

    Example: stockenh distill teacher=RUN distill.temperature=2 model=student
    """
    with guarded():
        from stockenh.commands import distill as task

        task.distill(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def export(overrides: Overrides = None) -> None:
    """Write a finished run's model as ONNX and torch.export, checked against the run's own forecasts.

    Example: stockenh export run=RUN export.int8=true
    """
    with guarded():
        from stockenh.commands import finished as task

        task.export(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def explain(overrides: Overrides = None) -> None:
    """Say what a finished run's forecasts come from: attributions to every input, and a model's own weights.

    Example: stockenh explain run=RUN explain.windows=64 weights=ema
    """
    with guarded():
        from stockenh.commands import finished as task

        task.explain(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def audit(overrides: Overrides = None) -> None:
    """Look for leaks in a finished run: bars, labels, rows that it should not have seen. Exit code 1: found.

    Example: stockenh audit run=RUN audit.shuffles=8
    """
    with guarded():
        from stockenh.commands import finished as task

        task.audit(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def evaluate(overrides: Overrides = None) -> None:
    """Judge a finished run on its test part: scores, baselines, intervals, a curve after costs.

    Examples: stockenh evaluate run=RUN; stockenh evaluate run=SWEEPDIR (pools the folds of a walk-forward)
    """
    with guarded():
        from stockenh.commands import finished as task

        task.evaluate(overrides or [])


@app.command(cls=Composed, context_settings=PASS_ON)
def bench(overrides: Overrides = None) -> None:
    """Measure this machine: speed and memory against the plain recipe and the floor, technique by technique.

    Example: stockenh bench bench=quick model=timeformer_xl device=cpu
    """
    with guarded():
        from stockenh.commands import bench as task

        task.bench(overrides or [])


@data_app.command("check", cls=Composed, context_settings=PASS_ON)
def data_check(
    path: Annotated[Path, typer.Argument(help="A file, or a folder of one file per symbol.")],
    overrides: Overrides = None,
) -> None:
    """Say what is wrong with bars, where, and how to mend it. Exit code 0: usable; 2: not.

    Example: stockenh data check DIR data.columns.close=Settle
    """
    with guarded():
        from stockenh.commands import data_check as task

        task.data_check(path, overrides or [])


@contextmanager
def guarded() -> Iterator[None]:
    """Around a command: what a user can mend becomes one or two lines and an exit code."""
    try:
        yield
    except StockenhError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt as stop:
        _fail(str(stop) or "interrupted", INTERRUPTED)
    except BrokenPipeError:
        # the reader went away (`| head`): nothing more to say, and nowhere to say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except OSError as error:
        _fail(f"{error.filename or ''} {error.strerror or error}".strip(), 1)
    except Exception as error:
        if (line := _blamed(error)) is None:
            raise
        _fail(line, USAGE)


def _blamed(error: Exception) -> str | None:
    """One line for what the code of a plugin raised; None for other errors."""
    if "stockenh.config.plugins" not in sys.modules:
        return None
    from stockenh.config import plugins

    return plugins.blame(error)


def _fail(message: str, code: int) -> NoReturn:
    shown = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
    print(f"stockenh: {printable(shown)}", file=sys.stderr)
    raise typer.Exit(code) from None


def main() -> None:
    """The program; see `stockenh.__main__`."""
    try:
        sys.exit(app(prog_name="stockenh", standalone_mode=False))
    except typer.Abort:  # typer's word for a KeyboardInterrupt
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer's usage errors, whose class it keeps private; with no arguments its "error" is the help
        if not hasattr(error, "format_message"):
            raise
        if message := error.format_message():
            command = getattr(getattr(error, "ctx", None), "command_path", "stockenh")
            print(f"stockenh: {message} See: {command} --help", file=sys.stderr)
        sys.exit(USAGE)
