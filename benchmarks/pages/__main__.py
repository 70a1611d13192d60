"""Writes every page, and its pictures: `python -m benchmarks.pages`."""

from __future__ import annotations

from benchmarks.pages import engine, methods_pairs, out_of_memory, picture, quality, strong_teacher, sts, teachers

for page in (engine, methods_pairs, quality, strong_teacher, sts, teachers):
    page.TARGET.write_text(page.render(), encoding="utf-8")
picture.TARGET.write_bytes(picture.render())
out_of_memory.TARGET.write_bytes(out_of_memory.render())
for drawn in (methods_pairs, strong_teacher):
    plot = drawn.draw()
    if plot is not None:
        drawn.PLOT.write_bytes(plot)
