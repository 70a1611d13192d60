"""Writes docs/results/engine.md from the results of the benchmarks."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.pages import jobs
from benchmarks.pages.parts import PAGES, markdown_table, sections

TARGET = PAGES / "engine.md"
HEAD = """# What the engine does a second

Students and peers have random weights of their shapes, which speed does not depend on; each table is one run on one quiet
machine, medians, so that its ratios hold where its absolute figures do not. Other work beside them moves both by a
tenth. [Folding](../explanation/folding.md) says what is computed and what limits it. This page is written from
`benchmarks/results/` by `python -m benchmarks.pages`.
"""
HEADS = {
    "transformer": "one layer, 8 + 8 tokens, width 256",
    "transformer_relu": "the same with ReLU",
    "transformer_16_16": "one layer, 16 + 16 tokens, width 256",
    "transformer_default": "the usual head at 16 + 16 tokens: one layer, width 384, both kinds of similarity",
    "transformer_two_layers": "two layers, 8 + 8, width 256",
    "transformer_four_layers": "four layers, 8 + 8, width 256",
    "feed_forward": "feed-forward, hidden width 256, GELU",
    "feed_forward_relu": "feed-forward, hidden width 256, ReLU",
    "cosine": "cosine",
}
WAYS = {
    "plain_fp32": "plain fp32",
    "plain_bf16": "plain bf16",
    "folded_torch": "`torch`",
    "folded_torch_bf16": "`torch-bf16`",
    "folded_native": "`native`",
    "folded_native_int8": "`native-int8`",
}
PAIRS = """- The first row's `native` is {share} of the machine's limit ({limit} pairs/s: {products} x 10^12 bf16 operations a
  second in PyTorch's largest products, over the head's operations) and {plain} times the plain head in fp32 (int8:
  {plain_int8} times).{peers}
- A text's representation takes {stored} bytes in fp16, {folded} folded in memory.
- MaxSim of the same cached tokens in PyTorch: {maxsim} pairs/s."""
OF_A_TABLE = (
    """The peers read the pairs of `{table}` cut to that many tokens, in random order, each for ten seconds or more."""
)
OF_ONE_PAIR = """The peers read copies of one pair of exactly that many tokens, for less than a second each: the most that such a
length can cost, not what real pairs do, which are shorter. Rates on real pairs will replace them (`--table`)."""
ALL_PAIRS = """The limit of a transformer head is the rate of bf16 products over its operations, of the feed-forward head the
rate of its two (ReLU) or about thirteen (GELU) vector instructions on registers, of the cosine the rate of fp32 products.
A feed-forward head leaves out pairs whose bounds are too low, which is how it can be above the limit of scoring all of them.
Beside them, on the same sizes: FAISS's exact search {faiss} dot products a second, MaxSim in PyTorch {maxsim}."""
SCALING = """![Pairs a second over the pairs of a job, and memory over items](engine-scaling.png)

A job's whole time, reading and folding included, each in a process of its own: width {width}, {kept} + {kept} tokens,
{memory} MiB for folding and folded texts. The process's own memory grows by about that and no further (two million items: 0.62
GiB more than before scoring); mapped files are not counted."""
OUT_OF_MEMORY = (
    *("texts", "memory_mb", "in_memory_s", "out_of_memory_s", "time_ratio", "passes", "read_gb", "bytes_over_bound"),
    *("killed_s", "kills", "equal"),
)
OUT_OF_MEMORY_PLOT = (
    "![Seconds of a match in memory, out of it, and killed on the way, for each head](engine-out-of-memory.png)"
)
OUT_OF_MEMORY_TEXT = """The ten best of each left text; seconds of `match` without the start of Python. Each side's folded
texts take four times the memory that is given for them. What is read are both sides' representations, once, and folded
texts from files, once a block of the right side. The least is what any order of work reads in that memory
([how](../how-to/scoring.md#more-than-memory-holds)); the rest is the memory that the best so far take, the half of it that
blocks have, and representations that are larger than folded texts. The killed job's seconds are of all its processes,
their starts included; “equal” is all three outputs, row by row."""
TRILLION = """Both sides are random representations; the head is {head}, by {kernel}. The ten best of each left text are
kept, and are those that scoring every pair would give: nearly all pairs are left out by their bounds
([how](../explanation/folding.md#pairs-that-need-no-exact-logit)). The job was ended {kills} times with SIGKILL and went
on: {hours} hours of all its processes, what the stops lost included; planned {planned_hours}. {rate} pairs a second. The
last process had {memory} GiB, mapped files included, and folded each text {passes} times."""
EXTRAPOLATED = """The same job with the {head}, by {kernel}, was run to {pairs} pairs: {rate} pairs a second. A trillion would
take {hours:,.0f} hours of these two cores: scaled up, not run."""
_SEARCHED = {
    "feed_forward_relu": HEADS["feed_forward_relu"],
    "feed_forward_gelu": HEADS["feed_forward"],
    "feed_forward_relu_compared": HEADS["feed_forward_relu"] + ", with products",
    "feed_forward_gelu_compared": HEADS["feed_forward"] + ", with products",
}
_MORE_METRICS = {"walmart_amazon": ("average_precision",), "wikiqa": ("mrr",)}
_HEAD_ROWS = {
    "student": "student by default",
    "feed_forward_compared": "feed-forward, with products",
    "feed_forward_relu": "feed-forward alone",
    "tfidf": "TF-IDF",
}
QUALITY_OF_HEADS = """One seed; in brackets the share of the teacher's. The feed-forward heads have a hidden width of 256 and
ReLU; "alone" is the head that a trillion random pairs were scored with. Teacher, labels and stages are the same for all
of a set."""
EXACT_SEARCH = """{left:,} left texts against {right:,} right ones, real records encoded by trained students; the {k} best of
each are kept, and are equal to the last bit. Bounds in bytes say which pairs need no exact logit
([how](../explanation/folding.md#pairs-that-need-no-exact-logit)). Other heads score every pair."""
CLUSTERS = """Why other heads have no bounds: the most that bounds over clusters of texts could leave out, by any order of
visits, on the first student's vectors ({asked} by {texts:,} texts). MaxSim's bound is the tightest that there
is of tokens, and takes as much work as scoring every pair. Clusters of six leave a sixth of the bounds to be
computed, which cost what they skip."""
PEERS = {"bert_base": "BERT-base", "minilm_l6": "MiniLM-L6", "bert_tiny": "BERT-Tiny"}
BACKENDS = {"fp32": "fp32", "bf16": "bf16", "onnx_int8": "ONNX Runtime int8", "openvino": "OpenVINO"}
CANDIDATES = {
    "eager_fp32": "PyTorch, fp32",
    "eager_bf16": "PyTorch, bf16",
    "torch_compile_fp32": "`torch.compile`, fp32",
    "torch_compile_bf16": "`torch.compile`, bf16",
    "onnx_runtime_fp32": "ONNX Runtime, fp32",
    "onnx_runtime_int8": "ONNX Runtime, int8",
    "openvino_f32": "OpenVINO, fp32",
    "openvino_bf16": "OpenVINO, bf16",
    "native": "this package's kernel, bf16",
}
BESIDE = {"faiss": "faiss_flat", "maxsim": "maxsim_8_8"}
STORED = ("float32", "float16", "bfloat16", "int8")
KERNELS = ("torch", "native", "native_int8")


def render() -> str:
    """The page."""
    writers: dict[str, Callable[..., str]] = {
        "engine_pairs": _pairs,
        "engine_all_pairs": _all_pairs,
        "exact_search": _exact_search,
        "quality_heads": _quality_of_heads,
        "engine_scaling": _scaling,
        "engine_out_of_memory": _out_of_memory,
        "trillion": _trillion,
        "trillion_by_transformer": _extrapolated,
        "engine_latency": _latency,
        "engine_kernels": _kernels,
        "engine_tokens": _tokens,
        "quantised_quality": _quantised,
        "plan_accuracy": _plan,
        "store_operations": _store,
        "jobs_scale": jobs.scale,
        "jobs_faults": jobs.faults,
    }
    return sections(HEAD, {name: partial(_section, write) for name, write in writers.items()})


def _section(write: Callable[..., str], result: dict[str, Any]) -> str:
    return f"{write(result['metrics'], result)}\n\n{_repeat(result)}\n"


def _pairs(metrics: dict[str, float], result: dict[str, Any]) -> str:
    heads = markdown_table(
        ["pairs a second, from cached representations, in random order", *WAYS.values()],
        [[label, *(_rate(metrics.get(f"{name}_{way}_pairs_per_s")) for way in WAYS)] for name, label in HEADS.items()],
    )
    best = metrics["transformer_pairs_per_s"]
    rows = []
    for peer, label in PEERS.items():
        for tokens in (128, 256):
            found = [metrics.get(f"{peer}_{backend}_{tokens}_pairs_per_s") for backend in BACKENDS]
            fastest = max(value for value in found if value is not None)
            rows.append([f"{label}, {tokens} tokens", *map(_rate, found), f"{best / fastest:,.0f}"])
    peers = markdown_table(
        ["`CrossEncoder`, pairs a second", *BACKENDS.values(), "our pairs for each of its fastest"], rows
    )
    figures = {
        "share": _percent(metrics["transformer_fraction_of_limit"]),
        "limit": _rate(metrics["transformer_limit_pairs_per_s"]),
        "products": f"{metrics['bf16_products_per_s'] / 1e12:.2f}",
        "plain": f"{metrics['ratio_vs_plain_head_fp32']:.1f}",
        "plain_int8": f"{metrics['int8_ratio_vs_plain_head_fp32']:.1f}",
        "peers": _beside_bert(metrics, result["notes"]),
        "stored": f"{metrics['cache_bytes_per_item']:,.0f}",
        "folded": f"{metrics['transformer_folded_bytes_per_text']:,.0f}",
        "maxsim": _rate(metrics["maxsim_8_8_pairs_per_s"]),
    }
    how = OF_A_TABLE if "table" in result["notes"] else OF_ONE_PAIR
    return "\n\n".join(["## Pairs by row number", heads, PAIRS.format(**figures), peers, how.format(**result["notes"])])


def _beside_bert(metrics: dict[str, float], notes: dict[str, Any]) -> str:
    if "table" not in notes:
        return ""
    cached, whole = (metrics[f"{name}ratio_vs_bert_base_fp32_256"] for name in ("", "end_to_end_"))
    return (
        f"\n- On real pairs, {notes['mean_tokens']['256']:.0f} tokens on average, it scores {cached:,.0f} times as many as the "
        f"BERT-base cross-encoder in fp32\n  from text, and {whole:,.0f} times as many with every text encoded once, at 1,000 "
        "pairs a text."
    )


def _all_pairs(metrics: dict[str, float], result: dict[str, Any]) -> str:
    rows = []
    for name, label in HEADS.items():
        if f"{name}_native_pairs_per_s" not in metrics:
            continue
        share = metrics.get(f"{name}_fraction_of_limit")
        rows.append(
            [
                label,
                _rate(metrics[f"{name}_torch_pairs_per_s"]),
                _rate(metrics[f"{name}_native_pairs_per_s"] or None),
                "" if share is None else _percent(share),
            ]
        )
    table = markdown_table(
        ["pairs a second, the ten best of each row kept", "`torch`", "`native`", "of the limit"], rows
    )
    beside = {key: _rate(metrics.get(f"{name}_pairs_per_s")) for key, name in BESIDE.items()}
    return "\n\n".join(["## All of one side against all of the other", table, ALL_PAIRS.format(**beside)])


def _scaling(metrics: dict[str, float], result: dict[str, Any]) -> str:
    notes = result["notes"]
    memory = f"{notes['memory_bytes'] / 2**20:.0f}"
    text = SCALING.format(width=notes["width"], kept=notes["kept_tokens"], memory=memory)
    return f"## As the work grows\n\n{text}"


def _out_of_memory(metrics: dict[str, float], result: dict[str, Any]) -> str:
    heads = [name for name in HEADS if f"{name}_time_ratio" in metrics]
    of = {name: {fact: metrics.get(f"{name}_{fact}", 0.0) for fact in OUT_OF_MEMORY} for name in heads}
    rows = [
        [
            HEADS[name],
            f"{own['texts']:,.0f}",
            f"{own['memory_mb']:,.0f}",
            f"{own['in_memory_s']:,.0f}",
            f"{own['out_of_memory_s']:,.0f}",
            f"{own['time_ratio']:.2f}",
            f"{own['passes']:.2f}",
            f"{own['read_gb']:.1f}",
            f"{own['bytes_over_bound']:.1f}",
            f"{own['killed_s']:,.0f} ({own['kills']:.0f})",
            "yes" if own["equal"] else "no",
        ]
        for name, own in of.items()
    ]
    titles = [
        "texts a side",
        "memory, MB",
        "in memory, s",
        "out of it, s",
        "ratio",
        "folded, times",
        "read, GB",
        "over the least",
    ]
    table = markdown_table(["head", *titles, "killed, s (times)", "equal"], rows)
    return f"## Sides four times as large as the memory\n\n{table}\n\n{OUT_OF_MEMORY_PLOT}\n\n{OUT_OF_MEMORY_TEXT}"


def _trillion(metrics: dict[str, float], result: dict[str, Any]) -> str:
    notes, rate = result["notes"], _rate(metrics["pairs_per_s"])
    facts = {name: f"{metrics[name]:.2f}" for name in ("hours", "planned_hours", "passes")}
    facts |= {"kills": f"{metrics['kills']:.0f}", "memory": f"{metrics['peak_rss_gib']:.1f}", "rate": rate}
    facts |= {"head": HEADS[notes["head"]], "kernel": notes["kernel"]}
    return f"## {metrics['pairs']:,.0f} pairs\n\n{TRILLION.format(**facts)}"


def _extrapolated(metrics: dict[str, float], result: dict[str, Any]) -> str:
    notes = result["notes"]
    facts = {"head": HEADS[notes["head"]], "kernel": notes["kernel"], "hours": metrics["hours_of_a_trillion"]}
    return EXTRAPOLATED.format(**facts, pairs=f"{metrics['pairs']:,.0f}", rate=_rate(metrics["pairs_per_s"]))


def _exact_search(metrics: dict[str, float], result: dict[str, Any]) -> str:
    rows = [
        [
            label,
            f"{100 * metrics[f'{name}_skipped_fraction']:.1f} %",
            _rate(metrics[f"{name}_full_pairs_per_s"]),
            _rate(metrics[f"{name}_pairs_per_s"]),
            f"{metrics[f'{name}_speedup']:.1f}",
        ]
        for name, label in _SEARCHED.items()
        if f"{name}_speedup" in metrics
    ]
    titles = ["head", "pairs left out", "all scored, pairs a second", "with bounds", "times as fast"]
    facts = {
        "left": int(metrics["left_texts"]),
        "right": int(metrics["right_texts"]),
        "k": result["notes"]["top_k"],
    }
    table = f"## Pairs that need no exact score\n\n{markdown_table(titles, rows)}\n\n{EXACT_SEARCH.format(**facts)}"
    sizes = result["notes"].get("cluster_sizes")
    if not sizes:
        return table
    names = {"cosine": "cosine, by the angle to the centre", "maxsim": "MaxSim, by the largest product with any token"}
    clusters = [
        [label, *(f"{100 * metrics[f'{name}_clusters_of_{size}_skipped_fraction']:.1f} %" for size in sizes)]
        for name, label in names.items()
    ]
    titles = ["right texts in clusters that could be left out", *(f"of about {size} texts" for size in sizes)]
    return f"{table}\n\n{markdown_table(titles, clusters)}\n\n{CLUSTERS.format(**result['notes']['clustered'])}"


def _quality_of_heads(metrics: dict[str, float], result: dict[str, Any]) -> str:
    rows = []
    for name, facts in result["notes"]["sets"].items():
        for metric in (facts["main"], *_MORE_METRICS.get(name, ())):
            own = {kind: metrics[f"{name}_{kind}_{metric}"] for kind in facts["rows"]}
            teacher = own["teacher"]
            shares = {kind: f"{value:.3f} ({_percent(value / teacher)})" for kind, value in own.items()}
            rows.append(
                [
                    f"{facts['set']}, {metric.replace('_', ' ')}",
                    f"{teacher:.3f}",
                    *(shares.get(kind, "") for kind in _HEAD_ROWS),
                ]
            )
    titles = ["test split", "teacher", *_HEAD_ROWS.values()]
    commands = dict.fromkeys(facts.get("command", result["command"]) for facts in result["notes"]["sets"].values())
    shown = "\n".join(f"- `{command.replace('--data data', '--data DIR')}`" for command in commands)
    rounds = {facts["rounds"] for facts in result["notes"]["sets"].values()}
    fewer = " All learnt from one round of blocks, a third of the default's or half of it." if rounds == {1} else ""
    text = f"{QUALITY_OF_HEADS}{fewer} Each set's command:"
    return f"## What the heads of all pairs are worth\n\n{markdown_table(titles, rows)}\n\n{text}\n\n{shown}"


def _latency(metrics: dict[str, float], result: dict[str, Any]) -> str:
    counts = sorted(
        int(found[1]) for name in metrics if (found := re.fullmatch(r"p50_ms_(\d+)_documents", name)) is not None
    )
    table = markdown_table(
        ["cached documents", "p50, ms", "p99, ms", "of p50 the query's encoding, ms"],
        [
            [
                f"{count:,}",
                f"{metrics[f'p50_ms_{count}_documents']:.1f}",
                f"{metrics[f'p99_ms_{count}_documents']:.1f}",
                f"{metrics[f'encoding_p50_ms_{count}_documents']:.1f}",
            ]
            for count in counts
        ],
    )
    return f"""## One query against cached documents

{table}

One layer, 8 + 8 tokens, width 256; the encoder has the six layers of MiniLM."""


def _kernels(metrics: dict[str, float], result: dict[str, Any]) -> str:
    rows = [
        [
            label,
            _rate(metrics[f"{name}_pairs_per_s"]),
            _percent(metrics[f"{name}_pairs_per_s"] / metrics["limit_pairs_per_s"]),
            f"{metrics[f'{name}_error']:.4f}",
        ]
        for name, label in CANDIDATES.items()
        if f"{name}_pairs_per_s" in metrics
    ]
    table = markdown_table(
        ["the folded head by", "pairs a second", "of the limit", "largest error, in deviations"], rows
    )
    return f"""## What the kernel was chosen from

{table}

One layer, 8 + 8 tokens, width 256, texts folded before, gathering included; each at the batch size that suits it best."""


def _tokens(metrics: dict[str, float], result: dict[str, Any]) -> str:
    units = {"vector": "in vectors (AVX512-BF16)", "amx": "in tiles (AMX)"}
    made = {name: label for name, label in units.items() if any(key.startswith(name) for key in metrics)}
    rows = [
        [f"{kept} + {kept}", *(_rate(metrics[f"{name}_{kept}_pairs_per_s"]) for name in made)]
        for kept in result["notes"]["tokens"]
    ]
    return f"""## What kept tokens cost a pair

{markdown_table(["kept tokens", *made.values()], rows)}

All pairs a second of the default head, texts packed before; threads that were used: {result["notes"]["threads"]}."""


def _quantised(metrics: dict[str, float], result: dict[str, Any]) -> str:
    tables = []
    for own, label in (("sick_accuracy", "SICK, accuracy"), ("cranfield_ndcg10", "Cranfield, nDCG@10")):
        rows = []
        for dtype in STORED:
            cells = []
            for kernel in KERNELS:
                value = metrics.get(f"{own}_{dtype}_{kernel}")
                if value is None:
                    cells.append("")
                    continue
                moved = metrics.get(f"{own}_{dtype}_{kernel}_difference")
                cells.append(f"{value:.4f}" + ("" if moved is None else f" ({moved:+.4f})"))
            rows.append([dtype, *cells])
        tables.append(
            markdown_table([f"{label}: stored as", *(f"`{kernel.replace('_', '-')}`" for kernel in KERNELS)], rows)
        )
    return "\n\n".join(
        [
            "## What number formats cost in quality",
            *tables,
            "Means over three trained students each, test splits; in brackets the mean difference to fp32 throughout.",
        ]
    )


def _plan(metrics: dict[str, float], result: dict[str, Any]) -> str:
    names = [name.removesuffix("_relative_error") for name in metrics if name.endswith("_relative_error")]
    rows = [
        [
            name.replace("feed_forward", "feed-forward").replace("_", " "),
            f"{metrics[f'{name}_planned_s']:.1f}",
            f"{metrics[f'{name}_real_s']:.1f}",
            _percent(metrics[f"{name}_relative_error"]),
        ]
        for name in names
        if f"{name}_real_s" in metrics
    ]
    table = markdown_table(
        ["encode both sides, then match (“generated”: match alone)", "planned, s", "real, s", "error"], rows
    )
    return f"""## Whether `distilmatch plan` is right

{table}

Median error {_percent(metrics["median_relative_error"])}, largest {_percent(metrics["largest_relative_error"])}."""


def _store(metrics: dict[str, float], result: dict[str, Any]) -> str:
    rows = [
        ["append", f"{metrics['append_rows_per_s']:,.0f} items a second", ""],
        [
            "append one per cent",
            f"{metrics['append_1_percent_s']:.1f} s",
            f"{metrics['append_bytes_fraction']:.2%} more bytes",
        ],
        ["change one per cent", f"{metrics['upsert_1_percent_s']:.1f} s", ""],
        ["delete one per cent", f"{metrics['delete_1_percent_s']:.1f} s", ""],
        ["open a version", f"{metrics['open_s']:.1f} s", ""],
        ["compact, expire", f"{metrics['compact_s']:.1f} and {metrics['expire_s']:.1f} s", ""],
        [
            "read all in order",
            f"{_rate(metrics['scan_rows_per_s'])} items a second",
            f"{metrics['scan_fraction_of_mmap']:.2f} of a memory-mapped `.npy` file's rate",
        ],
        [
            "read 256 anywhere",
            f"{_rate(metrics['random_rows_per_s'])} items a second",
            f"`.npy` {_rate(metrics['npy_random_rows_per_s'])}, blobs in SQLite {_rate(metrics['sqlite_random_rows_per_s'])}",
        ],
    ]
    table = markdown_table([f"a store of {metrics['items']:,.0f} items of a kilobyte", "", "beside it"], rows)
    return f"""## What a versioned store costs

{table}

{metrics["bytes_an_item"]:,.0f} bytes an item, {metrics["catalogue_bytes_an_item"]:.0f} of them in the catalogue. The process had
{metrics["peak_rss_mib"]:,.0f} MiB at most while it added them, PyTorch and mapped files among them."""


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _repeat(result: dict[str, Any]) -> str:
    machine = result["machine"]
    threads = f"{machine['threads']} thread{'s' * (machine['threads'] > 1)}"
    return f"{threads} of {machine['processor']}. Repeat: `{result['command']}`."
