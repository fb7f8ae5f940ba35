"""Where a submission stands among the others, `<org>__<model>/<run>`, and names that could be taken for another's."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What an organisation, a model and a run may be called: the names become parts of paths and addresses.
NAME = r"[a-z0-9](?:[a-z0-9.-]{0,58}[a-z0-9])?"
EXPECTED = "<org>__<model>/<run> of a-z, 0-9, '.', '-'"
_PLACE = re.compile(rf"{NAME}__{NAME}/{NAME}")
# Letters that many typefaces draw alike, each with the one that stands for all; the longer first.
_ALIKE = (("rn", "m"), ("vv", "w"), ("cl", "d"), ("0", "o"), ("1", "l"), ("i", "l"), ("5", "s"), ("-", ""), (".", ""))


def is_place(place: str) -> bool:
    """Whether a submission may stand there.

    >>> is_place("my-lab__my-model/1"), is_place("My-Lab__my-model/1"), is_place("my-lab/1")
    (True, False, False)
    """
    return bool(_PLACE.fullmatch(place))


def look_alike(org: str, others: Iterable[str]) -> str:
    """Another organisation whose name looks like this one; empty if there is none.

    Names are of a-z, 0-9, dots and hyphens, so that letters of other scripts need no thought.

    >>> look_alike("rned-1ab", ["medlab", "clinic"])
    'medlab'
    """
    shape = _shape(org)
    return next((other for other in sorted(set(others)) if other != org and _shape(other) == shape), "")


def _shape(name: str) -> str:
    for mark, stand_in in _ALIKE:
        name = name.replace(mark, stand_in)
    return name
