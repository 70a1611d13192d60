"""The `distilmatch` command: its sub-commands, its exit codes, and how errors are shown."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption

from distilmatch.cli import (
    demo,
    embed_train,
    encode,
    evaluate,
    evaluate_sts,
    finetune_teacher,
    info,
    init,
    label,
    ladder,
    match,
    plan,
    score,
    stores,
    train,
    tune,
    verify,
)
from distilmatch.cli.examples import examples_text
from distilmatch.threads import sleep_while_waiting

_INTERRUPTED, _PIPE, _TERMINATED = 130, 141, 143
# What a damaged or unwritable file makes libraries raise.
_LIBRARIES = (
    ("safetensors", "SafetensorError"),
    ("pyarrow", "ArrowException"),
    ("sqlalchemy.exc", "OperationalError"),
    ("optuna.exceptions", "StorageInternalError"),
)


class _Command(TyperCommand):
    """A command whose help says every default and ends with examples."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        for option in self.params:
            # A switch that is left out: typer shows nothing, and <bool> as if it took a value.
            if isinstance(option, TyperOption) and option.is_bool_flag:
                option.metavar = option.metavar or ""
                if not option.secondary_opts and not option.default:
                    option.show_default = "off"

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Adds the examples, which neither rich nor click may wrap: they are there to be pasted."""
        super().format_help(ctx, formatter)
        formatter.write(f"\n{examples_text(str(self.name))}")


app = typer.Typer(
    name="distilmatch",
    help="Distil a slow, accurate text matcher into a student that scores cached texts hundreds of times faster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_GROUPS: dict[str, dict[str, Any]] = {
    "Start here": {"demo": demo, "init": init, "info": info},
    "Train": {
        "finetune-teacher": finetune_teacher,
        "train": train,
        "label": label,
        "tune": tune,
        "embed-train": embed_train,
        "ladder": ladder,
    },
    "Score and match": {"encode": encode, "score": score, "match": match, "plan": plan},
    "Items that come and go": {
        "store-create": stores.create,
        "store-add": stores.add,
        "store-delete": stores.delete,
        "store-show": stores.show,
        "store-compact": stores.compact,
    },
    "Check": {"evaluate": evaluate, "evaluate-sts": evaluate_sts, "verify": verify},
}
for _group, _commands in _GROUPS.items():
    for _name, _module in _commands.items():
        app.command(_name, cls=_Command, rich_help_panel=_group)(getattr(_module, "run", _module))


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"distilmatch {version('distilmatch')}")
        raise typer.Exit


@app.callback()
def _global(
    debug: bool = typer.Option(
        False, "--debug", metavar="", help="Show the traceback of an error. Can be given anywhere."
    ),
    version: bool = typer.Option(
        False, "--version", metavar="", help="Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """--debug is taken out of the arguments by `main`; declared here so that --help shows it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits.

    0: done; 1: an error that a message explains; 2: wrong usage; 130 and 143: interrupted, by Ctrl-C or SIGTERM; 141: what
    reads the output has gone away.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:  # the bars and reports of every loaded checkpoint; those of training and labelling stay
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sleep_while_waiting()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("distilmatch").setLevel(logging.DEBUG if debug else logging.INFO)
    if not debug:  # an encoder that becomes a cross-encoder is what the command is for
        loader = logging.getLogger("sentence_transformers.base.model")
        loader.addFilter(_is_no_conversion)
    empty = _empty(argv)
    if empty is not None:
        typer.echo(f"Error: {empty} is empty: give it a value, or leave it out", err=True)
        sys.exit(2)
    try:
        with _terminable() as terminated:
            code = _run(argv, debug)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads: what is left in the buffer must not fail once more at the end of the process.
        assert sys.__stdout__ is not None
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
        sys.exit(_PIPE)
    if code == _INTERRUPTED:
        typer.echo("Interrupted. The same command goes on where this one stopped.", err=True)
        code = _TERMINATED if terminated else code
    sys.exit(code or 0)


def _is_no_conversion(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Converting ")


def _run(argv: list[str], debug: bool) -> int | None:
    try:
        return app(args=argv, standalone_mode=False)  # type: ignore[no-any-return]
    except SystemExit as ended:  # typer ends a command whose reader has gone away with 1
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise
    except (typer.Abort, KeyboardInterrupt):  # typer may also turn an interrupt within a command into this code
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        return _report(error, debug)


def _empty(argv: Sequence[str]) -> str | None:
    """The option (or argument) that is given as an empty text, which a path would take for this folder."""
    for place, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name.startswith("--") and name != "--set" and equals and not value:
            return name
        before = argv[place - 1] if place else ""
        if not (argument if before == "--delimiter" else argument.strip()):
            return before if before.startswith("-") else f"argument {place + 1}"
    return None


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """Has SIGTERM end what runs inside as Ctrl-C does; yields a list that is no longer empty once one came."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _report(error: Exception, debug: bool) -> int:
    # A wrong option: typer carries its own copy of click, so that the class goes by what it can do.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    message = None if debug else _explained(error)
    if message is None:  # a defect shows where it is
        raise error
    typer.echo(f"Error: {message}", err=True)
    return 1


def _explained(error: Exception) -> str | None:
    """One message for what is the user's to mend; None for a defect of this package."""
    from distilmatch.errors import DistilmatchError

    if isinstance(error, DistilmatchError):
        return str(error)
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    if (
        isinstance(error, MemoryError)
        or _is_a(error, "torch", "OutOfMemoryError")
        or "DefaultCPUAllocator" in str(error)
    ):
        return (
            f"there is not enough memory ({first}); use a smaller batch size, shorter texts, or a machine with more "
            "memory"
        )
    if _is_of_a_file(error):
        from distilmatch.files import write_error

        place = getattr(error, "filename", None)
        written = str(write_error(place or "what was being written", error))
        if "the disk is full" in written:
            return written
        reason = getattr(error, "strerror", None) or first
        return (
            f"{place}: {reason}"
            if place
            else first
            if isinstance(error, OSError)
            else f"{type(error).__name__}: {first}"
        )
    if "PytorchStreamWriter" in str(error):
        return (
            f"cannot write a checkpoint, the disk may be full ({first}); free some space and run the same command again"
        )
    return None


def _is_of_a_file(error: Exception) -> bool:
    """Whether a library could not read or write a file, or found it damaged."""
    if isinstance(error, OSError | sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
        return True
    return any(_is_a(error, module, name) for module, name in _LIBRARIES)


def _is_a(error: Exception, module: str, name: str) -> bool:
    """Whether `error` is of a class of a library, which is not loaded for this."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)
