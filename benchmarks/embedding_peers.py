"""Texts per second of sentence-transformers folders by ONNX Runtime and OpenVINO, as sentence-transformers runs them.

    python -m benchmarks.embedding_peers TEXTS SECONDS FOLDER...

Started by `benchmarks.embedding_throughput` with the interpreter of another environment, as `benchmarks.engine_peers` says.
Nothing of this package is imported here.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path


def main() -> None:
    """Prints one JSON object: rates by folder and backend. Arguments: TEXTS SECONDS FOLDER..."""
    from sentence_transformers import SentenceTransformer

    texts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    seconds = float(sys.argv[2])
    found: dict[str, float] = {}
    for folder in map(Path, sys.argv[3:]):
        for backend in ("onnx", "openvino"):
            model = SentenceTransformer(str(folder), backend=backend)  # type: ignore[arg-type]
            model.encode(texts[:64], batch_size=64)
            times: list[float] = []
            while len(times) < 3 or sum(times) < seconds:
                started = time.perf_counter()
                model.encode(texts, batch_size=64)
                times.append(time.perf_counter() - started)
            found[f"{folder.name}_{backend}"] = len(texts) / statistics.median(times)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
