"""Bulk work on one machine that can be killed and goes on: encode a table of texts, score a table of pairs."""
