"""The DiPair student: configuration, encoders with truncated outputs, heads, and inference."""

from distilmatch.models.configuration import DiPairConfig
from distilmatch.models.dipair import DiPair

__all__ = ["DiPair", "DiPairConfig"]
