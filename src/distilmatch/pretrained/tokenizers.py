"""What differs between families' tokenizers: the token that fills a batch, its side, and whether they fit their model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from distilmatch.errors import ModelError


def pad_id(tokenizer: Any) -> int:
    """The token that fills a batch; any will do where a tokenizer has none for it, because the mask hides it."""
    for number in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if number is not None:
            return int(number)
    return 0


def padding_token(tokenizer: Any, config: Any) -> int | None:
    """The padding token of a tokenizer, else of its model's configuration; None where neither names one."""
    number = tokenizer.pad_token_id
    return getattr(config, "pad_token_id", None) if number is None else int(number)


def padded_on_the_right(tokenizer: Any) -> Any:
    """The tokenizer, set to pad behind the text: kept tokens are counted from a text's beginning."""
    tokenizer.padding_side = "right"
    return tokenizer


def check_vocabulary(name: str | Path, tokenizer: Any, embeddings: nn.Embedding | None) -> None:
    """Refuses a tokenizer that gives tokens for which its model has no embedding.

    Args:
        name: what messages call the model.
        tokenizer: Hugging Face's.
        embeddings: as of `input_embeddings`; None is passed over.

    Raises:
        ModelError: it says how many there are of each.
    """
    if embeddings is None or not hasattr(tokenizer, "get_vocab"):
        return
    # Some tokenizers have special tokens that their model has no embeddings for and that stand around no text.
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    ordinary = (number for token, number in tokenizer.get_vocab().items() if token not in special)
    highest = max([*ordinary, *tokenizer("a")["input_ids"], tokenizer.pad_token_id or 0], default=0)
    if highest < embeddings.num_embeddings:
        return
    raise ModelError(
        f"the tokenizer of {str(name)!r} is another model's: its tokens go up to {highest}, the model has embeddings for "
        f"{embeddings.num_embeddings}. Save the model again with the tokenizer that it was trained with; where tokens were "
        "added on purpose, after model.resize_token_embeddings(len(tokenizer))"
    )
