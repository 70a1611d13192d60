"""Pairs per second of a `CrossEncoder` folder by ONNX Runtime (int8) and OpenVINO, as sentence-transformers runs them.

Started by `benchmarks.engine_pairs` with the interpreter of another environment, because what sentence-transformers needs for
these asks for an older transformers than this package does:

    python -m venv peers && peers/bin/pip install 'sentence-transformers[onnx,openvino]'
    python -m benchmarks.engine_pairs --peers-python peers/bin/python

which runs `python -m benchmarks.engine_peers FOLDER SECONDS TOKENS...` there. Nothing of this package is imported here.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

WORD = "a "
QUANTISED = "avx512_vnni"


def cross_encoder_rate(model: Any, tokens: int, seconds: float) -> float:
    """Median pairs a second of `CrossEncoder.predict` on pairs of `tokens` tokens, as many as take about half a second."""
    text = WORD * (tokens // 2)
    count = 4
    while True:
        pairs = [(text, text)] * count
        model.predict(pairs, batch_size=32, show_progress_bar=False)
        times: list[float] = []
        while len(times) < 3 or sum(times) < seconds:
            started = time.perf_counter()
            model.predict(pairs, batch_size=32, show_progress_bar=False)
            times.append(time.perf_counter() - started)
        middle = statistics.median(times)
        if middle > 0.5 or count >= 512:
            return count / middle
        count *= 4


def main() -> None:
    """Prints one JSON object: rates by backend and number of tokens. Arguments: FOLDER SECONDS TOKENS..."""
    from sentence_transformers import CrossEncoder, export_dynamic_quantized_onnx_model

    folder, seconds, lengths = Path(sys.argv[1]), float(sys.argv[2]), [int(given) for given in sys.argv[3:]]
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
        found[f"onnx_int8_{tokens}"] = cross_encoder_rate(small, tokens, seconds)
        other = CrossEncoder(str(folder), backend="openvino", max_length=tokens)
        found[f"openvino_{tokens}"] = cross_encoder_rate(other, tokens, seconds)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
