"""What can be refused is refused before the teacher is asked, a stage begins or a file is written; dry runs say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from tests.helpers import COLOURS, THINGS, write_jsonl

from distilmatch.cli import main
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.ladder import LadderRecipe
from distilmatch.config.pairs import PairRecipe
from distilmatch.errors import ConfigError, DistilmatchError
from distilmatch.jobs.ladder import distil_ladder
from distilmatch.teachers import CrossEncoderTeacher, SentenceTeacher
from distilmatch.training.embeddings.distil import distil_embeddings
from distilmatch.training.pairs.distil import check_pair_recipe, distil_pairs, label_transfer_set
from distilmatch.tuning.search import tune

WORDS = (*COLOURS[:3], *THINGS, "one", "two", "three")
Settings = dict[str, Any]


def _texts(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 4)) + f" {i}" for i in range(count)]


def _table(path: Path, labels: list[float] | None, name: str = "label") -> str:
    texts = _texts(80)
    count = 12 if labels is None else len(labels)
    rows = [
        {"a": texts[i], "b": texts[-1 - i]} | ({} if labels is None else {name: labels[i % len(labels)]})
        for i in range(count)
    ]
    return str(write_jsonl(path, rows))


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Fills when a teacher is asked for anything."""
    seen: list[str] = []
    for kind, name in ((CrossEncoderTeacher, "logits"), (SentenceTeacher, "embed")):
        own = getattr(kind, name)

        def watched(*arguments: Any, _own: Any = own, _name: str = name, **settings: Any) -> Any:
            seen.append(_name)
            return _own(*arguments, **settings)

        monkeypatch.setattr(kind, name, watched)
    return seen


@pytest.fixture
def pair(tmp_path: Path, tiny_encoder: Path, tiny_cross_encoder: Path) -> Settings:
    return {
        "train": _table(tmp_path / "train.jsonl", [0, 1] * 10),
        "dev": _table(tmp_path / "dev.jsonl", [0, 1] * 5),
        "output": str(tmp_path / "run"),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["a", "b"], "label_column": "label"},
        "teacher": {"models": [str(tiny_cross_encoder)]},
        "encoder": [str(tiny_encoder)],
        "start": "encoder",
        "transfer": {"rounds": 1, "block_size": 4, "cells_per_block": 8},
        "student": {"kept_tokens": [4, 4], "max_lengths": [16, 16]},
        "stage1": {"evaluations": 1},
        "stage2": {"epochs": 1, "evaluations": 1},
        "device": "cpu",
    }


@pytest.fixture
def embedding(tmp_path: Path, tiny_sentence_encoder: Path) -> Settings:
    (tmp_path / "corpus.txt").write_text("\n".join(_texts(40)) + "\n")
    return {
        "corpus": {"sources": [str(tmp_path / "corpus.txt")]},
        "teacher": {"models": [str(tiny_sentence_encoder)]},
        "student": {"layers": 2, "max_length": 16},
        "stage1": {"epochs": 1, "batch_size": 16, "evaluations": 1},
        "dev": {"source": _table(tmp_path / "pairs.jsonl", [0.1, 0.9, 0.5]), "score_column": "label"},
        "output": str(tmp_path / "run"),
        "device": "cpu",
    }


def _changed(settings: Settings, changes: Settings) -> Settings:
    made = {**settings}
    for key, value in changes.items():
        made[key] = _changed(settings.get(key) or {}, value) if isinstance(value, dict) else value
    return made


def _dry(command: str, settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str], *more: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit) as stopped:
        main([command, str(path), "--dry-run", *more])
    told = capfd.readouterr().err
    assert stopped.value.code == 1 and "Traceback" not in told, told
    return told


Change = Callable[[Path], Settings]
PAIR: dict[str, tuple[Change, str]] = {
    "binary dev of one label": (lambda p: {"dev": _table(p / "d.jsonl", [1] * 8)}, "all 8 gold labels are positive"),
    "constant regression dev": (
        lambda p: {"dev": _table(p / "d.jsonl", [0.5] * 8), "task": {"kind": "regression"}}, "not all the same"),
    "ranking dev without a relevant row": (
        lambda p: {"dev": _table(p / "d.jsonl", [0] * 8), "task": {"kind": "ranking"}}, "relevance above 0"),
    "dev without its label column": (lambda p: {"dev": _table(p / "d.jsonl", None)}, "label"),
    "no dev file": (lambda p: {"dev": str(p / "none.jsonl")}, "none.jsonl"),
    "no test file": (lambda p: {"test": str(p / "none.jsonl")}, "none.jsonl"),
    "bad test": (lambda p: {"test": _table(p / "t.jsonl", None)}, "t.jsonl"),
    "no train file": (lambda p: {"train": str(p / "none.jsonl")}, "none.jsonl"),
    "no unlabelled file": (lambda p: {"unlabelled": [str(p / "none.txt")]}, "none.txt"),
    "no teacher": (lambda p: {"teacher": {"models": [str(p / "none")]}}, "none"),
    "teacher that does not fit": (
        lambda p: {"task": {"kind": "classification", "classes": ["a", "b"]}, "dev": None, "test": None,
                   "table": {"label_column": None}}, "teacher"),
    "no encoder": (lambda p: {"encoder": [str(p / "none")]}, "none"),
    "too many layers": (lambda p: {"student": {"encoder_layers": 9}}, "layers"),
    "too many tokens": (lambda p: {"student": {"max_lengths": [999, 16]}}, "999"),
    "width that heads do not divide": (lambda p: {"student": {"width": 30, "head_heads": 4}}, "head_heads"),
    "objective of another task": (lambda p: {"objective": {"kind": "kl"}}, "kl"),
    "gold without labels": (
        lambda p: {"objective": {"gold_weight": 0.5}, "table": {"label_column": None}, "dev": None}, "gold_weight"),
    "output below a file": (lambda p: {"output": str(p / "train.jsonl" / "run")}, "no folder"),
    "output is the train table": (lambda p: {"output": str(p / "train.jsonl")}, "train.jsonl"),
    "cache that is a table": (lambda p: {"teacher": {"cache_folder": str(p / "dev.jsonl")}}, "cache_folder"),
    "encoder that the run writes": (lambda p: _own_student(p), "which this run writes"),
}  # fmt: skip


def _own_student(folder: Path) -> Settings:
    (folder / "run" / "student").mkdir(parents=True)
    return {"encoder": [str(folder / "run" / "student")]}


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", PAIR)
def test_a_pair_recipe_is_refused_before_any_work(
    name: str, pair: Settings, tmp_path: Path, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    change, part = PAIR[name]
    settings = _changed(pair, change(tmp_path))
    before = _files(tmp_path)
    for job in (distil_pairs, label_transfer_set, lambda recipe: tune(recipe, tmp_path / "search", minutes=0.01)):
        searches = job not in (distil_pairs, label_transfer_set)
        if searches and (settings.get("dev") is None or "output" in name or "the run writes" in name):
            continue  # a search has an output of its own
        try:
            recipe = PairRecipe.from_dict(settings)
        except ConfigError as error:
            assert part in str(error)
            continue
        with pytest.raises(DistilmatchError) as refused:
            job(recipe)
        assert part in str(refused.value), refused.value
    assert _files(tmp_path) == before and not asked
    for command in ("train", "label"):
        assert part in _dry(command, settings, tmp_path, capfd)
    assert _files(tmp_path) - before <= {tmp_path / "recipe.yaml"} and not asked


def test_what_fits_is_not_refused(pair: Settings, asked: list[str]) -> None:
    checked = check_pair_recipe(PairRecipe.from_dict(pair))
    assert checked.train is not None and len(checked.train) == 20 and checked.dev is not None and not asked


def test_a_run_of_another_recipe_is_refused_first(
    pair: Settings, asked: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = PairRecipe.from_dict(_changed(pair, {"stage1": {"epochs": 0}}))
    distil_pairs(recipe)
    asked.clear()
    other = recipe.replaced(stage2=recipe.stage2.replaced(epochs=2.0), dev=None)
    for job in (distil_pairs, label_transfer_set):
        with pytest.raises(ConfigError, match="different: dev, stage2"):
            job(other)
    assert "different: dev, stage2" in _dry("train", other.to_dict(), tmp_path, capfd) and not asked
    check_pair_recipe(recipe)


def test_a_recipe_in_the_output_stays_as_it_was_written(
    pair: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "recipe.yaml"
    text = "# my own words\n" + yaml.safe_dump(_changed(pair, {"stage1": {"epochs": 0}}))
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(path), "--set", "stage2.epochs=2"])
    assert stopped.value.code == 1 and "which would be replaced" in capfd.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(path)])
    assert not stopped.value.code and path.read_text() == text


EMBEDDING: dict[str, tuple[Change, str]] = {
    "constant dev": (
        lambda p: {"dev": {"source": _table(p / "d.jsonl", [0.5] * 6), "score_column": "label"}}, "no correlation"),
    "no dev file": (lambda p: {"dev": {"source": str(p / "none.jsonl"), "score_column": "label"}}, "none.jsonl"),
    "no corpus": (lambda p: {"corpus": {"sources": [str(p / "none.txt")]}}, "none.txt"),
    "no teacher": (lambda p: {"teacher": {"models": [str(p / "none")]}}, "none"),
    "no second teacher": (lambda p: {"teacher": {"models": [_teacher(p), str(p / "none")]}}, "none"),
    "no embeddings": (lambda p: {"teacher": {"embeddings": [str(p / "none.npy")]}}, "none.npy"),
    "too many layers": (lambda p: {"student": {"layers": 9}}, "layers"),
    "widths that differ": (
        lambda p: {"student": {"start": "fresh", "width": 16, "heads": 2, "projection": "none"}}, "16 wide"),
    "wide matryoshka": (lambda p: {"student": {"matryoshka": [99]}}, "matryoshka"),
    "output is the corpus": (lambda p: {"output": str(p / "corpus.txt")}, "corpus.txt"),
    "output below a file": (lambda p: {"output": str(p / "corpus.txt" / "run")}, "no folder"),
}  # fmt: skip


def _teacher(folder: Path) -> str:
    return (folder / "teacher.txt").read_text()


@pytest.mark.parametrize("name", EMBEDDING)
def test_an_embedding_recipe_is_refused_before_any_work(
    name: str, embedding: Settings, tmp_path: Path, asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "teacher.txt").write_text(embedding["teacher"]["models"][0])
    change, part = EMBEDDING[name]
    settings = _changed(embedding, change(tmp_path))
    before = _files(tmp_path)
    with pytest.raises(DistilmatchError) as refused:
        distil_embeddings(EmbeddingRecipe.from_dict(settings))
    assert part in str(refused.value), refused.value
    assert part in _dry("embed-train", settings, tmp_path, capfd)
    assert _files(tmp_path) - before <= {tmp_path / "recipe.yaml"} and not asked


def test_embeddings_of_another_length_are_refused_by_a_dry_run(
    embedding: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "e.npy", np.ones((39, 8), dtype=np.float32))
    settings = _changed(embedding, {"teacher": {"embeddings": [str(tmp_path / "e.npy")]}})
    told = _dry("embed-train", settings, tmp_path, capfd)
    assert "39" in told and "40" in told and not (tmp_path / "run").exists()


def _side(path: Path, count: int, **more: Any) -> Settings:
    rows = [{"text": text, "id": i % 7} for i, text in enumerate(_texts(count))]
    return {"source": str(write_jsonl(path, rows)), "text_column": "text", **more}


LADDER: dict[str, tuple[Change, str]] = {
    "top_k of more than there are": (lambda p: {"match": {"right": _side(p / "r.jsonl", 5)}}, "there are 5 items"),
    "an id of two texts": (lambda p: {"match": {"right": _side(p / "r.jsonl", 20, id_column="id")}}, "another text"),
    "no left table": (lambda p: {"match": {"left": {"source": str(p / "none.jsonl")}}}, "none.jsonl"),
    "no such column": (lambda p: {"match": {"left": _side(p / "l.jsonl", 5, text_column="txt")}}, "txt"),
    "a pair dev of one label": (lambda p: {"pair": {"dev": _table(p / "d.jsonl", [1] * 8)}}, "gold labels are positive"),
    "more layers than the embedding student": (lambda p: {"pair": {"student": {"encoder_layers": 3}}}, "layers"),
    "no pair teacher": (lambda p: {"pair": {"teacher": {"models": [str(p / "none")]}}}, "none"),
    "output is a table": (lambda p: {"output": str(p / "train.jsonl")}, "train.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("name", LADDER)
def test_a_ladder_is_refused_before_its_first_step(
    name: str,
    pair: Settings,
    embedding: Settings,
    tmp_path: Path,
    asked: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:
    own = {key: value for key, value in pair.items() if key not in ("output", "encoder", "device")}
    body = {key: value for key, value in embedding.items() if key not in ("output", "device")}
    sides = {"left": _side(tmp_path / "left.jsonl", 6), "right": _side(tmp_path / "right.jsonl", 12)}
    settings = {"embedding": body, "pair": own, "match": sides, "output": str(tmp_path / "run"), "device": "cpu"}
    change, part = LADDER[name]
    settings = _changed(settings, change(tmp_path))
    with pytest.raises(DistilmatchError) as refused:
        distil_ladder(LadderRecipe.from_dict(settings))
    assert part in str(refused.value), refused.value
    assert part in _dry("ladder", settings, tmp_path, capfd)
    assert not (tmp_path / "run").exists() and not asked


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (["--dev", "{one}"], "gold labels are positive"),
        (["--base-model", "{missing}"], "missing"),
        (["--output", "{table}"], "table"),
        (["--output", "{full}"], "exists already"),
        (["--epochs", "-1"], "epochs"),
        (["--batch-size", "0"], "batch_size"),
        (["--learning-rate", "nan"], "learning_rate"),
        (["--max-length", "2"], "max_length"),
        (["--dropout", "1.5"], "dropout"),
        (["--task", "binry"], "did you mean 'binary'?"),
        (["--task", "regression", "--label-range", "5,1"], "lowest < highest"),
        (["--task", "regression", "--label-range", "a,b"], "two numbers"),
        (["--label-column", "gold"], "gold"),
    ],
)
def test_a_fine_tuning_is_refused_before_any_work(
    change: list[str], part: str, tmp_path: Path, tiny_encoder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = _table(tmp_path / "table.jsonl", [0, 1] * 6)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("mine")
    places = {
        "one": _table(tmp_path / "one.jsonl", [1] * 6), "missing": str(tmp_path / "missing"), "table": table,
        "full": str(tmp_path / "full"),
    }  # fmt: skip
    arguments = {"--output": str(tmp_path / "teacher"), "--task": "binary", "--label-column": "label"}
    arguments |= {"--text-columns": "a,b", "--base-model": str(tiny_encoder)}
    arguments |= dict(zip(change[::2], [one.format(**places) for one in change[1::2]], strict=True))
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as stopped:
            main(["finetune-teacher", table, *(part for pair in arguments.items() for part in pair), *more])
        told = capfd.readouterr().err
        assert stopped.value.code == 1 and part in told and "Traceback" not in told, told
    assert not (tmp_path / "teacher").exists()


def test_a_demo_does_not_write_into_a_folder_of_other_things(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--output", str(tmp_path), "--quick"])
    assert stopped.value.code == 1 and "holds other things" in capfd.readouterr().err
    assert (tmp_path / "data" / "train.jsonl").read_text() == "mine"
