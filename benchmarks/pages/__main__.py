"""Writes every page, and the picture of the README: `python -m benchmarks.pages`."""

from __future__ import annotations

from benchmarks.pages import engine, picture, quality, sts

for page in (engine, quality, sts):
    page.TARGET.write_text(page.render(), encoding="utf-8")
picture.TARGET.write_bytes(picture.render())
