"""What stands behind the doors in these tests: tiny models, and the folders that they wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from tests.helpers import write_jsonl

from distilmatch.config.pairs import StudentConfig
from distilmatch.config.tables import TaskConfig
from distilmatch.jobs.encode import encode_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder
from distilmatch.teachers import (
    CrossEncoderTeacher,
    SentenceTeacher,
    SoftLabelCache,
    TeacherCombination,
    TeacherEnsemble,
)

WORDS = (
    "red blue green black white small big old new cheap steel wood cotton leather car bus boat house dog cat".split()
)
TEXTS = [
    f"{one} {other}" + " coat" * (place % 3) for place, (one, other) in enumerate(zip(WORDS, WORDS[5:], strict=False))
]


@dataclass(eq=False)
class Setup:
    """Models are made when a door asks for them first."""

    root: Path
    encoder: Path
    cross_encoder: Path
    cross_encoder_3: Path
    sentence_encoder: Path
    _made: int = field(default=0)

    def fresh(self, name: str = "") -> Path:
        """A path that nothing stands at."""
        self._made += 1
        return self.root / f"{self._made:03d}{name}"

    @cached_property
    def student(self) -> DiPair:
        torch.manual_seed(0)
        shape = StudentConfig(
            kept_tokens=(3, 4), max_lengths=(12, 16), width=16, side_names=("query", "document"), head_start="random"
        )
        model = DiPair.from_encoder(self.encoder, shape, TaskConfig(kind="binary")).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)
        return model

    @cached_property
    def student_folder(self) -> Path:
        self.student.save_pretrained(self.root / "student")
        return self.root / "student"

    @cached_property
    def teacher(self) -> CrossEncoderTeacher:
        return CrossEncoderTeacher(self.cross_encoder, precision="fp32")

    @cached_property
    def ensemble(self) -> TeacherEnsemble:
        return TeacherEnsemble([self.teacher, self.teacher])

    @cached_property
    def sentence_teacher(self) -> SentenceTeacher:
        return SentenceTeacher(self.sentence_encoder, precision="fp32")

    @cached_property
    def combination(self) -> TeacherCombination:
        return TeacherCombination([self.sentence_teacher, self.sentence_teacher])

    @cached_property
    def labels(self) -> SoftLabelCache:
        return SoftLabelCache(self.root / "labels")

    @cached_property
    def representations(self) -> RepresentationFolder:
        """The document side of `TEXTS`, with ids that are the texts themselves."""
        rows = [{"text": text, "id": text} for text in TEXTS]
        return encode_table(
            self.student, rows, self.root / "representations", side=1, text_column="text", id_column="id",
            show_progress_bar=False,
        )  # fmt: skip

    def table(self, name: str = "rows.jsonl", rows: int = 12) -> Path:
        """A file of labelled pairs."""
        lines = [{"query": TEXTS[i % 7], "document": TEXTS[-1 - i % 8], "label": i % 2} for i in range(rows)]
        return write_jsonl(self.fresh(f"-{name}"), lines)
