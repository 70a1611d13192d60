"""What stands between the encoders and the head: projection, positions and segments of the kept outputs.

Shape legend: n texts; k kept tokens; h width of the encoder; d of the head.
"""

from __future__ import annotations

import torch
from torch import nn

from distilmatch.config.pairs import StudentConfig
from distilmatch.errors import ModelError
from distilmatch.models.fp32 import Fp32Module
from distilmatch.models.heads import HEADS
from distilmatch.models.lexical import LexicalVectors
from distilmatch.types import TokenRepresentations


class HeadInput(Fp32Module):
    """Projection, position and segment embeddings: from kept encoder outputs to what is cached.

    `x_i = LayerNorm(project(token_i) + position_i + segment_side)` depends on one text and its side alone. A cosine
    head takes the bare projection. A lexical vector, the last one where there is one, goes through as it is.
    """

    def __init__(self, encoder_width: int, student: StudentConfig) -> None:
        super().__init__()
        self.projection = nn.Linear(encoder_width * (2 if student.word_vectors else 1), student.vector_width)
        self.embedded = HEADS[student.head].embedded
        if self.embedded:
            self.position = nn.Embedding(max(student.kept_tokens), student.vector_width)
            self.segment = nn.Embedding(student.sides, student.vector_width)
            self.norm = nn.LayerNorm(student.vector_width)
        self.lexical = LexicalVectors(student.vector_width) if student.lexical else None
        if student.lexical and student.vector_width > encoder_width:
            raise ModelError(
                f"a lexical vector of width {student.vector_width} does not fit beside outputs of width {encoder_width}: take "
                "a `width` of no more than the encoder's, or `lexical` false"
            )

    def forward(self, states: torch.Tensor, mask: torch.Tensor, side: int) -> TokenRepresentations:
        """(n, k, d) representations from (n, k, h) kept outputs and their (n, k) mask."""
        outputs = states if self.lexical is None else states[:, :-1]
        tokens = self.projection(outputs.to(self.projection.weight.dtype))
        if self.embedded:
            tokens = self.norm(tokens + self.position.weight[: outputs.shape[1]] + self.segment.weight[side])
        if self.lexical is not None:
            lexical = states[:, -1:, : self.lexical.width].to(tokens.dtype)
            tokens = torch.cat([tokens, lexical], 1)
        return TokenRepresentations(tokens * mask[:, :, None].to(tokens.dtype), mask)
