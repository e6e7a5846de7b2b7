"""The errors that a user can cause and mend; the command line prints them as one or two lines."""

import re

# Control characters but for the line break and the tab, marks that reverse the direction of a text, and
# halves of surrogate pairs, which have no encoding.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with characters that could move a terminal's cursor, or end a line of a log, as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
