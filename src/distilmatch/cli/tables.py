"""Tables in a terminal: of several layouts the first that fits its width; nothing is cut."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Column, Table


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Prints a table, turned on its side where the terminal is too narrow for it.

    Args:
        header: names of the columns.
        rows: a name and its figures, one for each column.
        title: stands above the table.
    """
    console = Console()
    turned = [list(column) for column in zip(header, *rows, strict=True)]
    # Then each interval stands below its figure.
    broken = [[cell.replace(" (", "\n(") for cell in line] for line in turned]
    layouts = [_table(lines) for lines in ([header, *rows], turned, broken)]
    unlimited = console.options.update(max_width=10_000)
    widths = [Measurement.get(console, unlimited, layout).maximum for layout in layouts]
    fitting = [place for place, width in enumerate(widths) if width <= console.width]
    chosen = fitting[0] if fitting else widths.index(min(widths))
    if title is not None:  # a title of rich's is wrapped to the table's width
        console.print(title, style="italic", highlight=False)
    Console(width=max(console.width, widths[chosen])).print(layouts[chosen])


def _table(lines: Sequence[Sequence[str]]) -> Table:
    columns = [Column(name, justify="right" if i else "left", no_wrap=True) for i, name in enumerate(lines[0])]
    table = Table(*columns)
    for line in lines[1:]:
        table.add_row(*line)
    return table
