"""What the benchmarks' command lines have in common."""

import functools
import signal
import sys
from collections.abc import Callable

from report import RESULTS

from config import Config, UserError, parse


def command(main: Callable[[], int | None]) -> Callable[[], int]:
    """Makes `main` return an exit code: its own or 0, or 2 after an error that the user can mend, told in a line."""

    @functools.wraps(main)
    def run() -> int:
        try:
            RESULTS.mkdir(parents=True, exist_ok=True)  # now, so that a place where it cannot be made costs nothing
            return main() or 0
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped; what was written before stands", file=sys.stderr)
            return 128 + signal.SIGINT

    return run


def settings(flags: list[str] | None = None) -> Config:
    """The settings of train.py's flags, of the command line where none are given.

    Raises UserError where they cannot work or ask to go on with a run: benchmarks begin with nothing.
    """
    config, folder, _ = parse(flags)
    if folder is not None or config.begin_with:
        flag = "--begin-with" if folder is None else "--resume"
        raise UserError(f"{flag} names a run, but a benchmark trains models that begin with nothing. Leave it out.")
    return config
