"""A dry run of a match: some left texts are matched, in a folder that is deleted again, to tell how long all will take."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from distilmatch.engine.matches import sampled_texts
from distilmatch.estimates import disk_bytes
from distilmatch.jobs.matching.reverse import ReverseMatches
from distilmatch.jobs.matching.run import Matching, MatchRun
from distilmatch.jobs.parts import PartWriter
from distilmatch.jobs.rehearsal import Rehearsal

_INDEXED = 20_000


def rehearse(matching: Matching, places: tuple[Path, Path | None], done: int) -> Rehearsal:
    """Matches some left texts with all right ones, or with a part of them.

    Args:
        places: of the output and of the reverse one.
        done: left texts that a stopped run has matched already.
    """
    (left, right), question, tables = matching.sides, matching.question, matching.tables
    # A part of a large side tells what all of it takes to read, to fold and to look up; a part has no folder to write to.
    some = max(_INDEXED, 2 * (question.num_candidates or question.top_k or 0))
    right = right.part(0, len(right) if question.reverse else some)
    share = len(matching.sides[1]) / len(right)
    with tempfile.TemporaryDirectory() as folder:
        named = [None if place is None else Path(folder) / place.name for place in places]
        with PartWriter(str(named[0]), tables.schema, "rehearsal") as writer:
            reverse = None
            if named[1] is not None and question.top_k is not None:
                reverse = ReverseMatches(writer, len(right), min(question.top_k, len(left)), named[1], "rehearsal")
                reverse.take_up()
            whole = MatchRun(matching, writer)
            run = MatchRun(
                replace(matching, sides=(left, right), vectors=None, groups=None, previous=None), writer, reverse
            )
            times = run.rehearse()
        sizes = [0 if path is None else disk_bytes(path) for path in named]
    exact, asked = 0.0, 1.0
    if question.num_candidates is not None:
        exact = run.exact_seconds() * share * sampled_texts(len(left), len(matching.sides[1]))
    else:
        asked = whole.pairs / (len(left) * len(matching.sides[1]))
    todo = len(left) - done
    more_rows = share * asked if question.top_k is None else 1.0  # of a left text, as many times those of the rehearsal
    folded = sum(len(side) * side.kept_bytes for side in matching.sides if side.folder is not None)
    return Rehearsal(
        facts={"left_texts": len(left), "right_texts": len(matching.sides[1]), "left_texts_to_match": todo},
        seconds={
            "load": times.first * share if todo else 0.0,
            "match": todo * times.a_text * (share * asked if question.num_candidates is None else 1.0),
            "join": len(left) * times.joined * more_rows if todo else 0.0,
            **({"recall": exact if todo else 0.0} if question.num_candidates is not None else {}),
        },
        disk_bytes=round(sizes[0] / times.texts * len(left) * more_rows + sizes[1]) + folded,
    )
