"""The ``aista`` command: its verbs stand in the files of this package, each of which offers ``app``.

The body of a verb imports what it needs when it is called, so that ``aista --help`` is there at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys

import typer

from aista import processes
from aista.errors import AistaError, Interrupted

# In the order of the help page.
_FILES = ("experiments", "translate", "stages", "probe", "monitor", "evaluate", "serve", "weights", "machine")
# Full, read-only, over quota, or failing.
_OF_A_DISK = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO, errno.EFBIG)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="AI-STA: speech translation with large language models, speech and text aligned inside the model.",
    epilog="Start with `aista demo`, or `aista translate talk.wav --to zh`.",
)


@app.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    if version:
        from aista import __version__

        typer.echo(__version__)
        raise typer.Exit


def _add_verbs() -> None:
    from aista.cli import data, weights

    for name in _FILES:
        app.add_typer(importlib.import_module(f"aista.cli.{name}").app)
    for group, verbs in (("data", data.app), ("import", weights.imports), ("export", weights.exports)):
        app.add_typer(verbs, name=group)


def main() -> None:
    """Run a verb; an error of ours or of a disk is a message and exit code 2.

    An interruption is exit code 130, of Ctrl-C as of SIGTERM, which schedulers send.
    """
    # Under a launcher a process may wait in a message for one that is gone: there SIGTERM ends it at once.
    if processes.count() == 1 and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _hear_sigterm()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "download" not in sys.argv:  # bars of transformers' own for loading a file of some megabytes
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not processes.is_main():  # results are printed once
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):  # names and texts that a terminal's encoding lacks end no batch
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        _add_verbs()
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk is told here, not when Python ends
    except AistaError as error:
        interrupted = isinstance(error, Interrupted)
        if processes.is_main() or not interrupted:
            _tell(error)
        sys.exit(130 if interrupted else 2)
    except OSError as error:
        if error.filename is None and error.errno not in _OF_A_DISK:
            raise  # no file is at fault: a mistake of ours, whose place must be seen
        if error.filename is None:  # it was stdout, perhaps: what waits there cannot be written
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        what = error.strerror or type(error).__name__
        advice = "Make room, check the path and its permissions, or choose another output."
        _tell(AistaError(f"{what}: {error.filename or 'the output'}", advice=advice))
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, SystemExit) and end.code != 130:  # of which Typer makes it, without a word
            raise
        typer.echo("Stopped.", err=True)
        sys.exit(130)


def _hear_sigterm() -> None:
    """Make SIGTERM an interruption of this process; the children that it forks are ended by it as ever."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    def mask(how: int) -> None:
        signal.pthread_sigmask(how, {signal.SIGTERM})

    def in_child() -> None:
        if signal.getsignal(signal.SIGTERM) is signal.default_int_handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        mask(signal.SIG_UNBLOCK)

    # One that comes before a child has its own handler waits: it would be lost, and a pool wait for ever.
    os.register_at_fork(
        before=lambda: mask(signal.SIG_BLOCK),
        after_in_parent=lambda: mask(signal.SIG_UNBLOCK),
        after_in_child=in_child,
    )


def _tell(error: AistaError) -> None:
    from rich.console import Console

    console = Console(stderr=True, highlight=False, emoji=False)  # FILE:100: is a place
    console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
    console.print(str(error), markup=False, soft_wrap=True)  # addresses and paths stay whole
