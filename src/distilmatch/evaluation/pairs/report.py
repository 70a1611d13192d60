"""The report on a pair student, as a folder of files: a page, tables, figures and a plot."""

from __future__ import annotations

from pathlib import Path

from distilmatch.errors import DataError
from distilmatch.evaluation.pairs.html import render_html
from distilmatch.evaluation.pairs.markdown import render_markdown
from distilmatch.evaluation.pairs.plots import render_plot
from distilmatch.evaluation.pairs.results import PairResults
from distilmatch.files import read_json, write_atomically, write_json, writing

REPORT_HTML, REPORT_JSON, REPORT_MARKDOWN, REPORT_PLOT = "report.html", "report.json", "report.md", "report.png"


class PairReport(PairResults):
    """Quality and speed of a student beside its teacher and the baselines; attributes as of `PairResults`."""

    def save(self, folder: str | Path) -> None:
        """Writes report.html, one file that opens anywhere, report.json (with `metrics`, a flat mapping from name to number),
        report.md and report.png.

        Raises:
            CacheError: the folder cannot be written, or the disk is full.
        """
        folder = Path(folder)
        plot, text, page = render_plot(self), render_markdown(self), render_html(self)
        with writing(folder):
            write_atomically(folder / REPORT_PLOT, plot)
            write_atomically(folder / REPORT_MARKDOWN, text)
            write_atomically(folder / REPORT_HTML, page)
            write_json(folder / REPORT_JSON, {"metrics": self.flat_metrics(), **self.to_dict()})

    @classmethod
    def load(cls, path: str | Path) -> PairReport:
        """Reads a saved report, from its folder or its report.json.

        Raises:
            DataError: there is none, or it is damaged.
        """
        file = Path(path) / REPORT_JSON if Path(path).is_dir() else Path(path)
        try:
            content = read_json(file)
            content.pop("metrics", None)
            return cls.from_dict(content, str(file))
        except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DataError(f"cannot read the report {file}: {error}; run evaluate again") from error
