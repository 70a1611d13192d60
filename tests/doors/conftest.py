"""The setup behind the doors, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from .setup import Setup


@pytest.fixture(scope="session")
def setup(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder: Path,
    tiny_cross_encoder: Path,
    tiny_cross_encoder_3: Path,
    tiny_sentence_encoder: Path,
) -> Setup:
    return Setup(
        root=tmp_path_factory.mktemp("doors"),
        encoder=tiny_encoder,
        cross_encoder=tiny_cross_encoder,
        cross_encoder_3=tiny_cross_encoder_3,
        sentence_encoder=tiny_sentence_encoder,
    )
