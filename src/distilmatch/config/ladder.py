"""The recipe of a whole ladder: a sentence encoder distilled, a pair student on top of it, and a match with both.

A recipe in YAML maps one to one onto `LadderRecipe`; a key that no config has is an error, never ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from distilmatch.config.base import FrozenConfig, NumberFormat, Place
from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.config.pairs import PairRecipe
from distilmatch.config.tables import Quoting
from distilmatch.config.templates import TextTemplate


class MatchSideConfig(FrozenConfig):
    """The texts of one side of a match.

    Attributes:
        source: a table or hub dataset.
        text_column: None takes "text", or the only column that is not the id.
        text_template: the texts as made of several columns, in place of `text_column`, such as "{title} ; {brand}".
        id_column: ids of the texts.
        split: which split of a Hugging Face dataset.
        delimiter, quoting: of CSV and TSV, as of a pair table.

    Example:
        ```python
        from distilmatch import MatchSideConfig

        products = MatchSideConfig(source="products.jsonl", text_column="title", id_column="id")
        ```
    """

    source: Place
    text_column: str | None = None
    text_template: TextTemplate | None = None
    id_column: str | None = None
    split: str = "train"
    delimiter: str | None = None
    quoting: Quoting = "auto"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.text_column is not None and self.text_template is not None:
            raise ValueError("`text_column` and `text_template` both say what the texts are: leave one of them out")
        return self


class MatchConfig(FrozenConfig):
    """What the finished students are asked: the best right texts of each left one.

    Attributes:
        left, right: the texts.
        top_k: how many right texts for each left one.
        candidates: how many of the nearest the pair student looks at; None all, all against all.
        candidates_by: near by the embeddings of the sentence encoder, or by the pair student's own pooled vectors.
        index: how they are found; "hnsw" and "ivf" need FAISS.
        rank_by, label, values: what is ranked where the pair student has several labels: the logit or probability of one,
            or the expectation of what each is worth.
        dtype: in which representations are kept on disk.

    Example:
        ```python
        from distilmatch import MatchConfig, MatchSideConfig

        left, right = MatchSideConfig(source="queries.jsonl"), MatchSideConfig(source="products.jsonl")
        match = MatchConfig(left=left, right=right, top_k=10, candidates=200)
        ```
    """

    left: MatchSideConfig
    right: MatchSideConfig
    top_k: int = Field(default=10, ge=1)
    candidates: int | None = Field(default=100, ge=1)
    candidates_by: Literal["embedding", "pair"] = "embedding"
    index: Literal["flat", "hnsw", "ivf"] = "flat"
    rank_by: Literal["logit", "probability", "expectation"] | None = None
    label: str | None = None
    values: tuple[float, ...] | None = None
    dtype: NumberFormat = "fp16"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.candidates is not None and self.candidates < self.top_k:
            raise ValueError(
                f"{self.candidates} `candidates` are fewer than the {self.top_k} that are wanted (`top_k`)"
            )
        return self


class LadderRecipe(FrozenConfig):
    """From a large teacher down: teacher, embedding student, pair student whose encoder that is, matches.

    Attributes:
        embedding: without `output`; its student is the encoder of the pair student.
        pair: without `output` and `encoder`.
        match: what to match in the end; None stops at the students.
        output: folder of the whole: `embedding/`, `pair/`, `representations/`, `matches.parquet`.
        device, seed: of every step that does not say otherwise.

    Example:
        ```python
        from distilmatch import LadderRecipe

        teacher = {"models": ["all-MiniLM-L6-v2"]}
        embedding = {"corpus": {"sources": ["products.txt"]}, "teacher": teacher}
        pair = {"train": "pairs.jsonl", "task": {"kind": "binary"}, "teacher": {"models": ["teacher"]}}
        recipe = LadderRecipe.from_dict({"embedding": embedding, "pair": pair, "output": "ladder"})
        ```
    """

    embedding: EmbeddingRecipe
    pair: PairRecipe
    match: MatchConfig | None = None
    output: Place
    device: str | None = None
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, settings: Any) -> Any:
        if not isinstance(settings, dict) or not isinstance(settings.get("output"), str):
            return settings
        root = Path(settings["output"])
        shared = {name: settings[name] for name in ("device", "seed") if settings.get(name) is not None}
        filled = dict(settings)
        for name, more in (("embedding", {}), ("pair", {"encoder": [str(root / "embedding" / "student")]})):
            written = settings.get(name)
            if isinstance(written, dict):
                filled[name] = {**shared, "output": str(root / name), **more, **written}
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        root = Path(self.output)
        for name, recipe in (("embedding", self.embedding), ("pair", self.pair)):
            if Path(recipe.output) != root / name:
                raise ValueError(f"`{name}.output` is {root / name} in a ladder: leave it out")
        if tuple(map(Path, self.pair.encoder)) != (root / "embedding" / "student",):
            raise ValueError("`pair.encoder` is the embedding student in a ladder: leave it out")
        if self.embedding.student.start == "static":
            raise ValueError("a static embedding student has no transformer for the pair student to begin with")
        if self.match is not None and self.pair.student.sides != 2:
            raise ValueError(f"a match is between two sides, the pair student has {self.pair.student.sides}")
        return self

    @property
    def planned_pair(self) -> PairRecipe:
        """The pair recipe before there is an embedding student: with the model in its place that the student begins with."""
        student, teacher = self.embedding.student, self.embedding.teacher
        begins_with = student.encoder or (teacher.models[0] if teacher is not None and teacher.models else None)
        assert begins_with is not None  # the embedding recipe refuses a student that begins with nothing
        return self.pair.model_copy(update={"encoder": (begins_with,)})
