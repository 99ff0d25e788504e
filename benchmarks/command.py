"""What the benchmarks' command lines have in common."""

import functools
import sys
from collections.abc import Callable

from config import Config, UserError, parse


def command(main: Callable[[], None]) -> Callable[[], int]:
    """Makes `main` return an exit code: 0, or 2 after an error that the user can mend, told in a line."""

    @functools.wraps(main)
    def run() -> int:
        try:
            main()
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

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
