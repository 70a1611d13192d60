"""The sets that models are compared on: one description each, so that no benchmark has code of its own for one.

Every text is cut to its side's number of tokens before anything reads it, so that each model, whatever it cuts itself,
reads the same. A pair then has at most both sides' tokens less one: three special tokens instead of four.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from benchmarks import cranfield_tables, gradings, offers
from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.pretrained.names import resolve_model

ENCODER = "all-MiniLM-L6-v2"
SPLITS = ("train", "dev", "test")
MISSED = -1e9
Tables = Callable[[Path, str], Iterable[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The pairs of a split: n texts each side, (n,) gold labels, (n,) query numbers (a left text is a query).

    Attributes:
        found: (n,) whether a row is there to be scored; a relevant text that a first search missed is not.
    """

    pairs: list[tuple[str, str]]
    gold: np.ndarray
    queries: np.ndarray
    found: np.ndarray

    @property
    def scored(self) -> list[tuple[str, str]]:
        """The pairs that a model is asked for."""
        return [pair for pair, found in zip(self.pairs, self.found, strict=True) if found]

    def answers(self, scores: np.ndarray) -> gradings.Answers:
        """The (m, c) or (m,) scores of the pairs that are there, with those that are not below them all."""
        own = np.asarray(scores, dtype=np.float64).reshape(int(self.found.sum()), -1)
        every = np.full((len(self.pairs), own.shape[1]), MISSED)
        every[self.found] = own
        return gradings.Answers(gold=self.gold, scores=every, queries=self.queries)


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A set.

    Attributes:
        title: as tables show it; folder: below the folder of the data.
        splits: files of train, dev and test, JSON lines, plain or .gz.
        columns: the two texts; label: the gold label.
        main: the metric that is compared; grade: all of them.
        max_lengths: tokens a side, special tokens included.
        settings: of every student's recipe, where it is not the package's default.
        rows: where splits are not files: the rows of a split of the data's folder.
        catalogue: files of unlabelled texts that come with the set (`text`), in which words may be counted.
        transfers: whether students learn from a split of their own, "transfer", and not from the teacher's.
    """

    name: str
    title: str
    task: TaskConfig
    main: str
    grade: gradings.Grading
    splits: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    columns: tuple[str, str] = ("query", "document")
    label: str = "label"
    side_names: tuple[str, str] = ("left", "right")
    max_lengths: tuple[int, int] = (128, 128)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: Tables | None = None
    catalogue: tuple[str, ...] = ()
    transfers: bool = False

    @property
    def table(self) -> TableConfig:
        """How the package reads the set's tables."""
        return TableConfig(text_columns=self.columns, label_column=self.label)

    @property
    def pair_length(self) -> int:
        """Tokens of a pair in which no text of the set's is cut."""
        return sum(self.max_lengths) - 1

    @property
    def student(self) -> dict[str, Any]:
        """What every student of the set has: its sides' names and lengths."""
        return {"side_names": list(self.side_names), "max_lengths": list(self.max_lengths)}

    def raw_rows(self, data: Path, split: str) -> Iterable[dict[str, Any]]:
        """The rows of a split as they came."""
        if self.rows is not None:
            return self.rows(data / self.folder, split)
        return read_lines(data / self.folder / self.splits[split])

    def tables(self, data: Path, folder: Path) -> dict[str, Path]:
        """Writes the splits with their texts cut, where that is not done yet: the tables that everything reads."""
        splits = (*SPLITS, "transfer") if self.transfers else SPLITS
        paths = {split: folder / f"{split}.jsonl" for split in splits}
        for split, path in paths.items():
            if path.is_file():
                continue
            rows = [dict(row) for row in self.raw_rows(data, split)]
            for column, length in zip(self.columns, self.max_lengths, strict=True):
                texts = cut([row[column] for row in rows], length - 2)
                for row, text in zip(rows, texts, strict=True):
                    row[column] = text
            folder.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".half")
            half.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            half.replace(path)
        return paths

    def known_texts(self, data: Path, train: Rows) -> list[str]:
        """The distinct texts that words are counted in: those of train, and of the catalogue."""
        more = (row["text"] for name in self.catalogue for row in read_lines(data / self.folder / name))
        return list(dict.fromkeys([*(text for pair in train.pairs for text in pair), *more]))

    def read(self, path: Path) -> Rows:
        """The rows of a table of `tables`."""
        rows = list(read_lines(path))
        numbers: dict[str, int] = {}
        labels = [row[self.label] for row in rows]
        if self.task.kind == "classification":
            labels = [self.task.classes.index(label) for label in labels]
        return Rows(
            pairs=[(row[self.columns[0]], row[self.columns[1]]) for row in rows],
            gold=np.array([float(label) for label in labels]),
            queries=np.array([numbers.setdefault(row[self.columns[0]], len(numbers)) for row in rows]),
            found=np.array([not row.get("missed", False) for row in rows]),
        )


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The rows of a file of JSON lines, plain or .gz."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


@cache
def _tokenizer(name: str) -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(name))


def cut(texts: list[str], tokens: int, tokenizer: str = ENCODER) -> list[str]:
    """The texts, each cut behind its first `tokens` tokens, special ones not counted; a shorter one stays as it is."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    found = _tokenizer(tokenizer)(distinct, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    shorter = {
        text: text[: offsets[tokens - 1][1]] if len(offsets) > tokens else text
        for text, offsets in zip(distinct, found["offset_mapping"], strict=True)
    }
    return [shorter[text] for text in texts]


_SENTENCES = ("sentence1", "sentence2")
_GZIPPED = {"train": "train.jsonl.gz", "dev": "valid.jsonl.gz", "test": "test.jsonl.gz"}
_PLAIN = {split: f"{split}.jsonl" for split in SPLITS}
_SHORT: dict[str, Any] = {"transfer": {"rounds": 2, "seed": 0}, "stage2": {"epochs": 2.0}}

SETS = {
    one.name: one
    for one in (
        DataSet(
            name="walmart_amazon",
            title="Walmart-Amazon",
            folder="walmart_amazon",
            splits=_GZIPPED,
            columns=("left", "right"),
            task=TaskConfig(kind="binary"),
            main="f1",
            catalogue=("tableA.jsonl.gz", "tableB.jsonl.gz"),
            grade=gradings.matches,
            settings={"transfer": {"seed": 0}},
        ),
        DataSet(
            name="pricerunner",
            title="PriceRunner",
            folder="pricerunner",
            columns=("left", "right"),
            task=TaskConfig(kind="binary"),
            main="f1",
            rows=offers.rows,
            max_lengths=(48, 48),
            grade=gradings.matches,
            settings={"transfer": {"seed": 0}},
        ),
        DataSet(
            name="homedepot",
            title="Home Depot",
            folder="homedepot",
            splits=_GZIPPED,
            label="relevance",
            side_names=("query", "document"),
            max_lengths=(32, 64),
            task=TaskConfig(kind="regression", label_range=(1.0, 3.0)),
            main="spearman",
            grade=gradings.graded_search,
            settings={
                # 59,302 rows: larger blocks give the 300,000 labelled pairs that the default gives smaller tables.
                "transfer": {"seed": 0, "rounds": 1, "block_size": 24, "max_texts": 24},
                "stage2": {"epochs": 2.0},
            },
        ),
        DataSet(
            name="wikiqa",
            title="WikiQA",
            folder="wikiqa",
            splits=_GZIPPED,
            side_names=("query", "document"),
            max_lengths=(32, 96),
            task=TaskConfig(kind="ranking"),
            main="map",
            grade=gradings.answers,
            settings=_SHORT,
        ),
        DataSet(
            name="korsts",
            title="KorSTS",
            folder="korsts",
            splits=_GZIPPED | {"dev": "dev.jsonl.gz"},
            columns=_SENTENCES,
            label="score",
            task=TaskConfig(kind="regression", label_range=(0.0, 5.0)),
            main="spearman",
            grade=gradings.similarity,
            settings=_SHORT,
        ),
        DataSet(
            name="stsb",
            title="STS-B",
            folder="stsb",
            splits=_PLAIN,
            columns=_SENTENCES,
            label="score",
            task=TaskConfig(kind="regression", label_range=(0.0, 5.0)),
            main="spearman",
            grade=gradings.similarity,
            settings=_SHORT,
        ),
        DataSet(
            name="sick",
            title="SICK",
            folder="sick",
            splits=_PLAIN,
            columns=_SENTENCES,
            label="entailment",
            task=TaskConfig(kind="classification", classes=("contradiction", "neutral", "entailment")),
            main="accuracy",
            grade=gradings.accuracy,
            settings={"transfer": {"seed": 0}},
        ),
        DataSet(
            name="cranfield",
            title="Cranfield",
            folder="cranfield",
            side_names=("query", "document"),
            max_lengths=(64, 160),
            task=TaskConfig(kind="ranking"),
            main="ndcg10",
            grade=gradings.reranking,
            rows=cranfield_tables.rows,
            transfers=True,
            settings={
                "transfer": {"seed": 0, "rounds": 1, "near": 2},
                "stage2": {"epochs": 2.0},
                "student": {"kept_tokens": [32, 128], "kept_strategy": "first_pooled"},
            },
        ),
    )
}
