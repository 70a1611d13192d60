"""Sections of docs/results/engine.md on jobs: what becomes of those that are ended or damaged, and of a store that grows."""

from __future__ import annotations

from typing import Any

from benchmarks.pages.parts import markdown_table

_KINDS = {
    "encode": "encode",
    "label": "label",
    "score": "score",
    "match": "match, the best of each, both directions",
    "match_pairs": "match, pairs above a threshold, one to one",
    "store_commit": "a store's upsert",
    "store_compaction": "a store's compaction",
}
_FAULTS = {
    "disk_full": "a full disk",
    "read_only": "an output that cannot be written",
    "truncated_table": "a table cut in a row",
    "truncated_file": "a file of numbers cut short",
    "corrupted_file": "a bit changed in one",
    "two_processes": "two processes on one output",
    "clock_back": "a clock that jumps back a day",
}
_STEPS = {
    "append": "append all",
    "append_1_percent": "append one per cent",
    "match": "match",
    "upsert_1_percent": "change one per cent",
    "compact": "compact",
    "match_compacted": "match again",
    "expire": "expire",
}
_KILLED = """Each job was ended with SIGKILL at a moment drawn evenly from its undisturbed seconds, up to three times, and
then let be. Kills that came too late are not counted. “Identical” are jobs that wrote the rows of an undisturbed one,
in order and to the bit. Models are tiny, so that jobs take seconds."""
_OTHER = """“Told” are cases in which the job ended in an error that says what is wrong, and names the file that is damaged;
of two processes the second is refused, or shares the work (labels), and a clock says nothing. “Mended” are those in which the
job, where the fault was gone, wrote what an undisturbed one does."""
_GROWN = """Items of a kilobyte: 8 tokens of width 64 in half precision. {queries:,} queries have their ten best of them by a
feed-forward head, with {memory} GB for folded texts. Memory is the process's own, without mapped files; it was {start:,.0f} MiB
before the first item, PyTorch and models. {bytes:,.0f} bytes an item on disk; one per cent more items
added {more:.2%} of the bytes, and wrote {written:.1%} of them, the catalogue's journal included."""


def faults(metrics: dict[str, float], result: dict[str, Any]) -> str:
    """Kills and other faults."""
    facts = ("kills", "jobs", "rows", "rows_lost", "rows_doubled")
    rows = [
        [label, *(f"{metrics[f'{name}_{fact}']:,.0f}" for fact in facts), f"{metrics[f'{name}_identical']:.0%}"]
        for name, label in _KINDS.items()
        if f"{name}_kills" in metrics
    ]
    killed = markdown_table(["job", "kills", "jobs", "rows of each", "lost", "doubled", "identical"], rows)
    others = markdown_table(
        ["fault", "cases", "told", "mended"],
        [
            [
                label,
                f"{metrics[f'{name}_cases']:.0f}",
                *(f"{metrics[f'{name}_{way}']:.0%}" for way in ("told", "mended")),
            ]
            for name, label in _FAULTS.items()
        ],
    )
    return "\n\n".join(["## Jobs that are killed, and other faults", killed, _KILLED, others, _OTHER])


def scale(metrics: dict[str, float], result: dict[str, Any]) -> str:
    """A store that grows."""
    rows = [
        [
            label,
            f"{metrics[f'{name}_s']:,.1f}",
            f"{metrics[f'tenth_{name}_rss_mib']:,.0f}",
            f"{metrics[f'{name}_rss_mib']:,.0f}",
            f"{metrics[f'{name}_rss_ratio']:.2f}",
        ]
        for name, label in _STEPS.items()
    ]
    tenth = f"{metrics['tenth_items']:,.0f}"
    table = markdown_table(
        [f"{metrics['items']:,.0f} items", "seconds", f"MiB with {tenth}", "MiB with all", "ratio"], rows
    )
    text = _GROWN.format(
        queries=result["notes"]["queries"],
        memory=result["notes"]["memory_gb"],
        start=metrics["start_rss_mib"],
        bytes=metrics["bytes_an_item"],
        more=metrics["append_bytes_fraction"],
        written=metrics["append_written_fraction"],
    )
    return f"## A store that grows\n\n{table}\n\n{text}"
