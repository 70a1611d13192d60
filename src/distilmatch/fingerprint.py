"""Content hashes: what a cached result depends on, in one short string.

A key is a fingerprint of weights, tokenizer, settings, side and text, each part length-prefixed, so that no two
different inputs can run together into the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DIGEST_BYTES = 16


def _update(digest: Any, content: bytes) -> None:
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def fingerprint(*values: Any) -> str:
    """A 32-digit hex fingerprint of JSON-like values (str, int, float, bool, None, lists, dicts with string keys)."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for value in values:
        _update(digest, json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
    return digest.hexdigest()


def text_key(prefix: str, texts: Sequence[str]) -> bytes:
    """The 16-byte key of a tuple of texts under `prefix` (a fingerprint of all else that the result depends on)."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    _update(digest, prefix.encode("utf-8"))
    for text in texts:
        _update(digest, text.encode("utf-8", errors="surrogatepass"))
    return digest.digest()


def fingerprint_tensors(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str:
    """A fingerprint of named tensors: names, dtypes, shapes and bytes."""
    import torch  # not for those who read a config

    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    for name, tensor in sorted(items, key=lambda item: item[0]):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        _update(digest, f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
        _update(digest, flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint_file(path: str | Path) -> str:
    """A fingerprint of a file's bytes."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES))
    return digest.hexdigest()


def fingerprint_tokenizer(tokenizer: Any) -> str:
    """A fingerprint of what a Hugging Face tokenizer does to a text: its serialised backend, or its vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Padding and truncation are state that every call rewrites, not what the tokenizer is.
    state = json.loads(backend.to_str()) if backend is not None else {"vocab": tokenizer.get_vocab()}
    state.pop("padding", None)
    state.pop("truncation", None)
    return fingerprint(type(tokenizer).__name__, state)
