"""``poller``: arguments to a command; an error becomes an exit code (sysexits) and lines without secrets."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TypeGuard

import click

from poller.cli import poller
from poller.errors import DatabaseAway, Defer, PollerError

_FRAMES = 6
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


def main() -> None:
    """The console script."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = poller.main(list(arguments), prog_name="poller", standalone_mode=False)
    except click.ClickException as wrong:
        wrong.show()
        return os.EX_USAGE
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except Exception as failure:  # noqa: BLE001 - the last supervision point
        return _told(failure)
    return code if isinstance(code, int) else os.EX_OK


def exit_code(error: PollerError) -> int:
    """The code that *error* ends a command with."""
    if isinstance(error, DatabaseAway):
        return os.EX_UNAVAILABLE
    return os.EX_TEMPFAIL if isinstance(error, Defer) else error.exit_code


def _told(failure: BaseException) -> int:
    """Say what ended the command: a line for what we foresaw, a short traceback for a bug. Returns the exit code."""
    from poller.cli.reading import redactor

    leaves = list(_leaves(failure))
    if all(isinstance(leaf, PollerError) for leaf in leaves):
        errors = [leaf for leaf in leaves if isinstance(leaf, PollerError)]
        for line in dict.fromkeys(line for error in errors for line in str(error).splitlines()):
            click.echo(f"poller: {redactor.clean(line)}", err=True)
        return exit_code(errors[0])
    if unwritten := next((leaf for leaf in leaves if _is_of_output(leaf)), None):
        _drop_output()
        click.echo(f"poller: cannot write the output: {os.strerror(unwritten.errno or errno.EIO)}", err=True)
        return os.EX_IOERR
    for leaf in leaves:
        frames = traceback.extract_tb(leaf.__traceback__)[-_FRAMES:]
        text = "".join([*traceback.format_list(frames), *traceback.format_exception_only(leaf)])
        click.echo(redactor.clean(text.rstrip()), err=True)
    click.echo("poller: this is a bug; please report it with the lines above", err=True)
    return os.EX_SOFTWARE


def _is_of_output(error: BaseException) -> TypeGuard[OSError]:
    """Whether what we print to cannot take it, say a full disk; files that we open ourselves have a name."""
    return isinstance(error, OSError) and error.errno in _FULL and error.filename is None


def _drop_output() -> None:
    """Nobody takes our output; without this the interpreter complains once more while it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


if __name__ == "__main__":
    main()
