"""The report on sentence encoders, as a folder of three files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distilmatch.evaluation.sts.plot import render_sts_plot
from distilmatch.evaluation.sts.results import StsResults
from distilmatch.files import write_atomically, write_json, writing


@dataclass(frozen=True, kw_only=True)
class StsReport(StsResults):
    """The results of several models on the same tasks; attributes as of `StsResults`."""

    def save(self, folder: str | Path) -> None:
        """Writes sts.json, sts.md and sts.png.

        Raises:
            CacheError: the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        plot = render_sts_plot(self)
        with writing(folder):
            write_atomically(folder / "sts.png", plot)
            write_atomically(folder / "sts.md", self.markdown())
            write_json(folder / "sts.json", self.to_dict())
