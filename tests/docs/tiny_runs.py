"""Runs of every command that writes, with tiny models: what the page of files is compared with."""

from __future__ import annotations

from pathlib import Path

import yaml
from tests.docs.pages import link_models
from tests.helpers import COLOURS, THINGS, call, write_jsonl

_PAIRS = [
    {"query": f"{colour} {thing}", "product": f"a {colour} {other}", "label": int(thing == other)}
    for colour in COLOURS[:4]
    for thing in THINGS[:3]
    for other in THINGS[:3]
]


def _write_inputs(models: dict[str, Path]) -> None:
    link_models(Path(), models)
    write_jsonl(Path("pairs.jsonl"), _PAIRS)
    for side in ("query", "product"):
        texts = list(dict.fromkeys(row[side] for row in _PAIRS))
        write_jsonl(Path(f"{side}.jsonl"), [{"id": f"{side}{n}", "text": text} for n, text in enumerate(texts)])
        Path(f"{side}.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    scored = [
        {"sentence1": row["query"], "sentence2": row["product"], "score": number % 6}
        for number, row in enumerate(_PAIRS)
    ]
    Path("sts/stsb").mkdir(parents=True)
    write_jsonl(Path("sts/stsb/test.jsonl"), scored)
    stage = {"epochs": 1, "evaluations": 1}
    pair = {
        "task": {"kind": "binary"},
        "train": "pairs.jsonl",
        "dev": "pairs.jsonl",
        "table": {"text_columns": ["query", "product"], "label_column": "label"},
        "teacher": {"models": ["teacher"]},
        "transfer": {"rounds": 1, "cells_per_block": 32, "mined": 1},
        "student": {"side_names": ["query", "product"], "kept_tokens": [2, 2], "max_lengths": [16, 16]},
        "stage1": stage,
        "stage2": stage,
    }
    embedding = {
        "corpus": {"sources": ["query.txt", "product.txt"]},
        "teacher": {"models": ["all-MiniLM-L6-v2"]},
        "student": {"layers": 2, "max_length": 16},
        "stage1": {"epochs": 1, "batch_size": 8, "evaluations": 1},
        "dev": {"source": "sts/stsb/test.jsonl", "score_column": "score", "score_range": [0, 5]},
    }
    sides = {
        side: {"source": f"{name}.jsonl", "id_column": "id"} for side, name in (("left", "query"), ("right", "product"))
    }
    ladder = {"embedding": embedding, "pair": pair, "match": {**sides, "top_k": 2, "candidates": 4}, "output": "ladder"}
    tune = {**pair, "encoder": ["all-MiniLM-L6-v2"], "output": "run"}
    for name, recipe in (("ladder", ladder), ("recipe", tune)):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")


COMMANDS = (
    "finetune-teacher pairs.jsonl --dev pairs.jsonl --task binary --text-columns query,product --label-column label "
    "--base-model all-MiniLM-L6-v2 --epochs 1 --max-length 16 --minutes 1 --output teacher",
    "ladder ladder.yaml",
    "label recipe.yaml",
    "tune recipe.yaml --minutes 0.1 --trials 1 --output search",
    "score ladder/pair/student pairs.jsonl --left ladder/representations/query --right ladder/representations/product "
    "--text-columns query,product --output scores.csv",
    "match ladder/pair/student --left ladder/representations/query --right ladder/representations/product "
    "--top-k 2 --output matches.jsonl --reverse-output reverse.tsv",
    "evaluate ladder/pair/student pairs.jsonl --text-columns query,product --label-column label --teacher teacher "
    "--no-speed --output report",
    "evaluate-sts all-MiniLM-L6-v2 ladder/embedding/student --data sts --no-speed --output sts-report",
)  # fmt: skip


def run_all(models: dict[str, Path]) -> None:
    """Writes the inputs into the working folder and runs the commands there."""
    _write_inputs(models)
    for command in COMMANDS:
        assert call(*command.split()) == 0, command
