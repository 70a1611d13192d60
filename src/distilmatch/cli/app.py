"""The `distilmatch` command: its sub-commands, its exit codes, and how errors are shown."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import typer

from distilmatch.cli import (
    demo,
    embed_train,
    encode,
    evaluate,
    evaluate_sts,
    finetune_teacher,
    info,
    label,
    ladder,
    match,
    plan,
    score,
    train,
    tune,
    verify,
)

_INTERRUPTED = 130

app = typer.Typer(
    name="distilmatch",
    help="Distil a slow, accurate text matcher into a student that scores cached texts hundreds of times faster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command("demo")(demo.run)
app.command("finetune-teacher")(finetune_teacher.run)
app.command("label")(label.run)
app.command("train")(train.run)
app.command("tune")(tune.run)
app.command("embed-train")(embed_train.run)
app.command("ladder")(ladder.run)
app.command("encode")(encode.run)
app.command("score")(score.run)
app.command("match")(match.run)
app.command("plan")(plan.run)
app.command("verify")(verify.run)
app.command("evaluate")(evaluate.run)
app.command("evaluate-sts")(evaluate_sts.run)
app.command("info")(info.run)


@app.callback()
def _global(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error. May stand anywhere."),
) -> None:
    """Taken out of the arguments by `main`; declared here so that --help shows it."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: 0 done, 1 an error that a message explains, 2 wrong usage, 130 interrupted."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debug:  # the bars and reports of every loaded checkpoint; those of training and labelling stay
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("distilmatch").setLevel(logging.DEBUG if debug else logging.INFO)
    try:
        code = app(args=given, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    except Exception as error:
        code = _report(error, debug)
    if code == _INTERRUPTED:  # typer turns an interrupt within a command into this code
        typer.echo("Interrupted. The same command goes on where this one stopped.", err=True)
    sys.exit(code or 0)


def _report(error: Exception, debug: bool) -> int:
    from distilmatch.errors import DistilmatchError

    # A wrong option: typer carries its own copy of click, so that the class goes by what it can do.
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    # A missing file or a full disk is the user's to mend; anything else is a defect and shows where it is.
    if debug or not isinstance(error, DistilmatchError | OSError):
        raise error
    typer.echo(f"Error: {error}", err=True)
    return 1
