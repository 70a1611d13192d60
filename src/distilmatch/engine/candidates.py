"""Candidates by a nearest-neighbour index over vectors of whole texts, for when all against all is too much.

A student's pooled vector is what its own similarity of whole texts is made of, so that no second model is needed; the
embeddings of a sentence encoder may take its place.

Shape legend: n, m texts of the two sides; d width; k candidates.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, get_args

import numpy as np

from distilmatch.data.neighbours import nearest
from distilmatch.engine.question import IndexKind
from distilmatch.errors import ConfigError, MissingExtraError, did_you_mean
from distilmatch.files import check_checksums, file_checksums, read_json, write_json, writing

_HNSW_LINKS, _HNSW_CONSTRUCTION = 32, 80
_ADDED = 2**16  # vectors at a time
_VECTORS, _GRAPH, _COMPLETE = "vectors.npy", "index.faiss", "index.json"
_IVF_TRAINED = 64  # vectors a list is trained with
_IVF_ROUNDS = 10  # of k-means, as FAISS trains lists


class CandidateIndex:
    """An index of one side's pooled vectors: `flat` is exact, `hnsw` and `ivf` are FAISS's approximate ones."""

    def __init__(self, vectors: np.ndarray, kind: IndexKind = "flat") -> None:
        """Builds the index of (m, d) fp32 `vectors`.

        Raises:
            ConfigError: there is no such kind, or a vector is no row of finite numbers.
            MissingExtraError: an approximate index without FAISS.
        """
        if kind not in get_args(IndexKind):
            known = get_args(IndexKind)
            raise ConfigError(f"an index is one of {', '.join(known)}, not {kind!r}{did_you_mean(str(kind), known)}")
        self.vectors: np.ndarray = _finite_vectors(vectors)
        self.kind: IndexKind = kind
        self.index: Any = None
        self._flat: Any = None
        if kind == "flat":
            return
        if importlib.util.find_spec("faiss") is None:
            raise MissingExtraError("faiss", "faiss")
        self.index = _faiss_index(self.vectors, kind)

    def save(self, folder: Path, of: str) -> None:
        """Writes it to a folder, from which `load` opens it again.

        Args:
            of: a fingerprint of what it is an index of.

        Raises:
            CacheError: it cannot be written.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _COMPLETE).unlink(missing_ok=True)
            np.save(folder / _VECTORS, self.vectors, allow_pickle=False)
            names = [_VECTORS]
            if self.index is not None:
                import faiss

                faiss.write_index(self.index, str(folder / _GRAPH))
                names.append(_GRAPH)
            sums = file_checksums(folder, names)
            write_json(folder / _COMPLETE, {"of": of, "kind": self.kind, "checksums": sums})

    @classmethod
    def load(cls, folder: Path, of: str) -> CandidateIndex | None:
        """The index of a folder; None where there is none that is whole and of this.

        Raises:
            CacheError: it is damaged.
        """
        try:
            said = read_json(folder / _COMPLETE)
        except (OSError, ValueError):
            return None
        if not isinstance(said, dict) or said.get("of") != of:
            return None
        check_checksums(folder, said.get("checksums"), "index")
        index = cls.__new__(cls)
        index.vectors = np.load(folder / _VECTORS, mmap_mode="r", allow_pickle=False)
        index.kind, index.index, index._flat = said["kind"], None, None
        if (folder / _GRAPH).exists():
            import faiss

            index.index = faiss.read_index(str(folder / _GRAPH))
        return index

    def check(self, texts: int, queries: int, vectors: np.ndarray | None, pooled_width: int) -> None:
        """Refuses what the index is not of.

        Args:
            texts: m, how many it must hold.
            queries: n, how many texts ask.
            vectors: of these, where they do not come from the student.
            pooled_width: of those that come from the student.

        Raises:
            ConfigError: another number of texts, or vectors that are not (n, d).
        """
        held, width = self.vectors.shape
        if held != texts:
            raise ConfigError(f"the index is of {held:,} texts, there are {texts:,}: build it of these")
        if vectors is None and width != pooled_width:
            raise ConfigError(
                f"the index is of vectors of width {width}, the student's are {pooled_width} wide: give `vectors`, the left "
                "texts' in the space of the index"
            )
        if vectors is not None and vectors.shape != (queries, width):
            raise ConfigError(
                f"vectors of shape {vectors.shape} do not fit {queries:,} texts and an index of width {width}"
            )

    def nearest(self, queries: np.ndarray, k: int) -> np.ndarray:
        """(n, min(k, m)) int64 rows of the k nearest, best first, each once.

        Where an approximate index finds fewer than there are, that query is searched exactly.

        Raises:
            ConfigError: a query is no row of finite numbers.
        """
        queries = _finite_vectors(queries)
        k = min(k, len(self.vectors))
        if self.index is None:
            return self._nearest_exactly(queries, k)
        rows = np.array(self.index.search(queries, k)[1], dtype=np.int64)
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            rows[short] = self._nearest_exactly(queries[short], k)
        return rows

    def _nearest_exactly(self, queries: np.ndarray, k: int) -> np.ndarray:
        if importlib.util.find_spec("faiss") is None:
            return nearest(queries, self.vectors, k)
        if self._flat is None:
            import faiss

            self._flat = _added(faiss.IndexFlatIP(self.vectors.shape[1]), self.vectors)
        return np.asarray(self._flat.search(queries, k)[1], dtype=np.int64)


def ivf_distances(count: int) -> tuple[float, float]:
    """Distances that an `ivf` index of m vectors takes to build, and those of a query: to the lists, and to texts in some."""
    lists = _lists(count)
    trained = min(count, _IVF_TRAINED * lists)
    return (_IVF_ROUNDS * trained + count) * lists, lists + _asked_lists(lists) * count / lists


def _lists(count: int) -> int:
    return max(1, min(count, int(4 * count**0.5)))


def _asked_lists(lists: int) -> int:
    return max(1, lists // 16)


def _finite_vectors(vectors: np.ndarray) -> np.ndarray:
    # As FAISS reads them; its distances to NaN are in no order.
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise ConfigError(f"vectors must be rows of numbers, they are {vectors.dtype} of shape {vectors.shape}")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    for start in range(0, len(vectors), _ADDED):
        finite = np.isfinite(vectors[start : start + _ADDED]).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ConfigError(f"vector {row} holds numbers that are not finite (NaN or Inf)")
    return vectors


def _faiss_index(vectors: np.ndarray, kind: IndexKind) -> Any:
    import faiss

    count, width = vectors.shape
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = _HNSW_CONSTRUCTION
        graph.hnsw.efSearch = 2 * _HNSW_CONSTRUCTION
        return _added(graph, vectors)
    lists = _lists(count)
    inverted = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(0)
    inverted.train(vectors[random.permutation(count)[: _IVF_TRAINED * lists]])
    inverted.nprobe = _asked_lists(lists)
    return _added(inverted, vectors)


def _added(index: Any, vectors: np.ndarray) -> Any:
    for start in range(0, len(vectors), _ADDED):
        index.add(np.ascontiguousarray(vectors[start : start + _ADDED]))
    return index
