"""Home Depot, graded relevance of products to queries: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_homedepot --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

Spearman over all pairs of the test split; nDCG@10 with the gain relevance - 1 over its queries that have two grades.
"""

from __future__ import annotations

from benchmarks.harness import compare_and_publish


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    compare_and_publish("quality_homedepot", __doc__, "homedepot")


if __name__ == "__main__":
    main()
