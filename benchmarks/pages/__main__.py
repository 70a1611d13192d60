"""Writes every page: `python -m benchmarks.pages`."""

from __future__ import annotations

from benchmarks.pages import engine, quality, sts

for page in (engine, quality, sts):
    page.TARGET.write_text(page.render(), encoding="utf-8")
