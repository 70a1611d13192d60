"""The help of every command: each option's default, examples that the command takes, and lines that fit 80 columns."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
import typer
from tests.helpers import call
from typer.core import TyperArgument, TyperOption

from distilmatch.cli.app import app
from distilmatch.cli.demo import step_line
from distilmatch.cli.examples import EXAMPLES, WIDTH, wrapped_command
from distilmatch.cli.options import below_itself
from distilmatch.config.fine_tuning import FineTuneConfig

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands  # type: ignore[attr-defined]


def _help(command: str, rich: bool) -> str:
    surroundings = {**os.environ, "COLUMNS": "80", "TYPER_USE_RICH": "1" if rich else "0"}
    asked = [sys.executable, "-m", "distilmatch.cli", command, "--help"]
    return subprocess.run(asked, capture_output=True, text=True, check=True, env=surroundings).stdout


def test_every_command_has_examples() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    for command, examples in EXAMPLES.items():
        assert 1 <= len(examples) <= 3
        for _, example in examples:
            assert shlex.split(example)[:2] == ["distilmatch", command]


@pytest.mark.parametrize("example", [example for examples in EXAMPLES.values() for _, example in examples])
def test_every_example_is_taken_by_its_command(example: str) -> None:
    _, name, *arguments = shlex.split(example)
    command = COMMANDS[name]
    context = command.make_context(name, list(arguments))  # parses and checks; runs nothing
    given = {word for word in arguments if word.startswith("--")}
    known = {word for option in command.params for word in (*option.opts, *option.secondary_opts)}
    assert not context.args and given <= known


def test_an_example_with_a_wrong_option_is_refused() -> None:
    with pytest.raises(Exception, match="--no-such"):
        COMMANDS["train"].make_context("train", ["recipe.yaml", "--no-such"])


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_says_its_default(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    context = typer.Context(COMMANDS[command], info_name=command)
    for option in COMMANDS[command].params:
        if isinstance(option, TyperArgument):
            continue
        assert isinstance(option, TyperOption)
        _, told = option.get_help_record(context)  # type: ignore[misc]
        assert "[default: " in told or "required" in told, f"{command} {option.opts}: {told}"
    capsys.readouterr()


@pytest.mark.parametrize("rich", [True, False])
@pytest.mark.parametrize("command", ["train", "match"])
def test_the_help_ends_with_examples_that_can_be_pasted(command: str, rich: bool) -> None:
    told = _help(command, rich)
    assert max(map(len, told.splitlines())) <= WIDTH
    section = told.partition("\nExamples:\n")[2]
    shown = [shlex.split(part) for part in section.replace("\\\n", " ").splitlines() if part.startswith("    ")]
    assert shown == [shlex.split(example) for _, example in EXAMPLES[command]]


def test_examples_fit_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert call(command, "--help") == 0
        section = capsys.readouterr().out.partition("\nExamples:\n")[2]
        assert section and max(map(len, section.splitlines())) <= WIDTH


def test_a_long_command_is_broken_before_options_and_means_the_same() -> None:
    words = ["distilmatch", "train", "a b.yaml", *[f"--option-{i}={'x' * i}" for i in range(20)], "--set", "a=[b c]"]
    told = wrapped_command(words)
    assert max(map(len, told.splitlines())) <= WIDTH and len(told.splitlines()) > 3
    assert all(line.endswith(" \\") for line in told.splitlines()[:-1])
    assert shlex.split(told.replace(" \\\n", " ")) == words
    assert wrapped_command(["distilmatch", "info"]) == "distilmatch info"


def test_the_defaults_of_fine_tuning_are_those_of_the_library() -> None:
    options = {option.name: option.default for option in COMMANDS["finetune-teacher"].params}
    names = (
        "base_model",
        "minutes",
        "seeds",
        "epochs",
        "batch_size",
        "learning_rate",
        "dropout",
        "readout",
        "max_length",
    )
    for name in (*names, "encoder_layers", "class_weights", "seed"):
        assert options[name] == getattr(FineTuneConfig(), name), name


def test_a_step_of_the_demo_says_the_time_left_where_it_is_known() -> None:
    assert step_line(3, "Labels", 20.0) == "[  20 s] 3/6 Labels"
    assert step_line(1, "Data", 0.0, (0.0, 0.25)) == "[   0 s] 1/6 Data"
    assert step_line(2, "Teacher", 20.0, (0.0, 0.25)) == "[  20 s] 2/6 Teacher\n         about 60 s left"
    assert step_line(2, "Teacher", 100.0, (0.0, 0.25)).endswith("about 5.0 min left")


def test_a_long_line_goes_on_below_its_value_in_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = "/" + "x" * 90
    line = f"kernel  native: {'compiled for this processor, ' * 5}{path} ends"
    told = below_itself(line, 8, True).splitlines()
    assert len(told) > 2 and all(len(row) <= 80 or path in row for row in told)
    assert all(row.startswith(" " * 8) for row in told[1:])
    assert " ".join(row.strip() for row in told).split() == line.split()
    assert below_itself(line, 8, False) == line and below_itself("kernel  torch", 8, True) == "kernel  torch"
