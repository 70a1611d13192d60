"""Memory that `encode` and `score` take a row of the table, and a folder a text once it is looked up: the growth of a process's
peak from a small table to a large one.

`python -m benchmarks.table_memory`. Each measurement is a process of its own, on a student so tiny that its work is nothing.
Theory: encode keeps a key of 16 bytes and an id for each distinct text in dictionaries (about 100 bytes an entry and 33 to 60 an
object); score reads its table in batches, and a folder in which rows are looked up by text or id keeps an index of these.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.first_week_models import Models
from benchmarks.results import publish
from distilmatch.config.tables import TableConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.score import score_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

SIZES = (100_000, 400_000)
TEXTS = 2_000  # a side of the table that is scored
STEPS = ("encode", "encode_with_ids", "score", "find_texts", "find_ids")


def _table(path: Path, rows: int, texts: int) -> Path:
    with path.open("w") as file:
        file.write("qid,query,did,document\n")
        for row in range(rows):
            left, right = row % texts, row * 7 % texts
            file.write(f"q{left},red shoe {left},d{right},blue lamp {right}\n")
    return path


def _child(step: str, folder: Path, rows: int) -> None:
    model = DiPair.from_pretrained(folder / "student").eval()
    if step == "score":
        table = _table(folder / f"score-{rows}.csv", rows, TEXTS)
        columns = TableConfig(text_columns=("query", "document"))
        sides = [folder / "query", folder / "document"]
        score_table(Scorer(model), str(table), folder / f"{rows}.parquet", sides, table=columns, batch_rows=8192)
    elif step.startswith("find"):
        opened = RepresentationFolder.open(folder / f"encode_with_ids-{rows}")
        row = opened.row_of_text(["red shoe 5"])[0] if step == "find_texts" else opened.row_of_id(["q5"])[0]
        assert row == 5
    else:
        table = _table(folder / f"{step}-{rows}.csv", rows, rows)
        ids = "qid" if step == "encode_with_ids" else None
        encode_table(
            model, str(table), folder / f"{step}-{rows}", side=0, text_column="query", id_column=ids, shard_rows=8192
        )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Measures, prints and saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("STEP", "FOLDER", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        step, folder, rows = arguments.child
        _child(step, Path(folder), int(rows))
        return
    metrics: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = Models(folder / "models").student(0)
        model.save_pretrained(folder / "student")
        table = _table(folder / "texts.csv", TEXTS, TEXTS)
        for side, name in enumerate(("query", "document")):
            encode_table(model, str(table), folder / name, side=side, text_column=name)
        for step in STEPS:
            peaks = []
            for rows in SIZES:
                command = [sys.executable, "-m", "benchmarks.table_memory", "--child", step, str(folder), str(rows)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                peaks.append(int(done.stdout.splitlines()[-1]))
                metrics[f"{step}_peak_mb_{rows}"] = peaks[-1] / 1e6
            unit = "text" if step.startswith("find") else "row"
            metrics[f"{step}_bytes_a_{unit}"] = (peaks[1] - peaks[0]) / (SIZES[1] - SIZES[0])
            print(step, round(metrics[f"{step}_bytes_a_{unit}"]), "bytes a", unit, flush=True)
    publish("table_memory", metrics, [0], {"texts a side of the scored table": TEXTS})


if __name__ == "__main__":
    main()
