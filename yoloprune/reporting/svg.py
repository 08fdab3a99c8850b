"""Pictures of a page as SVG: elements, and a frame with two axes. Colours are those of the page, by class."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence


def escaped(said: object) -> str:
    """A text as it may stand in markup: names of files and classes may hold anything, control characters too."""
    return html.escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in str(said)))


def element(name: str, content: str = "", **attributes: object) -> str:
    """One element; numbers are shortened, `class_` and `stroke_width` lose and change their underscores.

    Args:
        name (str): Of the element.
        content (str): What is inside, markup.
        **attributes (object): Their values, which are escaped.
    """
    told = "".join(
        f' {k.strip("_").replace("_", "-")}="{escaped(_short(v))}"' for k, v in attributes.items() if v is not None
    )
    return f"<{name}{told}>{content}</{name}>"


def _short(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def label(x: float, y: float, said: object, **attributes: object) -> str:
    """A text, escaped."""
    return element("text", escaped(said), x=x, y=y, **attributes)


def titled(markup: str, said: str) -> str:
    """A group with the words that a pointer which rests on it is shown."""
    return element("g", f"<title>{escaped(said)}</title>{markup}")


class Frame:
    """A picture with two axes.

    Attributes:
        parts (list[str]): What is drawn, in that order.
    """

    LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 12.0, 44.0

    def __init__(self, x: tuple[float, float], y: tuple[float, float], width: float = 720, height: float = 300) -> None:
        """Choose what the axes reach from and to; a range of nothing is widened."""
        self.x_range, self.y_range = (_widened(r) for r in (x, y))
        self.width, self.height = width, height
        self.parts: list[str] = []

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        low, high = self.x_range
        return self.LEFT + (value - low) / (high - low) * (self.width - self.LEFT - self.RIGHT)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        low, high = self.y_range
        return self.height - self.BOTTOM - (value - low) / (high - low) * (self.height - self.TOP - self.BOTTOM)

    def line(self, xs: Sequence[float], ys: Sequence[float], class_: str) -> None:
        """A line through points."""
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        self.parts.append(element("polyline", points=points, class_=class_))

    def band(self, xs: Sequence[float], low: Sequence[float], high: Sequence[float], class_: str) -> None:
        """What lies between two lines."""
        corners = [*zip(xs, low, strict=True), *reversed([*zip(xs, high, strict=True)])]
        points = " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in corners)
        self.parts.append(element("polygon", points=points, class_=class_))

    def bar(self, left: float, right: float, low: float, high: float, class_: str, said: str) -> None:
        """A bar between two values of each axis, and what is said of it."""
        width, top = max(self.x(right) - self.x(left) - 1, 1.0), self.y(high)
        box = element("rect", x=self.x(left), y=top, width=width, height=max(self.y(low) - top, 0.0), class_=class_)
        self.parts.append(titled(box, said))

    def drawn(self, across: str, up: str, said: str) -> str:
        """The picture with its axes.

        Args:
            across (str): What the horizontal axis is of.
            up (str): What the vertical one is of.
            said (str): What the picture shows, for those who cannot see it.
        """
        floor, right = self.height - self.BOTTOM, self.width - self.RIGHT
        axes = []
        for tick in ticks(*self.y_range):
            axes.append(element("line", x1=self.LEFT, x2=right, y1=self.y(tick), y2=self.y(tick), class_="grid"))
            axes.append(label(self.LEFT - 6, self.y(tick) + 4, f"{tick:.4g}", text_anchor="end"))
        for tick in ticks(*self.x_range):
            axes.append(label(self.x(tick), floor + 16, f"{tick:.4g}", text_anchor="middle"))
        axes.append(label((self.LEFT + right) / 2, self.height - 8, across, text_anchor="middle"))
        turned = f"rotate(-90 14 {(self.TOP + floor) / 2:.0f})"
        axes.append(label(14, (self.TOP + floor) / 2, up, text_anchor="middle", transform=turned))
        return picture(self.width, self.height, [*axes, *self.parts], said)


def picture(width: float, height: float, parts: Sequence[str], said: str) -> str:
    """A picture that is as wide as the page, and is scrolled where that would be too small to read."""
    drawn = element(
        "svg",
        "".join(parts),
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=said,
        style=f"min-width:{min(width, 560.0):.0f}px;max-width:{1.3 * width:.0f}px",
    )
    return element("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=said)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two others: steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 5, 10) if power * n >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _widened(ends: tuple[float, float]) -> tuple[float, float]:
    low, high = ends
    return (low, high) if high > low else (low - 0.5, low + 0.5)
