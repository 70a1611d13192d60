"""What several tests of the engine need: a mark, sides written to disk, and rates of a machine that was never measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from distilmatch.engine.kernels.native_module import runs_native
from distilmatch.models import DiPair
from distilmatch.planning.planner import Rates
from distilmatch.store.codec import StoredDtype
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.types import TokenRepresentations

needs_native = pytest.mark.skipif(not runs_native(), reason="no native kernels here")

RATES = Rates(
    encoded=(100.0, 50.0),
    folded=(1000.0, 500.0),
    scored=10_000.0,
    written=1e5,
    folded_bytes=(2000, 4000),
    products=1e12,
    read=1e10,
    start=3.0,
    free_bytes=2**40,
    kernel="torch",
)


def stored(
    model: DiPair, sides: Sequence[TokenRepresentations], folder: Path, dtype: StoredDtype = "float32"
) -> list[RepresentationFolder]:
    """The sides in a folder each, in shards of ten texts."""
    folders = []
    for j, side in enumerate(sides):
        manifest = RepresentationManifest(
            model_fingerprint=model.representation_fingerprint(j),
            side=j,
            side_name=model.student.side_names[j],
            kept_tokens=side.tokens.shape[1],
            width=side.tokens.shape[2],
            dtype=dtype,
            shard_rows=10,
        )
        with RepresentationWriter(folder / str(j), manifest) as writer:
            writer.append(None, [f"{j}-{i}".encode().ljust(16) for i in range(len(side))], side)
        folders.append(RepresentationFolder.open(folder / str(j)))
    return folders
