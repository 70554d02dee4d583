"""Problems with a drawing each: geometry, charts and counting.

The drawing holds facts that the text leaves out, so a problem cannot be solved without looking. Drawings are
made at three times their size, reduced, and cut to 32 colours: smooth edges at one to three kilobytes.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 288, 216
"""Size of every figure, in pixels."""

_SCALE = 3
_COLOURS = ("#56b4e9", "#e69f00", "#009e73")  # told apart by colour-blind readers too
_INK, _GREY, _FILL = "#202020", "#b0b0b0", "#dcebf5"

Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """A problem with its drawing.

    Attributes:
        problem: The text, with one ``<image>`` placeholder.
        answer: The answer, an integer as text.
        steps: The worked solution, one statement a step.
        image: The drawing, in palette mode.
        params: What was drawn, by name.
    """

    problem: str
    answer: str
    steps: list[str]
    image: Image.Image
    params: dict[str, Any] = field(default_factory=dict)


class _Canvas:
    """A drawing in the pixels of the finished figure; the enlargement stays inside."""

    def __init__(self) -> None:
        self._image = Image.new("RGB", (WIDTH * _SCALE, HEIGHT * _SCALE), "white")
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: Sequence[Point], colour: str = _INK, width: float = 2) -> None:
        self._draw.line(_enlarged(points), fill=colour, width=round(width * _SCALE), joint="curve")

    def polygon(self, points: Sequence[Point], fill: str = _FILL, outline: str | None = _INK) -> None:
        self._draw.polygon(_enlarged(points), fill=fill)
        if outline:
            self.line([*points, points[0], points[1]], outline)

    def disc(self, centre: Point, radius: float, fill: str) -> None:
        (x, y) = centre
        box = _enlarged([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.ellipse(box, fill=fill)

    def slice(self, centre: Point, radius: float, start: float, end: float, fill: str) -> None:
        (x, y) = centre
        box = _enlarged([(x - radius, y - radius), (x + radius, y + radius)])
        self._draw.pieslice(box, start, end, fill=fill, outline="white", width=2 * _SCALE)

    def text(self, at: Point, text: str, size: float = 15, anchor: str = "mm") -> None:
        font = ImageFont.load_default(size * _SCALE)
        self._draw.text(_enlarged([at])[0], text, fill=_INK, font=font, anchor=anchor)

    def finished(self) -> Image.Image:
        return self._image.reduce(_SCALE).quantize(32, dither=Image.Dither.NONE)


def rectangle(rng: random.Random) -> Figure:
    """Ask for the perimeter of a rectangle whose sides are given."""
    length, width = rng.randint(9, 20), rng.randint(4, 8)
    canvas = _Canvas()
    left, right = 130 - 5 * length, 130 + 5 * length
    foot, top = 100 + 7 * width, 100 - 7 * width
    canvas.polygon([(left, foot), (right, foot), (right, top), (left, top)])
    canvas.text((130, foot + 16), f"{length} cm")
    canvas.text((right + 8, 100), f"{width} cm", anchor="lm")
    half = length + width
    return Figure(
        "<image>\nWhat is the perimeter of the rectangle in the figure, in centimetres?",
        str(2 * half),
        [
            f"The sides are {length} cm and {width} cm.",
            f"{length} + {width} = {half}",
            f"2 * {half} = {2 * half}",
        ],
        canvas.finished(),
        {"length": length, "width": width},
    )


def triangle_angle(rng: random.Random) -> Figure:
    """Ask for the third angle of a triangle, drawn with its true angles."""
    left, right = rng.randint(38, 75), rng.randint(38, 75)
    base, foot = 200.0, 186.0
    slope_left, slope_right = math.tan(math.radians(left)), math.tan(math.radians(right))
    height = base * slope_left * slope_right / (slope_left + slope_right)
    shrink = min(1.0, 150 / height)
    base, height = base * shrink, height * shrink
    x = (WIDTH - base) / 2
    corners = [(x, foot), (x + base, foot), (x + height / slope_left, foot - height)]
    canvas = _Canvas()
    canvas.polygon(corners)
    labels = [f"{left}°", f"{right}°", "?"]
    angles = [-left / 2, 180 + right / 2, 90 + (right - left) / 2]
    for (corner_x, corner_y), label, angle in zip(corners, labels, angles, strict=True):
        turn = math.radians(angle)
        canvas.text((corner_x + 34 * math.cos(turn), corner_y + 34 * math.sin(turn)), label, size=14)
    known = left + right
    return Figure(
        "<image>\n"
        "Two angles of the triangle are given. How many degrees has the third, marked with a question mark?",
        str(180 - known),
        [
            f"The given angles are {left}° and {right}°.",
            f"{left} + {right} = {known}",
            f"180 - {known} = {180 - known}",
        ],
        canvas.finished(),
        {"left": left, "right": right},
    )


def right_triangle(rng: random.Random) -> Figure:
    """Ask for the longest side of a right triangle with whole sides."""
    (a, b, c), times = rng.choice([(3, 4, 5), (5, 12, 13), (8, 15, 17), (7, 24, 25)]), rng.randint(1, 3)
    a, b, c = a * times, b * times, c * times
    canvas = _Canvas()
    unit = min(180 / b, 140 / a)
    corner, right, top = (60.0, 180.0), (60 + unit * b, 180.0), (60.0, 180 - unit * a)
    canvas.polygon([corner, right, top])
    canvas.line([(60, 170), (70, 170), (70, 180)], width=1.5)
    canvas.text((60 + unit * b / 2, 198), f"{b} cm")
    canvas.text((52, 180 - unit * a / 2), f"{a} cm", anchor="rm")
    canvas.text((60 + unit * b / 2 + 12, 180 - unit * a / 2 - 14), "?")
    squares = a * a + b * b
    return Figure(
        "<image>\n"
        "The triangle has a right angle. How long is its side marked with a question mark, in centimetres?",
        str(c),
        [
            f"The short sides are {a} cm and {b} cm.",
            f"{a} * {a} = {a * a}",
            f"{b} * {b} = {b * b}",
            f"{a * a} + {b * b} = {squares}",
            f"The square root of {squares} is {c}.",
        ],
        canvas.finished(),
        {"short_sides": [a, b]},
    )


def corner_shape(rng: random.Random) -> Figure:
    """Ask for the area of a rectangle with a smaller one cut out of its corner."""
    length, height = rng.randint(10, 16), rng.randint(7, 9)
    cut_length, cut_height = rng.randint(4, length - 5), rng.randint(3, height - 3)
    canvas = _Canvas()
    unit = 12.0
    left, foot = 50.0, 178.0
    right, top = left + unit * length, foot - unit * height
    inner_x, inner_y = right - unit * cut_length, top + unit * cut_height
    canvas.polygon(
        [(left, foot), (right, foot), (right, inner_y), (inner_x, inner_y), (inner_x, top), (left, top)]
    )
    canvas.text(((left + right) / 2, foot + 16), f"{length} m")
    canvas.text((left - 8, (top + foot) / 2), f"{height} m", anchor="rm")
    canvas.text(((inner_x + right) / 2, inner_y - 12), f"{cut_length} m")
    canvas.text((inner_x - 8, (top + inner_y) / 2), f"{cut_height} m", anchor="rm")
    whole, cut = length * height, cut_length * cut_height
    return Figure(
        "<image>\nAll corners of the shape are right angles. What is its area, in square metres?",
        str(whole - cut),
        [
            f"The whole rectangle has {length} * {height} = {whole} square metres.",
            f"The piece cut out has {cut_length} * {cut_height} = {cut} square metres.",
            f"{whole} - {cut} = {whole - cut}",
        ],
        canvas.finished(),
        {"length": length, "height": height, "cut_length": cut_length, "cut_height": cut_height},
    )


def bar_chart(rng: random.Random) -> Figure:
    """Ask for a total or a difference that is read off a bar chart."""
    names = rng.sample(["pears", "plums", "figs", "limes", "kiwis", "dates"], 4)
    tick = rng.choice([2, 5, 10])
    values = [tick * n for n in rng.sample(range(1, 8), 4)]
    canvas = _Canvas()
    _axes(canvas, [tick * n for n in range(9)])
    for position, (name, value) in enumerate(zip(names, values, strict=True)):
        x = 62 + 54 * position
        canvas.polygon(
            [(x, 180), (x + 34, 180), (x + 34, _level(value / tick)), (x, _level(value / tick))],
            outline=None,
            fill=_COLOURS[0],
        )
        canvas.text((x + 17, 194), name, size=12)
    first, second = rng.sample(range(4), 2)
    if rng.random() < 0.5:
        low, high = sorted((first, second), key=values.__getitem__)
        asked = f"How many more {names[high]} than {names[low]} were sold?"
        sign, result = "-", values[high] - values[low]
        first, second = high, low
    else:
        asked = f"How many {names[first]} and {names[second]} were sold in all?"
        sign, result = "+", values[first] + values[second]
    return Figure(
        f"<image>\nThe chart shows what a stall sold in a day. {asked}",
        str(result),
        [
            f"The bar of {names[first]} reaches {values[first]}.",
            f"The bar of {names[second]} reaches {values[second]}.",
            f"{values[first]} {sign} {values[second]} = {result}",
        ],
        canvas.finished(),
        {"names": names, "values": values},
    )


def line_chart(rng: random.Random) -> Figure:
    """Ask for the change between two days of a line chart."""
    days = ["Mon", "Tue", "Wed", "Thu", "Fri"]
    tick = rng.choice([2, 5, 10])
    values = [tick * n for n in rng.sample(range(1, 9), 5)]
    canvas = _Canvas()
    _axes(canvas, [tick * n for n in range(9)])
    points = [(70 + 48 * position, _level(value / tick)) for position, value in enumerate(values)]
    canvas.line(points, _COLOURS[1])
    for day, point in zip(days, points, strict=True):
        canvas.disc(point, 4, _COLOURS[1])
        canvas.text((point[0], 194), day, size=12)
    first, last = sorted(rng.sample(range(5), 2))
    change = values[last] - values[first]
    verb = "grow" if change > 0 else "fall"
    high, low = max(values[first], values[last]), min(values[first], values[last])
    return Figure(
        "<image>\nThe chart shows the number of visitors of a museum on five days. "
        f"By how many did it {verb} from {days[first]} to {days[last]}?",
        str(abs(change)),
        [
            f"On {days[first]} there were {values[first]} visitors.",
            f"On {days[last]} there were {values[last]} visitors.",
            f"{high} - {low} = {abs(change)}",
        ],
        canvas.finished(),
        {"days": days, "values": values},
    )


def pie_chart(rng: random.Random) -> Figure:
    """Ask how many people a slice of a pie chart stands for."""
    names = ["bus", "bike", "foot"]
    first = 5 * rng.randint(4, 9)
    second = 5 * rng.randint(3, (90 - first) // 5)
    shares = [first, second, 100 - first - second]
    people = 20 * rng.randint(2, 15)
    canvas = _Canvas()
    start = -90.0
    for name, share, colour in zip(names, shares, _COLOURS, strict=True):
        end = start + 3.6 * share
        middle = math.radians((start + end) / 2)
        canvas.slice((144, 108), 82, start, end, colour)
        canvas.text((144 + 50 * math.cos(middle), 108 + 50 * math.sin(middle)), f"{share}%", size=13)
        anchor = "lm" if math.cos(middle) > 0 else "rm"
        canvas.text((144 + 90 * math.cos(middle), 108 + 92 * math.sin(middle)), name, anchor=anchor)
        start = end
    asked = rng.randrange(3)
    count = people * shares[asked] // 100
    way = {"bus": "by bus", "bike": "by bike", "foot": "on foot"}[names[asked]]
    return Figure(
        f"<image>\n{people} pupils were asked how they come to school, and the chart shows their answers. "
        f"How many of them come {way}?",
        str(count),
        [
            f"The chart shows that {shares[asked]}% of them come {way}.",
            f"{people} * {shares[asked]} = {people * shares[asked]}",
            f"{people * shares[asked]} / 100 = {count}",
        ],
        canvas.finished(),
        {"names": names, "shares": shares, "people": people},
    )


def shapes(rng: random.Random) -> Figure:
    """Ask for the number of shapes of a kind, or of two kinds together, among scattered ones."""
    counts = {kind: rng.randint(2, 7) for kind in ("circles", "squares", "triangles")}
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    cells = rng.sample([(column, row) for column in range(6) for row in range(4)], len(kinds))
    canvas = _Canvas()
    for kind, (column, row) in zip(kinds, cells, strict=True):
        centre = (24 + 48 * column + rng.uniform(-7, 7), 27 + 54 * row + rng.uniform(-9, 9))
        _shape(canvas, kind, centre, rng.choice(_COLOURS))
    one, other = rng.sample(list(counts), 2)
    if rng.random() < 0.5 and counts[one] != counts[other]:
        one, other = sorted((one, other), key=counts.__getitem__, reverse=True)
        sign, result = "-", counts[one] - counts[other]
        asked = f"How many more {one} than {other} are in the picture?"
    else:
        sign, result = "+", counts[one] + counts[other]
        asked = f"How many {one} and {other} are in the picture in all, whatever their colour?"
    return Figure(
        f"<image>\n{asked}",
        str(result),
        [
            f"There are {counts[one]} {one}.",
            f"There are {counts[other]} {other}.",
            f"{counts[one]} {sign} {counts[other]} = {result}",
        ],
        canvas.finished(),
        {"counts": counts},
    )


def dots(rng: random.Random) -> Figure:
    """Ask how many dots are left of a full grid, some of whose places are empty."""
    columns, rows = rng.randint(5, 8), rng.randint(3, 5)
    places = [(column, row) for column in range(columns) for row in range(rows)]
    empty = rng.sample(places, rng.randint(2, 6))
    colour = rng.choice(_COLOURS)
    canvas = _Canvas()
    for column, row in places:
        centre = (WIDTH / 2 + 34 * (column - (columns - 1) / 2), HEIGHT / 2 + 38 * (row - (rows - 1) / 2))
        if (column, row) in empty:
            canvas.disc(centre, 12, _GREY)
            canvas.disc(centre, 10.5, "white")
        else:
            canvas.disc(centre, 12, colour)
    full, left = columns * rows, columns * rows - len(empty)
    return Figure(
        "<image>\nEvery place of the board can hold a counter, and empty places are drawn as rings. "
        "How many counters lie on the board?",
        str(left),
        [
            f"The board has {columns} * {rows} = {full} places.",
            f"{len(empty)} places are empty.",
            f"{full} - {len(empty)} = {left}",
        ],
        canvas.finished(),
        {"columns": columns, "rows": rows, "empty": sorted(map(list, empty))},
    )


FAMILIES: dict[str, tuple[Callable[[random.Random], Figure], ...]] = {
    "geometry": (rectangle, triangle_angle, right_triangle, corner_shape),
    "charts": (bar_chart, line_chart, pie_chart),
    "counting": (shapes, dots),
}
"""The kinds of figure of each family."""


def _enlarged(points: Sequence[Point]) -> list[Point]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]


def _level(ticks: float) -> float:
    """Height of a value on the charts' vertical axis, in pixels from the top."""
    return 180 - 20 * ticks


def _axes(canvas: _Canvas, ticks: Sequence[int]) -> None:
    for number, tick in enumerate(ticks):
        canvas.line([(48, _level(number)), (280, _level(number))], _GREY if number else _INK, width=1)
        canvas.text((42, _level(number)), str(tick), size=12, anchor="rm")


def _shape(canvas: _Canvas, kind: str, centre: Point, colour: str) -> None:
    x, y = centre
    if kind == "circles":
        canvas.disc(centre, 13, colour)
    elif kind == "squares":
        canvas.polygon([(x - 12, y - 12), (x + 12, y - 12), (x + 12, y + 12), (x - 12, y + 12)], colour, None)
    else:
        canvas.polygon([(x, y - 14), (x + 15, y + 12), (x - 15, y + 12)], colour, None)
