"""Heads folded for scoring, a file a kind."""
