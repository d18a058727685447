"""Numbers and times as people say them."""

from __future__ import annotations

from django.utils.formats import number_format
from django.utils.translation import gettext as _


def number(value: float, *, capped: bool = False) -> str:
    """``1,204``; ``10,000+`` for one that is ``capped``; one decimal below ten, unless it is whole."""
    decimals = 1 if value < 10 and value != int(value) else 0
    text = number_format(round(value, decimals), decimals, force_grouping=True)
    return f"{text}+" if capped else text


def span(seconds: float) -> str:
    """``12 ms``, ``14 s``, ``6 min``, ``3 h``, ``2 d``: one unit, rounded down."""
    if seconds < 1:
        return _("%(number)s ms") % {"number": number(int(seconds * 1_000))}
    for size, text in ((86_400, _("%(number)s d")), (3_600, _("%(number)s h")), (60, _("%(number)s min"))):
        if seconds >= size:
            return text % {"number": number(int(seconds / size))}
    return _("%(number)s s") % {"number": number(int(seconds))}
