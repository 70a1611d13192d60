"""Small plots as SVG that stands inside a page: no network, no script, colours from the page's style sheet.

Lengths are in units of the view box, which a page scales; text is 12 units high.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH = 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 14.0, 14.0, 44.0
_TICKS = 5


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis: what stands at it, and from where to where it goes; `log` for powers of ten."""

    label: str
    low: float
    high: float
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`."""
        if self.log:
            return (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            powers = range(first, last + 1, max(1, math.ceil((last - first) / _TICKS)))
            return [10.0**power for power in powers]
        raw = (self.high - self.low) / _TICKS
        scale = 10.0 ** math.floor(math.log10(raw))
        step = scale * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * scale >= raw * 0.999)
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [number * step for number in range(first, last + 1)]


def around(values: Sequence[float], label: str, margin: float = 0.08, log: bool = False) -> Axis:
    """An axis that all values lie on, with a margin."""
    low, high = min(values), max(values)
    if log:
        return Axis(label=label, low=low / 3, high=high * 3, log=True)
    room = (high - low) * margin or abs(high) * 0.05 or 0.05
    return Axis(label=label, low=low - room, high=high + room)


def short(value: float) -> str:
    """A number at a tick."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value:.4g}" if size >= 1e-3 else f"{value:.1e}"


@dataclass(kw_only=True)
class Plot:
    """A plot that marks are added to; `svg` is its text.

    Attributes:
        title: what it shows, in a sentence, for those who do not see it.
        left: room for the labels of the y axis.
    """

    title: str
    x: Axis
    y: Axis
    height: float = 250.0
    left: float = _LEFT
    y_names: Sequence[tuple[float, str]] | None = None
    marks: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the axes lies in the view box."""
        width, height = WIDTH - self.left - _RIGHT, self.height - _TOP - _BOTTOM
        return self.left + self.x.share(x) * width, _TOP + (1 - self.y.share(y)) * height

    def line(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through points; `kind` is a class of the style sheet, as everywhere here."""
        places = " ".join("{:.1f},{:.1f}".format(*self.at(*point)) for point in points)
        self.marks.append(f'<polyline class="line {kind}" points="{places}"/>')

    def dot(self, x: float, y: float, kind: str, radius: float = 4.0) -> None:
        """A filled circle."""
        across, down = self.at(x, y)
        self.marks.append(f'<circle class="dot {kind}" cx="{across:.1f}" cy="{down:.1f}" r="{radius:g}"/>')

    def cross(self, x: float, y: float, kind: str, size: float = 3.0) -> None:
        """A cross of two strokes."""
        a, d = self.at(x, y)
        path = f"M{a - size:.1f} {d - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}l{-2 * size:g} {2 * size:g}"
        self.marks.append(f'<path class="cross {kind}" d="{path}"/>')

    def square(self, x: float, y: float, kind: str, size: float = 3.0) -> None:
        """An open square."""
        a, d = self.at(x, y)
        place = f'x="{a - size:.1f}" y="{d - size:.1f}" width="{2 * size:g}" height="{2 * size:g}"'
        self.marks.append(f'<rect class="cross {kind}" {place}/>')

    def bar(self, y: float, value: float, kind: str, thickness: float = 16.0) -> None:
        """A bar from the y axis to a value."""
        start, (end, down) = self.left, self.at(value, y)
        place = (
            f'x="{start:.1f}" y="{down - thickness / 2:.1f}" width="{max(end - start, 1):.1f}" height="{thickness:g}"'
        )
        self.marks.append(f'<rect class="dot {kind}" {place}/>')

    def words(self, x: float, y: float, text: str, kind: str = "", *, up: float = 0.0, anchor: str = "middle") -> None:
        """Text at a point, `up` units above it; with the anchor "start" a little to its right."""
        across, down = self.at(x, y)
        across += 5 if anchor == "start" else 0
        place = f'x="{across:.1f}" y="{down - up:.1f}" text-anchor="{anchor}"'
        self.marks.append(f'<text class="{kind}" {place}>{escape(text)}</text>')

    def svg(self) -> str:
        """The plot as an element; everything in it that is text is escaped."""
        right, bottom = WIDTH - _RIGHT, self.height - _BOTTOM
        lines = [
            f'<svg class="plot" role="img" viewBox="0 0 {WIDTH:g} {self.height:g}">',
            f"<title>{escape(self.title)}</title>",
        ]
        for value in self.x.ticks():
            across, _ = self.at(value, self.y.low)
            lines.append(f'<path class="grid" d="M{across:.1f} {_TOP:g}V{bottom:g}"/>')
            lines.append(f'<text x="{across:.1f}" y="{bottom + 16:g}" text-anchor="middle">{short(value)}</text>')
        named = self.y_names if self.y_names is not None else [(value, short(value)) for value in self.y.ticks()]
        for value, name in named:
            _, down = self.at(self.x.low, value)
            if self.y_names is None:
                lines.append(f'<path class="grid" d="M{self.left:g} {down:.1f}H{right:g}"/>')
            lines.append(f'<text x="{self.left - 7:g}" y="{down + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<path class="axis" d="M{self.left:g} {bottom:g}H{right:g}"/>')
        middle = (self.left + right) / 2
        lines.append(
            f'<text class="label" x="{middle:.1f}" y="{self.height - 8:g}" text-anchor="middle">{escape(self.x.label)}</text>'
        )
        if self.y.label:
            place = f"translate(13 {(_TOP + bottom) / 2:.1f}) rotate(-90)"
            lines.append(f'<text class="label" transform="{place}" text-anchor="middle">{escape(self.y.label)}</text>')
        return "\n".join([*lines, *self.marks, "</svg>"])
