"""A sentence student in training, with the projection to its teacher's width that is left out in the end.

Shape legend: n texts; t tokens; h width of the student; d width of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from torch import nn

from distilmatch.config.embeddings import EmbeddingStudentConfig
from distilmatch.errors import ConfigError
from distilmatch.models.sentence_student import rest_unused
from distilmatch.pretrained.prompts import texts_of
from distilmatch.pretrained.sentence import encoder_width, load_sentence_encoder


class ProjectedStudent(nn.Module):
    """A student with what it needs in training: its projection to the teacher's width and a learned temperature.

    Args:
        encoder: as `build_student` gives it.
        teacher_width: t, or None where there is nothing to be projected to (stage 2).
        config: whether it is projected, and the further widths of its embedding.
        temperature: what the learned one begins with; None learns none.

    Raises:
        ConfigError: a width that is not below the student's, or widths that differ without a projection.
    """

    def __init__(
        self,
        encoder: SentenceTransformer,
        config: EmbeddingStudentConfig,
        *,
        teacher_width: int | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = config  # not `config`: the trainer would take it for that of a transformer
        self.width = encoder_width(encoder)
        wide = [width for width in config.matryoshka if width >= self.width]
        if wide:
            raise ConfigError(f"`matryoshka` widths must be below the student's {self.width}, not {wide}")
        self.widths = (self.width, *config.matryoshka)
        self.projection: nn.Linear | None = None
        if teacher_width is not None and self._needs_projection(teacher_width):
            self.projection = nn.Linear(self.width, teacher_width)
            nn.init.orthogonal_(self.projection.weight)
            nn.init.zeros_(self.projection.bias)
        self.log_scale = None if temperature is None else nn.Parameter(-torch.tensor(float(temperature)).log())

    def _needs_projection(self, teacher_width: int) -> bool:
        wanted = self.shape.projection
        if wanted == "none" and teacher_width != self.width:
            raise ConfigError(
                f"the student is {self.width} wide and its teacher {teacher_width}: set `student.projection` to drop or keep"
            )
        # A beginning of the embedding needs a map of its own to the teacher's width.
        return wanted in ("drop", "keep") or (
            wanted == "auto" and (teacher_width != self.width or len(self.widths) > 1)
        )

    @torch.no_grad()
    def fit_projection(self, student: np.ndarray, teacher: np.ndarray) -> None:
        """Starts the projection at the rotation that brings (n, d) embeddings of the student nearest to the teacher's
        (n, t), both at length one (Schoenemann 1966); a rotation keeps the student's own cosines.
        """
        if self.projection is None:
            return
        unit = [
            vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            for vectors in (student, teacher)
        ]
        left, _, right = np.linalg.svd(unit[0].astype(np.float64).T @ unit[1].astype(np.float64), full_matrices=False)
        self.projection.weight.copy_(torch.from_numpy((left @ right).T))

    def forward(
        self, chunks: Sequence[dict[str, torch.Tensor]], restore: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor | None]:
        """The embeddings of a batch's texts.

        Args:
            chunks: features of texts of like length, which together are the u texts, sorted by length.
            restore: (n,) which of them each row is.

        Returns:
            (n, d) embeddings; for each width of the student's, those projected to (n, t), or the embedding itself cut
            where there is no projection; the learned temperature, a tensor of one, or None.
        """
        # `encoder(features)` adds to what it is given.
        distinct = torch.cat([self.encoder(dict(chunk))["sentence_embedding"] for chunk in chunks])
        embeddings = distinct.float().index_select(0, restore)
        projected = []
        for width in self.widths:
            cut = embeddings[:, :width]
            if self.projection is not None:
                weight = self.projection.weight[:, :width]
                cut = nn.functional.linear(cut, weight, self.projection.bias)
            projected.append(cut)
        return embeddings, projected, None if self.log_scale is None else (-self.log_scale).exp()

    def assembled(self) -> SentenceTransformer:
        """The student as it is used: the same weights as a plain `SentenceTransformer`, on the same device."""
        modules: list[nn.Module] = list(self.encoder)
        if self.projection is not None and self.shape.projection == "keep":
            dense = Dense(self.width, self.projection.out_features, activation_function=nn.Identity())
            dense.linear = self.projection
            modules.append(dense)
        if self.shape.normalize:
            modules.append(Normalize())
        return SentenceTransformer(
            modules=modules, device=str(self.encoder.device), prompts=texts_of(self.encoder.prompts)
        )


def trained_body(folder: str | Path) -> SentenceTransformer:
    """A saved student on the CPU without its module that normalises, to be trained on.

    Raises:
        ModelError: it cannot be loaded.
    """
    saved = load_sentence_encoder(folder, device="cpu")
    modules = [module for module in saved if not isinstance(module, Normalize)]
    if isinstance(modules[0], Transformer):
        rest_unused(cast(Any, modules[0].model), modules[0].tokenizer)
    return SentenceTransformer(modules=modules, device="cpu", prompts=texts_of(saved.prompts))
