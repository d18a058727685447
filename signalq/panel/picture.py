"""Who listens to what, as a picture: signal, sender, receiver, queue. Drawn here, as SVG of shapes and text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext, ngettext

from ..flow.overview import ReceiverFlow
from .columns import short

COLUMNS = (10, 200, 470, 920)
WIDTHS = (150, 210, 390, 160)
HEAD = 34
ROW = 34
BOX = 26
LETTER = 7.4
"""The width of one, with a margin: a server does not know the browser's font."""


@dataclass(eq=False)
class Box:
    """A name in one of the columns."""

    title: str
    """The whole name."""
    text: str
    column: int
    kind: str = ""
    y: float = 0.0

    @property
    def x(self) -> int:
        """Its left edge."""
        return COLUMNS[self.column]

    @property
    def width(self) -> int:
        """As wide as its column."""
        return WIDTHS[self.column]

    @property
    def height(self) -> int:
        """The same for all."""
        return BOX

    @property
    def text_x(self) -> int:
        """Where its text begins."""
        return self.x + 9

    @property
    def text_y(self) -> float:
        """The line that its text stands on."""
        return self.y + BOX - 8.5

    @property
    def middle(self) -> float:
        """Half way down."""
        return self.y + BOX / 2


@dataclass(frozen=True)
class Picture:
    """What the template draws."""

    boxes: list[Box]
    lines: list[str]
    """Paths from box to box."""
    heads: list[tuple[int, str]]
    width: int
    height: float
    summary: str


def picture(receivers: Iterable[ReceiverFlow]) -> Picture:
    """Draw ``receivers``, by signal and sender, so that lines seldom cross."""
    known = sorted(receivers, key=_family)
    boxes: dict[tuple[int, str], Box] = {}
    links: dict[tuple[int, str, int, str], None] = {}
    for row in known:
        kind = f"{'sq-bad' if row.needs_you else ''} {'' if row.receiver else 'sq-parked'}".strip()
        boxes[2, row.name] = Box(row.name, _fitted(short_receiver(row.name), 2), 2, kind)
        for signal in row.signals:
            boxes.setdefault((0, signal), Box(signal, _fitted(short(signal), 0), 0))
            for sender in row.senders or ("",):
                pair = f"{signal} {sender.lower()}"  # a row has a model's label in lower case
                boxes.setdefault((1, pair), Box(sender or gettext("any sender"), _fitted(_sender(sender), 1), 1))
                links[0, signal, 1, pair] = links[1, pair, 2, row.name] = None
        queue = row.queue or gettext("unknown")
        boxes.setdefault((3, queue), Box(queue, _fitted(queue, 3), 3))
        links[2, row.name, 3, queue] = None
    _place(boxes, links)
    tallest = max((box.y for box in boxes.values()), default=0) + ROW + 6
    heads = [gettext("signal"), gettext("sender"), gettext("receiver"), gettext("queue")]
    return Picture(
        boxes=list(boxes.values()),
        lines=[_curve(boxes[a, b], boxes[c, d]) for a, b, c, d in links],
        heads=list(zip(COLUMNS, heads, strict=True)),
        width=COLUMNS[-1] + WIDTHS[-1] + 10,
        height=tallest,
        summary=_summary(len(known), _count(boxes, 0), _count(boxes, 3)),
    )


def _summary(receivers: int, signals: int, queues: int) -> str:
    counted = {
        "receivers": ngettext("%(count)s receiver", "%(count)s receivers", receivers) % {"count": receivers},
        "signals": ngettext("%(count)s signal", "%(count)s signals", signals) % {"count": signals},
        "queues": ngettext("%(count)s queue", "%(count)s queues", queues) % {"count": queues},
    }
    return gettext("%(receivers)s of %(signals)s, in %(queues)s. The table has the same.") % counted


def _family(row: ReceiverFlow) -> tuple[object, ...]:
    """Those of one sender stand together."""
    return [sender.lower() for sender in row.senders], row.signals, row.name


def short_receiver(name: str) -> str:
    """The last two parts: the module, which is often called ``receivers``, and the function."""
    return ".".join(name.split(".")[-2:]) if name.count(".") > 1 else name


def _sender(sender: str) -> str:
    return sender or gettext("any sender")


def _fitted(text: str, column: int) -> str:
    """``text``, shortened in the middle: the ends of dotted names tell them apart. Its title has it all."""
    room = int((WIDTHS[column] - 18) / LETTER)
    if len(text) <= room:
        return text
    head = (room - 1) // 3
    return f"{text[:head]}…{text[-(room - 1 - head) :]}"


def _place(boxes: dict[tuple[int, str], Box], links: Iterable[tuple[int, str, int, str]]) -> None:
    """Receivers one below the other; the rest in the middle of what it belongs to, as far as there is room."""
    pairs = [(boxes[a, b], boxes[c, d]) for a, b, c, d in links]
    for number, box in enumerate(_of(boxes, 2)):
        box.y = HEAD + number * ROW
    for column, anchor in ((1, 2), (0, 1), (3, 2)):
        for box in _of(boxes, column):
            near = [other.y for pair in pairs if box in pair for other in pair if other.column == anchor]
            box.y = sum(near) / len(near) if near else HEAD
        free = float(HEAD)
        for box in sorted(_of(boxes, column), key=lambda box: box.y):
            box.y = max(box.y, free)
            free = box.y + ROW


def _of(boxes: dict[tuple[int, str], Box], column: int) -> Sequence[Box]:
    return [box for (where, _name), box in boxes.items() if where == column]


def _count(boxes: dict[tuple[int, str], Box], column: int) -> int:
    return len(_of(boxes, column))


def _curve(left: Box, right: Box) -> str:
    start, end = left.x + left.width, right.x
    bend = (start + end) / 2
    return f"M{start} {left.middle:.1f}C{bend} {left.middle:.1f} {bend} {right.middle:.1f} {end} {right.middle:.1f}"
