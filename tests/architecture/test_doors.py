"""The lists of doors are complete: what takes texts, what writes, what loads a model by name, what runs code from a hub."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.doors.outputs import NO_INPUT, OUTPUT_DOORS
from tests.doors.texts import INSIDE, NAME_DOORS, ONE_TEXT_DOORS, PAIR_DOORS, TEXT_DOORS
from typer.main import get_command

from distilmatch.cli.app import app

SOURCE = Path(__file__).parents[2] / "src" / "distilmatch"

_TEXTS = {
    "texts",
    "text",
    "pairs",
    "tuples",
    "documents",
    "query",
    "sample_texts",
    "ids",
    "keys",
    "names",
    "models",
    "sources",
}
# What a parameter of such a name holds where it holds no texts.
_OTHER = ("Representations", "Tensor", "ndarray", "FoldedTexts", "tl.tensor", "Models")
_WITHOUT = ("cli", "text_arguments", "objectives", "triton")


def _parameters() -> Iterator[tuple[str, str]]:
    """Public functions and methods, with each parameter whose name says that it may hold texts: (door, annotation)."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if not any(part in module for part in _WITHOUT):
            yield from _of(ast.parse(path.read_text(encoding="utf-8")).body, f"{module}.")


def _of(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _of(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
                if argument.arg in _TEXTS and annotation not in ("int", "str | None"):
                    yield f"{prefix}{node.name}({argument.arg})", annotation


def test_every_door_for_texts_is_in_the_list() -> None:
    known = {*TEXT_DOORS, *PAIR_DOORS, *ONE_TEXT_DOORS, *NAME_DOORS, *INSIDE}
    found = {door for door, annotation in _parameters() if not any(word in annotation for word in _OTHER)}
    assert found - known == set(), "put them into tests/doors/texts.py"
    gone = known - {door for door, _ in _parameters()}
    assert gone == set(), "no longer there"


def test_every_command_that_writes_is_in_the_list() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    writing = {name for name, command in commands.items() if any("--output" in one.opts for one in command.params)}
    assert writing == {*OUTPUT_DOORS, *NO_INPUT}


def _calls() -> Iterator[tuple[Path, ast.Call, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path, node, ast.unparse(node.func)


def test_nothing_runs_code_that_came_with_a_model() -> None:
    loaders = ("AutoConfig.from_pretrained", "AutoModel.from_pretrained", "AutoTokenizer.from_pretrained")
    loaders += ("AutoModelForSequenceClassification.from_pretrained", "SentenceTransformer", "CrossEncoder")
    seen = 0
    for path, call, name in _calls():
        if name not in loaders or any(keyword.arg == "modules" for keyword in call.keywords):
            continue
        seen += 1
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("trust_remote_code") == "False", f"{path}:{call.lineno} {name} may ask on standard input"
    assert seen >= 6, "the loaders go by other names now"


def test_no_call_changes_the_mode_of_a_model_that_others_read() -> None:
    """`eval()` and `train()` are for models that the caller has just made, in the places named here."""
    allowed = {"concurrency.py", "training", "tuning", "benchmarks"}
    for path, call, name in _calls():
        inside = path.relative_to(SOURCE).parts[0]
        if name.endswith(".train") and inside not in allowed and name != "inverted.train":  # an index learns its lists
            raise AssertionError(f"{path}:{call.lineno} changes the mode of a model: see concurrency.evaluation_view")
