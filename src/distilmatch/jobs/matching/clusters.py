"""The clusters of a table whose items were compared with one another, as a file of its items.

Shape legend: v items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from distilmatch.files import writing
from distilmatch.jobs.matching.output import MatchedSide
from distilmatch.jobs.matching.pairs import Clusters
from distilmatch.jobs.outputs import write_rows

_ROWS_A_TURN = 2**20


@dataclass(frozen=True, kw_only=True)
class ClusterReport:
    """What was joined.

    Attributes:
        clusters: of two items or more.
        items: in these.
        largest: items of the largest; 1 where nothing was joined. Clusters grow by chains, so that a threshold that is too low
            shows here first.
    """

    clusters: int
    items: int
    largest: int


class ClusterOutput:
    """A file of all items of a table and their clusters, in the order of the table."""

    def __init__(self, path: Path, side: MatchedSide, job: str) -> None:
        """`job`: the fingerprint of the match."""
        self.path, self.side, self.job = path, side, job

    def write(self, clusters: Clusters) -> ClusterReport:
        """Writes `row`, `id` and `text` where the match shows them, `cluster` from 0 by first items, and `size`.

        Raises:
            CacheError: it cannot be written.
        """
        numbers, sizes = clusters.numbered()
        fields = [field.with_name(field.name.removeprefix(f"{self.side.name}_")) for field in self.side.fields()]
        schema = pa.schema([*fields, pa.field("cluster", pa.int64()), pa.field("size", pa.int64())])

        def tables() -> Iterator[pa.Table]:
            for start in range(0, len(numbers), _ROWS_A_TURN):
                items = np.arange(start, min(start + _ROWS_A_TURN, len(numbers)))
                columns = [*self.side.columns(items), pa.array(numbers[items]), pa.array(sizes[items])]
                yield pa.Table.from_arrays(columns, schema=schema)

        temporary = self.path.with_name(f".{self.path.name}.writing")
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write_rows(self.path, tables(), schema, self.job.encode(), temporary)
        finally:
            temporary.unlink(missing_ok=True)
        joined = sizes > 1
        largest = int(sizes.max()) if len(sizes) else 0
        return ClusterReport(clusters=len(np.unique(numbers[joined])), items=int(joined.sum()), largest=largest)
