"""What stands in a file is read exactly, or the file is refused with the reason; at every door that reads tables."""

from __future__ import annotations

import pytest

from distilmatch.errors import DistilmatchError

from .readers import FILES, READER_DOORS
from .setup import Setup

# These are read, not refused: nothing about them is unclear.
READ = {
    "commas", "semicolons", "every field quoted", "lines inside a field", "lines inside a field of a tsv", "a long field",
    "a long field of a tsv", "line feeds", "a mark of UTF-8", "no end of the last line", "quotes of a csv", "dictionary",
    "large strings", "chunks", "json",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("door", READER_DOORS)
def test_a_file_is_read_exactly_or_refused(setup: Setup, door: str, name: str) -> None:
    ending, content, expected = FILES[name]
    file = setup.fresh(f"-rows.{ending}")
    file.write_bytes(content)
    if door in ("write_corpus", "read_texts"):
        expected = tuple(text.strip() for text in expected)
    try:
        found = READER_DOORS[door](setup, file)
    except DistilmatchError as refused:
        assert name not in READ, refused
        assert file.name in str(refused), "the message names the file"
        return
    assert tuple(found) == expected
