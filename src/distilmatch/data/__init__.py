"""Tables of texts: reading and checking them, keeping them on disk, and a generated catalogue to try things on."""

from distilmatch.data.corpus import TextCorpus, write_corpus
from distilmatch.data.tables import (
    check_table,
    iter_rows,
    load_table,
    read_saved_table,
    save_table,
    table_fingerprint,
)
from distilmatch.demo.catalogue import DemoPaths, write_demo_catalogue

__all__ = [
    "DemoPaths",
    "TextCorpus",
    "check_table",
    "iter_rows",
    "load_table",
    "read_saved_table",
    "save_table",
    "table_fingerprint",
    "write_corpus",
    "write_demo_catalogue",
]
