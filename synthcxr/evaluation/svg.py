"""Small plots as inline SVG: intervals beside their references, curves, and a heat map. Labels are escaped here."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Protocol

import numpy as np

from synthcxr.evaluation.result import Number

WIDTH, LEFT, RIGHT, ROW = 760, 220, 150, 22  # pixels; labels stand left, numbers right
INK, GRAY, BLUE, FAINT = "#1f2328", "#8c959f", "#0969da", "#eaeef2"
COLOURS = (GRAY, BLUE, "#bf3989", "#1a7f37", "#9a6700", "#8250df")


class Compared(Protocol):
    """A number with its interval, and what it's compared with, such as a Line of a result."""

    @property
    def measured(self) -> Number: ...
    @property
    def reference(self) -> Number | None: ...


def interval_plot(
    lines: Sequence[Compared], labels: Sequence[str], bounds: tuple[float, float] | None = None,
    mark: float | None = None,
) -> str:  # fmt: skip
    """A row a line: the measured value with its interval in blue, and above it the reference in gray.

    `mark` is a value that a line goes up at, such as 0 where rows are differences.
    """
    numbers = [number for line in lines for number in (line.measured, line.reference) if number is not None]
    low, high = bounds or (min(n.low for n in numbers), max(n.high for n in numbers))
    if high <= low:
        high = low + 1
    height = ROW * len(lines) + 34
    scale = (WIDTH - LEFT - RIGHT) / (high - low)

    def x(value: float) -> float:
        return LEFT + (min(max(value, low), high) - low) * scale

    parts = [_axis(low, high, x, ROW * len(lines) + 6)]
    if mark is not None:
        parts.append(_line(x(mark), 4, x(mark), ROW * len(lines) + 6, INK))
    for row, (line, label) in enumerate(zip(lines, labels, strict=True)):
        y = ROW * row + 16
        parts.append(_text(LEFT - 10, y + 4, label, "end"))
        if line.reference is not None:
            parts.append(_interval(line.reference, x, y - 4, GRAY))
        parts.append(_interval(line.measured, x, y + 3, BLUE))
        parts.append(_text(WIDTH - RIGHT + 12, y + 4, f"{line.measured.value:.3g}  (n = {line.measured.n})", "start"))
    return _svg(height, parts)


def curves(
    x: np.ndarray, series: Mapping[str, np.ndarray], x_label: str, y_label: str,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None, ticks: Mapping[float, str] | None = None,
    digits: int = 0,
) -> str:  # fmt: skip
    """Curves over a logarithmic axis: the first one gray, the others in colours.

    Args:
        x: rising; series: values at each, by name.
        bands: lower and upper ends of intervals, by the same names, drawn as bars.
        ticks: words at places of the axis; None: the first, the middle and the last place.
        digits: of the vertical axis.
    """
    height, top, bottom, left, right, bands = 290, 28, 44, 70, WIDTH - 190, bands or {}
    values = np.concatenate([*series.values(), *(end for band in bands.values() for end in band)])
    low, high = float(values.min()), float(values.max())
    spread = (high - low) or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        along = (math.log(at) - math.log(x[0])) / (math.log(x[-1]) - math.log(x[0])) if len(x) > 1 else 0.5
        return left + along * (right - left), height - bottom - (value - low) / spread * (height - top - bottom)

    parts = [_line(left, height - bottom, right, height - bottom, GRAY), _line(left, top, left, height - bottom, GRAY)]
    for number, (name, values) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        aside = 4 * (number - (len(series) - 1) / 2) if bands else 0.0  # else bars of one place would hide each other
        places = [(across + aside, down) for across, down in map(place, x, values)]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (across, down), *ends in zip(places, x, *bands[name], strict=True) if name in bands else ():
            at, lower, upper = ends
            parts.append(_line(across, place(at, lower)[1], across, place(at, upper)[1], colour))
            parts.append(f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3" fill="{colour}"/>')
        parts.append(_line(right + 16, top + 10 + 18 * number, right + 34, top + 10 + 18 * number, colour, 2))
        parts.append(_text(right + 40, top + 14 + 18 * number, name[:22], "start"))
    for at, word in (ticks or {at: f"{at:.2g}" for at in (x[0], x[len(x) // 2], x[-1])}).items():
        parts.append(_text(place(at, low)[0], height - bottom + 16, word, "middle"))
    for value in np.linspace(low, high, 5):
        parts.append(_text(left - 8, place(x[0], value)[1] + 4, f"{value:.{digits}f}", "end"))
    parts.append(_text((left + right) / 2, height - 8, x_label, "middle"))
    parts.append(_text(left - 40, 14, y_label, "start"))
    return _svg(height, parts)


def heat_map(rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float]]) -> str:
    """Signed numbers as cells, blue above 0 and red below, the number in each."""
    cell, left, top = 32, 190, 130
    width, height = left + cell * len(columns) + 20, top + 26 * len(rows) + 6
    largest = max((abs(value) for row in values for value in row), default=0) or 1.0
    parts = []
    for number, name in enumerate(columns):
        x = left + cell * number + cell / 2
        parts.append(
            f'<text transform="translate({x + 4:.0f},{top - 8}) rotate(-60)" fill="{INK}">{escape(name)}</text>'
        )
    for place, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + 26 * place
        parts.append(_text(left - 10, y + 17, name, "end"))
        for number, value in enumerate(row):
            colour = "9,105,218" if value > 0 else "207,34,46"
            x = left + cell * number
            shade = f'fill="rgb({colour})" fill-opacity="{abs(value) / largest:.2f}"'
            edge = f'stroke="{INK}"' if columns[number] == name else f'stroke="{FAINT}"'
            parts.append(f'<rect x="{x}" y="{y}" width="{cell - 1}" height="25" {shade} {edge}/>')
            ink = "#fff" if abs(value) / largest > 0.6 else INK
            parts.append(_text(x + cell / 2, y + 17, f"{value:+.2f}".replace("0.", "."), "middle", ink, 10))
    return _svg(height, parts, width)


def _interval(number: Number, x: Callable[[float], float], y: float, colour: str) -> str:
    return _line(x(number.low), y, x(number.high), y, colour, 2) + (
        f'<circle cx="{x(number.value):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    )


def _axis(low: float, high: float, x: Callable[[float], float], bottom: float) -> str:
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    parts = []
    for tick in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step:
        parts.append(_line(x(tick), 4, x(tick), bottom, FAINT))
        parts.append(_text(x(tick), bottom + 16, f"{tick + 0.0:.4g}", "middle", GRAY))
    return "".join(parts)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = INK, size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">{escape(text)}</text>'
    )


def _svg(height: float, parts: Sequence[str], width: float = WIDTH) -> str:
    view = f'viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {view} font-size="12">{"".join(parts)}</svg>'
