"""Pairs per second of a `CrossEncoder` folder by ONNX Runtime (int8) and OpenVINO, as sentence-transformers runs them.

Started by `benchmarks.engine_pairs` with the interpreter of another environment, because what sentence-transformers needs for
these asks for an older transformers than this package does:

    python -m venv peers && peers/bin/pip install 'sentence-transformers[onnx,openvino]'
    python -m benchmarks.engine_pairs --table pairs.jsonl --peers-python peers/bin/python

which runs `python -m benchmarks.engine_peers FOLDER TABLE SECONDS TOKENS...` there. Nothing of this package is imported here.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

QUANTISED = "avx512_vnni"
LOT = 256  # pairs a call, which sentence-transformers sorts by length and cuts into batches
BATCH = 32


def read_pairs(path: Path, count: int = 4096) -> list[tuple[str, str]]:
    """The first `count` pairs of a table of JSON lines: its first two columns that hold texts."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line, _ in zip(stream, range(count))]
    if not rows:
        raise SystemExit(f"{path} has no rows: give --table a file of JSON lines with two columns of texts")
    columns = [name for name, value in rows[0].items() if isinstance(value, str)][:2]
    if len(columns) < 2:
        raise SystemExit(f"{path} has no two columns of texts: {', '.join(rows[0])}")
    pairs = [(str(row[columns[0]]), str(row[columns[1]])) for row in rows]
    random.Random(0).shuffle(pairs)
    return pairs


def cross_encoder_rate(model: Any, pairs: list[tuple[str, str]], seconds: float) -> float:
    """Pairs a second of `CrossEncoder.predict` over lots of real pairs, for `seconds` of work, after one lot not counted.

    The pairs are in random order, so that every lot has the table's lengths.
    """
    model.predict(pairs[:LOT], batch_size=BATCH, show_progress_bar=False)
    spent, scored, start = 0.0, 0, 0
    while spent < seconds:
        lot = [pairs[i % len(pairs)] for i in range(start, start + LOT)]
        started = time.perf_counter()
        model.predict(lot, batch_size=BATCH, show_progress_bar=False)
        spent += time.perf_counter() - started
        scored, start = scored + len(lot), start + LOT
    return scored / spent


def main() -> None:
    """Prints one JSON object: rates by backend and number of tokens. Arguments: FOLDER TABLE SECONDS TOKENS..."""
    from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

    folder, pairs, seconds = Path(sys.argv[1]), read_pairs(Path(sys.argv[2])), float(sys.argv[3])
    lengths = [int(given) for given in sys.argv[4:]]
    exported = folder.with_name(folder.name + "-onnx")
    whole = CrossEncoder(str(folder), backend="onnx")
    whole.save_pretrained(str(exported))
    export_dynamic_quantized_onnx_model(whole, QUANTISED, str(exported))
    found: dict[str, float] = {}
    for tokens in lengths:
        small = CrossEncoder(
            str(exported),
            backend="onnx",
            max_length=tokens,
            model_kwargs={"file_name": f"model_qint8_{QUANTISED}.onnx"},
        )
        found[f"onnx_int8_{tokens}"] = cross_encoder_rate(small, pairs, seconds)
        other = CrossEncoder(str(folder), backend="openvino", max_length=tokens)
        found[f"openvino_{tokens}"] = cross_encoder_rate(other, pairs, seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
