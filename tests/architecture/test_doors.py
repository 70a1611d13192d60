"""The lists of doors are complete: what takes texts, what writes, what loads models, tables and teachers, what runs code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.doors import KINDS, loaders, readers, teachers
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


def _parameters() -> Iterator[tuple[str, str, str]]:
    """(module and function, parameter, annotation) of public functions and methods."""
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        if not any(part in module for part in _WITHOUT):
            yield from _of(ast.parse(path.read_text(encoding="utf-8")).body, f"{module}.")


def _of(body: list[ast.stmt], prefix: str) -> Iterator[tuple[str, str, str]]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _of(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
                annotation = "" if argument.annotation is None else ast.unparse(argument.annotation)
                yield f"{prefix}{node.name}", argument.arg, annotation


def _short(door: str) -> str:
    """`Class.method`, `Class` for its constructor, or the function, without the modules."""
    names = door.removesuffix(".__init__").split(".")
    is_method = len(names) > 1 and names[-2][0].isupper()
    return ".".join(names[-2:]) if is_method else names[-1]


def _doors(*kinds: str, parameters: tuple[str, ...] = ()) -> set[str]:
    """The functions with a parameter whose annotation has one of the words `kinds`, or all of them joined by `&`; where
    `parameters` are given, of one of these names.
    """
    return {
        _short(door)
        for door, name, annotation in _parameters()
        if any(all(word in annotation for word in kind.split("&")) for kind in kinds)
        and (not parameters or name in parameters)
    }


def test_every_door_for_texts_is_in_the_list() -> None:
    known = {*TEXT_DOORS, *PAIR_DOORS, *ONE_TEXT_DOORS, *NAME_DOORS, *INSIDE}
    all_of_these_names = {
        f"{door}({name})": annotation
        for door, name, annotation in _parameters()
        if name in _TEXTS and annotation not in ("int", "str | None")
    }
    found = {door for door, annotation in all_of_these_names.items() if not any(word in annotation for word in _OTHER)}
    assert found - known == set(), "put them into tests/doors/texts.py"
    assert known - all_of_these_names.keys() == set(), "no longer there"


def test_every_reader_of_tables_is_in_the_list() -> None:
    named = _doors("", parameters=("source", "sources")) | _doors("TableSource", "CorpusConfig")
    folders = {"load_sts_tasks", "load_retrieval"}  # of tables
    assert named | folders == {*readers.READER_DOORS, *readers.INSIDE}, "see tests/doors/readers.py"


def test_every_loader_of_models_is_in_the_list() -> None:
    names = ("model", "name", "encoder", "pretrained_model_name_or_path")
    found = _doors("str&Path", parameters=names) | _doors("TeacherConfig", "FineTuneConfig")
    assert found | {"evaluate_sts"} == {*loaders.LOADER_DOORS, *loaders.INSIDE}, "see tests/doors/loaders.py"


def test_every_door_where_a_teacher_meets_a_task_is_in_the_list() -> None:
    found = _doors("Teacher", "PairRecipe") | _doors("Any", parameters=("teacher", "teachers"))
    found |= _doors("FineTuneConfig")
    assert found == {*teachers.TEACHER_DOORS, *teachers.INSIDE}, "see tests/doors/teachers.py"


def test_every_kind_of_fault_has_its_tests() -> None:
    files = [file for files in KINDS.values() for file in files]
    assert len(files) > 30 and [file for file in files if not (SOURCE.parents[1] / file).is_file()] == []


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
    """`train()` is for models that the caller has just made, in the places named here."""
    allowed = {"concurrency.py", "training", "tuning"}
    for path, call, name in _calls():
        inside = path.relative_to(SOURCE).parts[0]
        if name.endswith(".train") and inside not in allowed and name != "inverted.train":  # an index learns its lists
            raise AssertionError(f"{path}:{call.lineno} changes the mode of a model: see concurrency.evaluation_view")
