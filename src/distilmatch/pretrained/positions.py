"""How many tokens a family's models have positions for."""

from __future__ import annotations

from typing import Any

from torch import nn

UNLIMITED = 1_000_000  # tokens: so many or more are no limit; tokenizers without one name absurdly large numbers


def position_limit(model: nn.Module) -> int:
    """How many tokens the model has positions for; `UNLIMITED` where it has no table of them.

    Args:
        model: a transformer, or a module with one in it; its `config` is asked where it has no such table.
    """
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            # RoBERTa's kin number positions from the padding index on.
            return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)
    return declared_positions(getattr(model, "config", None))


def declared_positions(config: Any) -> int:
    """What a configuration says of them, which for RoBERTa's kin is two too many; `UNLIMITED` where it says nothing."""
    limit = int(getattr(config, "max_position_embeddings", None) or UNLIMITED)
    return limit if limit > 0 else UNLIMITED
