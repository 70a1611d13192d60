"""Every command that writes, with an output that is one of its inputs; and outputs that no file can be written to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml
from tests.helpers import write_jsonl

from distilmatch.jobs.encode import encode_table

from .setup import TEXTS, Setup

# Arguments of the command without its output; the inputs that may not be the output.
Case = tuple[list[str], list[Path]]


def _recipe(setup: Setup, **more: object) -> tuple[Path, list[Path]]:
    train, dev = setup.table(), setup.table()
    settings = {
        "train": str(train),
        "dev": str(dev),
        "output": str(setup.fresh("-run")),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["query", "document"], "label_column": "label"},
        "teacher": {"models": [str(setup.cross_encoder)]},
        "encoder": [str(setup.encoder)],
        "transfer": {"rounds": 1, "block_size": 4},
        "student": {"kept_tokens": [3, 4], "max_lengths": [12, 16]},
        **more,
    }
    path = setup.fresh("-recipe.yaml")
    path.write_text(yaml.safe_dump(settings))
    return path, [train, dev, setup.cross_encoder, setup.encoder]


def _pair_recipe(setup: Setup, *more: str) -> Case:
    path, inputs = _recipe(setup)
    return [str(path), *more], [*inputs, path]


def _embedding_settings(setup: Setup) -> tuple[dict[str, object], list[Path]]:
    corpus = setup.fresh("-corpus.txt")
    corpus.write_text("\n".join(TEXTS) + "\n")
    teacher = {"models": [str(setup.sentence_encoder)]}
    return {"corpus": {"sources": [str(corpus)]}, "teacher": teacher, "student": {"layers": 2, "max_length": 16}}, [
        corpus,
        setup.sentence_encoder,
    ]


def _embedding_recipe(setup: Setup) -> Case:
    settings, inputs = _embedding_settings(setup)
    path = setup.fresh("-recipe.yaml")
    path.write_text(yaml.safe_dump({**settings, "output": str(setup.fresh("-run"))}))
    return [str(path)], [*inputs, path]


def _ladder_recipe(setup: Setup) -> Case:
    embedding, inputs = _embedding_settings(setup)
    train, left, right = setup.table(), setup.table(), setup.table()
    pair = {
        "train": str(train),
        "task": {"kind": "binary"},
        "table": {"text_columns": ["query", "document"], "label_column": "label"},
        "teacher": {"models": [str(setup.cross_encoder)]},
        "start": "encoder",
        "student": {"kept_tokens": [3, 3], "max_lengths": [12, 12]},
    }
    match = {
        "left": {"source": str(left), "text_column": "query"},
        "right": {"source": str(right), "text_column": "document"},
        "top_k": 2,
    }
    path = setup.fresh("-recipe.yaml")
    recipe = {"embedding": embedding, "pair": pair, "match": match, "output": str(setup.fresh("-run"))}
    path.write_text(yaml.safe_dump(recipe))
    return [str(path)], [*inputs, train, left, right, setup.cross_encoder, path]


def _sides(setup: Setup) -> tuple[list[str], list[Path]]:
    folders = []
    for side, name in enumerate(("query", "document")):
        rows = [{"text": text} for text in TEXTS]
        folder = setup.fresh(f"-{name}")
        encode_table(setup.student, rows, folder, side=side, text_column="text", show_progress_bar=False)
        folders.append(folder)
    return ["--left", str(folders[0]), "--right", str(folders[1])], folders


def _score(setup: Setup) -> Case:
    options, folders = _sides(setup)
    table = setup.table()
    arguments = [str(setup.student_folder), str(table), *options, "--text-columns", "query,document", "--overwrite"]
    return arguments, [table, setup.student_folder, *folders]


def _match(setup: Setup) -> Case:
    options, folders = _sides(setup)
    return [str(setup.student_folder), *options, "--top-k", "2", "--overwrite"], [setup.student_folder, *folders]


def _encode(setup: Setup) -> Case:
    table = setup.table()
    arguments = [str(setup.student_folder), str(table), "--side", "query", "--text-column", "query"]
    return arguments, [table, setup.student_folder]


def _evaluate(setup: Setup) -> Case:
    table = setup.table()
    arguments = [str(setup.student_folder), str(table), "--label-column", "label", "--text-columns", "query,document"]
    arguments += ["--teacher", str(setup.cross_encoder), "--no-speed"]
    return arguments, [table, setup.student_folder, setup.cross_encoder]


def _evaluate_sts(setup: Setup) -> Case:
    data = setup.fresh("-sts")
    (data / "stsb").mkdir(parents=True)
    pairs = enumerate(zip(TEXTS, TEXTS[2:], strict=False))
    rows = [{"sentence1": one, "sentence2": other, "score": i % 5} for i, (one, other) in pairs]
    write_jsonl(data / "stsb" / "test.jsonl", rows)
    return [str(setup.sentence_encoder), "--data", str(data), "--no-speed"], [setup.sentence_encoder, data]


def _fine_tune(setup: Setup) -> Case:
    table, dev = setup.table(), setup.table()
    arguments = [str(table), "--dev", str(dev), "--task", "binary", "--label-column", "label"]
    arguments += ["--text-columns", "query,document", "--base-model", str(setup.encoder)]
    return arguments, [table, dev, setup.encoder]


def _init(setup: Setup) -> Case:
    table, dev = setup.table(), setup.table()
    arguments = [str(table), "--dev", str(dev), "--teacher", str(setup.encoder)]
    return arguments, [table, dev, setup.encoder]


OUTPUT_DOORS: dict[str, Callable[[Setup], Case]] = {
    "init": _init,
    "finetune-teacher": _fine_tune,
    "label": _pair_recipe,
    "train": _pair_recipe,
    "tune": lambda setup: _pair_recipe(setup, "--minutes", "1"),
    "embed-train": _embedding_recipe,
    "ladder": _ladder_recipe,
    "encode": _encode,
    "score": _score,
    "match": _match,
    "evaluate": _evaluate,
    "evaluate-sts": _evaluate_sts,
}
# Commands that read nothing of a user's.
NO_INPUT = {"demo"}
