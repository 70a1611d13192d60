"""WikiQA, sentences that answer a question: teacher, students and rivals (`benchmarks.harness`).

    python -m benchmarks.quality_wikiqa --data DIR [--work DIR] [--teacher DIR] [--minutes M] [--seeds 0 1 2] [--jobs N]

MAP and MRR over the test questions that have a right and a wrong answer, as usual, without a cut-off.
"""

from __future__ import annotations

from benchmarks.harness import compare_and_publish


def main() -> None:
    """Runs it and publishes the figures of the test split."""
    compare_and_publish("quality_wikiqa", __doc__, "wikiqa")


if __name__ == "__main__":
    main()
