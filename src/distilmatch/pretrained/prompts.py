"""The texts that a family puts before a query and before a document (E5, BGE, Qwen), as its folder names them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from distilmatch.files import read_json

_SETTINGS = "config_sentence_transformers.json"
_QUERY = ("query", "s2p_query", "search_query")
_DOCUMENT = ("document", "passage", "corpus", "search_document")


def saved_prompts(folder: str | Path) -> tuple[str, str] | None:
    """The prompts of a sentence-transformers folder, of a query and of a document; None where it names neither."""
    path = Path(folder) / _SETTINGS
    if not path.is_file():
        return None
    try:
        settings = read_json(path)
    except (OSError, ValueError):  # what reads the folder itself will say so
        return None
    prompts = settings.get("prompts") if isinstance(settings, dict) else None
    return query_and_document(prompts) if isinstance(prompts, dict) else None


def query_and_document(prompts: Mapping[str, str | None]) -> tuple[str, str] | None:
    """The prompts of a query and of a document among all that a model has, by the names that models give them; None where
    there is no text in either.
    """
    known = {name.lower(): text for name, text in prompts.items() if isinstance(text, str)}
    query, document = (next((known[name] for name in names if name in known), "") for names in (_QUERY, _DOCUMENT))
    return (query, document) if query or document else None
