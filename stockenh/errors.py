"""The errors that a user can cause and mend; the command line prints them as one or two lines."""

import re


def printable(text: str) -> str:
    """The text with what could move a terminal's cursor or hide text as escapes; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def printable_line(text: str) -> str:
    """The same on one line: white space of any kind is a space."""
    return text if text.isprintable() else printable(re.sub(r"\s", " ", text))


class StockenhError(Exception):
    """Anything the program refuses with a clear line; exit code 1 unless a subclass says otherwise."""

    exit_code = 1


class ConfigError(StockenhError):
    """The config, taken by itself or with the data, can't work. The message names the keys at fault."""

    exit_code = 2


class DataError(StockenhError):
    """The user's bars can't be used. The message names the file, the rule and the fix."""

    exit_code = 2


class RunFolderError(StockenhError):
    """A run folder is incomplete, damaged, of another version or not to be trusted."""

    exit_code = 2


class TrainingError(StockenhError):
    """Training had to stop: a non-finite loss, a full disk. What was saved is said in the message."""


class Stopped(KeyboardInterrupt):
    """A requested stop, after what was to be saved is saved; the message names the command that goes on."""


def counted(number: int, noun: str) -> str:
    """`1 symbol`, `1,888 windows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
