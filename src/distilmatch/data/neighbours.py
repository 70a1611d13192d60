"""Nearest neighbours among embeddings: FAISS where it is installed, else a blockwise exact search in PyTorch.

Shape legend: n query vectors; m corpus vectors; h width; k neighbours.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch


def nearest(queries: np.ndarray, corpus: np.ndarray, k: int, block: int = 1024) -> np.ndarray:
    """(n, k) int64 positions of each query's k nearest corpus vectors by inner product, best first.

    Exact in both ways of running. `k` is cut to m.

    Args:
        queries: (n, h) float32, normalised for cosine.
        corpus: (m, h) float32.
    """
    k = min(k, len(corpus))
    if importlib.util.find_spec("faiss") is not None:
        import faiss

        index = faiss.IndexFlatIP(corpus.shape[1])
        index.add(np.ascontiguousarray(corpus, dtype=np.float32))
        return np.asarray(index.search(np.ascontiguousarray(queries, dtype=np.float32), k)[1], dtype=np.int64)
    table = torch.from_numpy(np.ascontiguousarray(corpus, dtype=np.float32))
    positions = [
        (torch.from_numpy(np.asarray(queries[start : start + block], dtype=np.float32)) @ table.T)
        .topk(k)
        .indices.numpy()
        for start in range(0, len(queries), block)
    ]
    return np.concatenate(positions) if positions else np.empty((0, k), dtype=np.int64)


def neighbour_groups(vectors: np.ndarray, size: int, rng: np.random.Generator, reach: int = 64) -> list[np.ndarray]:
    """Parts all n vectors into groups of at most `size` neighbours, in another way for every state of `rng`.

    Vectors are taken as seeds in random order; a seed takes its nearest vectors that are still free. What is left
    without a free neighbour within `reach` is grouped by what comes next, so that late groups are looser.

    Returns:
        Groups of positions, (<= size,) int64 each, that cover 0 to n - 1 once.
    """
    if size == 1:
        return [np.array([i]) for i in rng.permutation(len(vectors))]
    near = nearest(vectors, vectors, max(reach, 4 * size))
    free = np.ones(len(vectors), dtype=bool)
    groups, leftovers = [], []
    for seed in rng.permutation(len(vectors)):
        if not free[seed]:
            continue
        free[seed] = False  # its own twin may stand before it in its list
        candidates = near[seed]
        members = candidates[free[candidates]][: size - 1]
        free[members] = False
        group = np.concatenate([[seed], members])
        if len(group) == size:
            groups.append(group)
        else:
            leftovers.append(group)
    rest = np.concatenate(leftovers) if leftovers else np.empty(0, dtype=np.int64)
    groups += [rest[start : start + size] for start in range(0, len(rest), size)]
    return groups
