"""An output that is an input is refused before any work, in a dry run too; so is a place where nothing can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import call

from distilmatch.files import checksum

from .outputs import OUTPUT_DOORS
from .setup import Setup


def _content(paths: list[Path]) -> dict[str, str]:
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {str(file): checksum(file) for file in files if file.name != ".lock"}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
@pytest.mark.parametrize("command", OUTPUT_DOORS)
def test_an_output_that_is_an_input_is_refused(
    setup: Setup, command: str, dry: bool, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, inputs = OUTPUT_DOORS[command](setup)
    before = _content(inputs)
    # The same arguments are right with another output.
    assert call(command, *arguments, "--output", str(setup.fresh("-new.parquet")), "--dry-run") == 0, (
        capfd.readouterr().err
    )
    capfd.readouterr()
    spellings = [str(path) for path in inputs]
    monkeypatch.chdir(inputs[0].parent)
    spellings.append(inputs[0].name)  # the same place, relative
    link = setup.fresh("-link")
    link.symlink_to(inputs[0])
    spellings.append(str(link))
    for output in spellings:
        code = call(command, *arguments, "--output", output, *(["--dry-run"] if dry else []))
        told = capfd.readouterr().err
        assert code == 1, (output, told)
        assert "Traceback" not in told
        assert told.strip(), output
    assert _content(inputs) == before


@pytest.mark.parametrize("output", ["", ".", "/dev/null/place", "{file}/place"])
@pytest.mark.parametrize("command", OUTPUT_DOORS)
def test_an_output_that_cannot_be_written_is_one_line(
    setup: Setup, command: str, output: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, inputs = OUTPUT_DOORS[command](setup)
    there = setup.fresh("-file")
    there.write_text("a file")
    if output == "." and command in ("label", "train", "tune", "embed-train", "ladder", "evaluate", "evaluate-sts"):
        pytest.skip("these may write into the folder where they are started")
    if output == "." and command in ("encode", "finetune-teacher"):
        monkeypatch.chdir(there.parent)  # it holds other things
    code = call(command, *arguments, "--output", output.format(file=there))
    told = capfd.readouterr().err
    assert code == (1 if output else 2), told
    assert "Traceback" not in told and told.strip()
    assert there.read_text() == "a file"
