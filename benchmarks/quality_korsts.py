"""KorSTS, similarity of Korean sentences: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_korsts --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

Spearman and Pearson over the pairs of the test split. The encoder is an English one: the only weights that come as a package.
"""

from __future__ import annotations

from benchmarks.harness import compare_and_publish


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    compare_and_publish("quality_korsts", __doc__, "korsts")


if __name__ == "__main__":
    main()
