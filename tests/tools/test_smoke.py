"""`make test-lowest` runs every command there is."""

import importlib
from pathlib import Path

import typer

from stockenh import cli

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def test_every_command_has_a_step(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    smoke = importlib.import_module("smoke")
    root = typer.main.get_command(cli.app)
    commands = {" ".join(names) for names in leaves(root)}
    lines = [step.line for step in smoke.STEPS]
    assert {command for command in commands if not any(line.startswith(command) for line in lines)} == set()


def leaves(command, names=()):
    if not hasattr(command, "commands"):
        return [names]
    return [leaf for name, part in command.commands.items() for leaf in leaves(part, (*names, name))]
