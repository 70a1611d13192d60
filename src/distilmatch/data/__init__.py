"""Tables of texts: reading and checking them, and keeping them on disk."""

from distilmatch.data.corpus import TextCorpus, write_corpus
from distilmatch.data.tables import (
    check_table,
    iter_rows,
    load_table,
    read_saved_table,
    save_table,
    table_fingerprint,
)

__all__ = [
    "TextCorpus",
    "check_table",
    "iter_rows",
    "load_table",
    "read_saved_table",
    "save_table",
    "table_fingerprint",
    "write_corpus",
]
