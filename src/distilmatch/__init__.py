"""Distil slow, accurate text matchers into fast students."""
