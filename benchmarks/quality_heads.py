"""What the heads of all pairs are worth: the quality of students with each, on several sets, beside the teacher's.

    python -m benchmarks.quality_heads --data DIR [--sets SET ...] [--work DIR] [the options of benchmarks.harness]

For each set the harness's rows of the teacher, of TF-IDF, of the student by default (a transformer head), and of two
students with a feed-forward head of hidden width 256 and ReLU: the one that a trillion pairs were scored with, and the same
with products of the texts' vectors beside it. Same labels, same stages, same steps. `SET_ROW_METRIC` is on test. A row that
is in `WORK/SET/rows` is not made again.
"""

from __future__ import annotations

import json

from benchmarks.harness import compare, comparison_of, figures, notes, options
from benchmarks.results import FOLDER, command_of, publish
from benchmarks.sets import SETS

ROWS = ("teacher", "tfidf", "student", "feed_forward_compared", "feed_forward_relu")
USUAL = ("sick", "stsb", "walmart_amazon", "wikiqa")


def main() -> None:
    """Makes each set's rows, and publishes."""
    parser = options(__doc__, "quality_heads")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(USUAL))
    parser.add_argument("--add", action="store_true", help="publish beside the sets of earlier runs")
    arguments = parser.parse_args()
    metrics: dict[str, float] = {}
    facts: dict[str, dict[str, object]] = {}
    if arguments.add:
        earlier = json.loads((FOLDER / "quality_heads.json").read_text())
        metrics, facts = dict(earlier["metrics"]), dict(earlier["notes"]["sets"])
        for fact in facts.values():
            fact.setdefault("command", earlier["command"])
    work = arguments.work
    for name in arguments.sets:
        arguments.work = work / name
        comparison = comparison_of(arguments, SETS[name])
        rows = compare(comparison, ROWS)
        metrics |= {f"{name}_{key}": value for key, value in figures(comparison.one, rows).items()}
        told = notes(comparison, rows)
        facts[name] = {key: told[key] for key in ("set", "main", "rows", "rounds", "epochs", "stage1_epochs")}
        facts[name]["command"] = command_of("quality_heads")
    publish("quality_heads", metrics, arguments.seeds, {"sets": facts})


if __name__ == "__main__":
    main()
