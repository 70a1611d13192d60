"""The folder of an embedding run: corpus, embeddings, stages and the student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distilmatch.config.embeddings import EmbeddingRecipe
from distilmatch.training.embeddings.inputs import EmbeddingInputs
from distilmatch.training.run_folder import RecordedRun


class EmbeddingRun(RecordedRun):
    """Paths of an embedding job's output, and its records.

    Attributes:
        inputs: what it reads.
        corpus: the distinct unlabelled texts; embeddings: the cache of the teacher's; teacher: which of them this run
            reads; tokens: the student's token ids of the corpus; student: the finished one.
    """

    def __init__(self, recipe: EmbeddingRecipe, inputs: EmbeddingInputs | None = None) -> None:
        super().__init__(recipe)
        self.recipe = recipe
        self.inputs = EmbeddingInputs.of(recipe) if inputs is None else inputs
        self.corpus = self.root / "corpus"
        self.tokens = self.root / "tokens"
        self.teacher = self.root / "teacher.json"
        self.embeddings = Path(self.cache) if self.cache else self.root / "embeddings"

    def begun(self) -> Sequence[Path]:
        """The folders of the stages."""
        return self.stages()

    def results(self) -> Sequence[Path]:
        """The folders of corpus, token ids, stages and student."""
        return self.corpus, self.tokens, self.teacher, *self.stages(), self.student

    def models(self) -> Mapping[str, Any]:
        """Teachers, their embeddings, and the model that the student begins with."""
        recipe = self.recipe
        named: dict[str, Any] = {} if recipe.student.encoder is None else {"student.encoder": recipe.student.encoder}
        for name in ("models", "embeddings"):
            for i, model in enumerate(getattr(recipe.teacher, name) if recipe.teacher else ()):
                named[f"teacher.{name}[{i}]"] = model
        return named

    def sources(self) -> Mapping[str, Any]:
        """The files of the corpus, the labelled tables and the dev sets, by their names."""
        named, read = EmbeddingInputs.of(self.recipe), self.inputs
        names = (*named.corpus, *named.labelled, *named.dev)
        return dict(zip(names, (*read.corpus, *read.labelled, *read.dev), strict=True))
