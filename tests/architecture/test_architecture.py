"""The walls: which package imports which, what is exported, and what must not stand in the repository."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import distilmatch

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "distilmatch"

FLOORS = {
    "types": 0,
    "errors": 0,
    "arguments": 0,
    "text_arguments": 0,
    "text_templates": 0,
    "files": 0,
    "concurrency": 0,
    "config": 0,
    "yaml_files": 0,
    "fingerprint": 0,
    "runtime": 0,
    "threads": 0,
    "estimates": 0,
    "data": 1,
    "demo": 1,
    "store": 1,
    "metrics": 1,
    "pretrained": 2,
    "models": 3,
    "teachers": 3,
    "objectives": 3,
    "training": 4,
    "engine": 4,
    "jobs": 5,
    "planning": 5,
    "evaluation": 5,
    "tuning": 6,
    "cli": 7,
}


def _package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """The package's own modules that a file imports, wherever in the file the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("distilmatch"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            if node.module is not None and node.module.startswith("distilmatch"):
                yield from (
                    [f"distilmatch.{alias.name}" for alias in node.names]
                    if node.module == "distilmatch"
                    else [node.module]
                )


def _files() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path != SOURCE / "__init__.py"]


@pytest.mark.parametrize("path", _files(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down_the_floors(path: Path) -> None:
    own = _package(path)
    for module in _imports(path):
        other = module.split(".")[1]
        assert other in FLOORS, f"{path} imports {module}, which stands on no floor"
        if other != own and not (FLOORS[own] == 0 == FLOORS[other]):
            assert FLOORS[other] < FLOORS[own], f"{own} (floor {FLOORS[own]}) imports {other} (floor {FLOORS[other]})"


def test_every_package_stands_on_a_floor_and_in_the_documentation() -> None:
    packages = {_package(path) for path in _files()}
    assert packages == set(FLOORS)
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    for package in packages:
        assert f"`{package}`" in text or f"`{package}/`" in text, f"{package} is not in architecture.md"


def _modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {path: ".".join(("distilmatch", *path.relative_to(SOURCE).with_suffix("").parts)) for path in _files()}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def test_no_circle_between_modules() -> None:
    modules = _modules()
    needs = {name: set(_imported_modules(path, modules)) - {name} for name, path in modules.items()}
    while needs:
        free = [name for name, others in needs.items() if not others & set(needs)]
        assert free, f"a circle among {sorted(needs)}"
        for name in free:
            del needs[name]


def _imported_modules(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Also those under TYPE_CHECKING and inside functions; `from package import module` is the module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield from [full] if full in modules else [node.module] if node.module in modules else []


def test_no_function_is_too_long() -> None:
    for path in _files():
        if path.name == "triton_programs.py":  # a program of a GPU is one function
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_the_exported_names() -> None:
    assert distilmatch.__all__ == sorted(distilmatch.__all__)
    assert set(distilmatch.__all__) == {
        "ContrastiveConfig",
        "CorpusConfig",
        "CrossEncoderTeacher",
        "Decision",
        "DiPair",
        "DiPairConfig",
        "DistilmatchError",
        "EmbeddingObjectiveConfig",
        "EmbeddingRecipe",
        "EmbeddingStageConfig",
        "EmbeddingStudentConfig",
        "EmbeddingTeacherConfig",
        "FineTuneConfig",
        "LabelledConfig",
        "LadderRecipe",
        "MatchConfig",
        "MatchSideConfig",
        "ObjectiveConfig",
        "PairRecipe",
        "RepresentationFolder",
        "Scorer",
        "SentenceTeacher",
        "SoftLabelCache",
        "StageConfig",
        "StudentConfig",
        "TableConfig",
        "TaskConfig",
        "TeacherConfig",
        "TeacherEnsemble",
        "TransferConfig",
        "decide",
        "dev_decisions",
        "distil_embeddings",
        "distil_ladder",
        "distil_pairs",
        "embed_corpus",
        "encode_table",
        "evaluate_pairs",
        "evaluate_sts",
        "fine_tune_teacher",
        "label_transfer_set",
        "load_decision",
        "load_sts_tasks",
        "load_table",
        "match_folders",
        "score_table",
    }
    for name in distilmatch.__all__:
        assert getattr(distilmatch, name).__doc__, f"{name} has no docstring"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = distilmatch.no_such_name


@pytest.mark.parametrize("name", ["models", "teachers", "objectives", "data", "metrics", "store"])
def test_what_a_package_exports_exists(name: str) -> None:
    package = importlib.import_module(f"distilmatch.{name}")
    assert all(hasattr(package, exported) for exported in getattr(package, "__all__", ()))


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, distilmatch; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom distilmatch.cli import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def _tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_is_too_long() -> None:
    for path in _files():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 500, path


def test_no_path_of_a_machine_and_no_pickle() -> None:
    forbidden = ["/" + "work/", "/" + "root/", "/" + "home/"]
    for path in _tracked():
        if path.suffix in (".py", ".md", ".toml", ".yaml", ".yml", ".json", ".txt") or path.name == "Makefile":
            text = path.read_text(encoding="utf-8")
            for word in forbidden:
                assert word not in text, f"{path} holds {word}"
    for path in _files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert "pickle" not in [alias.name for alias in node.names], path
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                is_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
                assert not (is_torch and node.func.attr in ("save", "load")), f"{path} pickles"


def test_reading_a_recipe_does_not_load_torch() -> None:
    code = "import sys, distilmatch.config; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
