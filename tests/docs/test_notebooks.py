"""Every notebook is whole and runs, from its first cell to its last: on tiny models always, on real weights if asked."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from tests.docs.pages import NOTEBOOKS, ROOT, link_models, run

EACH = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


def _cells(notebook: Path, kind: str) -> list[str]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def _run_all(notebook: Path) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "notebook"}
    for number, code in enumerate(_cells(notebook, "code"), start=1):
        run(code, f"{notebook.name}, code cell {number}", names)
    return names


def test_there_are_three() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "match-two-catalogues",
        "rerank-search-results",
        "shrink-a-sentence-encoder",
    ]


@EACH
def test_it_is_a_notebook_as_jupyter_reads_it(notebook: Path) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["language"] == "python"
    identifiers = [cell["id"] for cell in content["cells"]]
    assert len(set(identifiers)) == len(identifiers)
    for cell in content["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        assert set(cell) == wanted | ({"execution_count", "outputs"} if cell["cell_type"] == "code" else set())
    for code in _cells(notebook, "code"):
        ast.parse(code)
        assert max(map(len, code.splitlines())) <= 100
    for target in (part.split(")")[0] for text in _cells(notebook, "markdown") for part in text.split("](")[1:]):
        assert (notebook.parent / target).exists(), f"{notebook} links to {target}"
    assert f"notebooks/{notebook.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@EACH
def test_it_runs(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_sentence_encoder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    link_models(tmp_path, {"all-MiniLM-L6-v2": tiny_sentence_encoder})
    _run_all(notebook)


@pytest.mark.slow
@EACH
def test_it_teaches_what_it_says_on_real_weights(
    notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minilm: str
) -> None:
    monkeypatch.chdir(tmp_path)
    names = _run_all(notebook)
    if notebook.stem == "match-two-catalogues":
        right = names["right"]
        assert isinstance(right, float) and right > 0.5
    elif notebook.stem == "rerank-search-results":
        scores = names["ndcg"]
        assert isinstance(scores, dict) and scores["student"] > 0.9 * scores["teacher"]
    else:
        spearman = names["spearman"]
        assert isinstance(spearman, dict) and spearman["after"] > spearman["before"]
