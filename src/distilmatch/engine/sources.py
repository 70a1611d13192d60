"""Where the representations of a side come from: memory, a folder, or some rows of another source; one door for all.

Shape legend: n rows of a source; m rows asked for; k kept tokens; d width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from distilmatch.errors import DataError, ModelError
from distilmatch.models import DiPair
from distilmatch.models.stamps import check_shape, check_stamp
from distilmatch.store.codec import STORED_DTYPES
from distilmatch.store.folder import RepresentationFolder
from distilmatch.types import TokenRepresentations


@runtime_checkable
class RowSource(Protocol):
    """Representations of n texts of one side, read by row number. Several threads may read at once."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """The representations of (m,) int64 rows, in that order, as they are stored."""
        ...

    def check(self, model: DiPair, side: int, wanted: Callable[[], str]) -> None:
        """Refuses what is not of this model and side, by what the source says of itself; nothing is read for it.

        Args:
            wanted: gives the fingerprint of the model's representations of this side.

        Raises:
            ModelError: another model, side or shape; it says which is which.
        """
        ...

    def shown(self, side_name: str) -> str:
        """What messages call it."""
        ...

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """(m,) int64: what messages call (m,) rows."""
        ...


class MemoryRows:
    """`TokenRepresentations` as a source; what carries neither side nor model is taken for what it is said to be."""

    def __init__(self, texts: TokenRepresentations) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """As `RowSource.read`."""
        return self.texts[torch.from_numpy(rows)]

    def check(self, model: DiPair, side: int, wanted: Callable[[], str]) -> None:
        """As `RowSource.check`."""
        check_stamp(self.texts, side, model.student.side_names, wanted)
        check_shape(self.texts, side, model.student.kept_vectors[side], model.student.vector_width)

    def shown(self, side_name: str) -> str:
        """As `RowSource.shown`."""
        return f"the {side_name} side"

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The rows themselves."""
        return rows


class FolderRows:
    """A representation folder as a source."""

    def __init__(self, folder: RepresentationFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """As `RowSource.read`.

        Raises:
            CacheError: the folder is damaged.
        """
        return self.folder.read(rows)

    def check(self, model: DiPair, side: int, wanted: Callable[[], str]) -> None:
        """As `RowSource.check`: the manifest's side, model, shape and dtype."""
        path, manifest, names = self.folder.path, self.folder.manifest, model.student.side_names
        if manifest.side != side:
            raise ModelError(
                f"{path} was encoded for side {manifest.side} ({manifest.side_name}) and is given for side {side} "
                f"({names[side]}); give the folders in the order {', '.join(names)}, each encoded for its side"
            )
        fingerprint = wanted()
        if manifest.model_fingerprint != fingerprint:
            raise ModelError(
                f"{path} was encoded by another model than the one given: its {names[side]} representations have the "
                f"fingerprint {manifest.model_fingerprint}, this model's {fingerprint}; encode the texts again with this "
                "model, or take the model that encoded them (a Scorer is of the weights that its model had when it was made)"
            )
        shape = manifest.kept_tokens, manifest.width
        expected = model.student.kept_vectors[side], model.student.vector_width
        if shape != expected:
            raise ModelError(
                f"{path} says that it holds {shape} (tokens, width) a text, this model's are {expected}: it is damaged or "
                "made by hand; encode the texts again with this model and side"
            )
        if manifest.dtype not in STORED_DTYPES:
            raise ModelError(f"{path} holds numbers of {manifest.dtype!r}, known are {', '.join(STORED_DTYPES)}")

    def shown(self, side_name: str) -> str:
        """As `RowSource.shown`."""
        return str(self.folder.path)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """The rows themselves."""
        return rows


class Subset:
    """Some rows of another source, in any order; messages name them by their numbers there.

    Args:
        rows: (n,) row numbers of `source`.
    """

    def __init__(self, source: RowSource, rows: np.ndarray | range) -> None:
        chosen = np.asarray(rows, dtype=np.int64)
        if len(chosen) and not 0 <= int(chosen.min()) <= int(chosen.max()) < len(source):
            raise DataError(f"row numbers out of range: the source has rows 0 to {len(source) - 1}")
        self.source, self.rows = source, chosen

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: np.ndarray) -> TokenRepresentations:
        """As `RowSource.read`."""
        return self.source.read(self.rows[rows])

    def check(self, model: DiPair, side: int, wanted: Callable[[], str]) -> None:
        """As `RowSource.check`, of the whole source."""
        self.source.check(model, side, wanted)

    def shown(self, side_name: str) -> str:
        """What messages call the whole source."""
        return self.source.shown(side_name)

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """Their numbers in the whole source."""
        return self.source.numbers(self.rows[rows])


Representations = TokenRepresentations | RepresentationFolder | RowSource


def row_source(texts: Representations, side_name: str) -> RowSource:
    """Texts as a user gives them, as a source.

    Raises:
        ModelError: it is none.
    """
    if isinstance(texts, TokenRepresentations):
        return MemoryRows(texts)
    if isinstance(texts, RepresentationFolder):
        return FolderRows(texts)
    if isinstance(texts, RowSource):
        return texts
    raise ModelError(
        f"the {side_name} side is a {type(texts).__name__}: give what encode(texts, side) returns, or "
        "RepresentationFolder.open(folder)"
    )
