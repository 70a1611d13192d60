"""STS-B, similarity of sentences: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_stsb --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

Spearman and Pearson over the pairs of the test split.
"""

from __future__ import annotations

from benchmarks.harness import compare_and_publish


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    compare_and_publish("quality_stsb", __doc__, "stsb")


if __name__ == "__main__":
    main()
