"""`python -m stockenh` and the console script, which a stop ends in one line wherever the program is."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def _stop(signum: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but ends the process at once within an import: a module that is interrupted
    halfway can raise anything later, and nothing is being written."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"stockenh: interrupted\n")
            os._exit(INTERRUPTED)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """The console script."""
    # the last is what Slurm sends before a time limit or a preemption; not every system has it
    for number in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR2", None))):
        if signal.getsignal(number) != signal.SIG_IGN:  # as in the background of a shell
            signal.signal(number, _stop)
    try:
        from stockenh import cli

        cli.main()
    except KeyboardInterrupt:
        print("stockenh: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
