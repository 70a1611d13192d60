"""Sentence encoders side by side on semantic textual similarity, and retrieval."""
