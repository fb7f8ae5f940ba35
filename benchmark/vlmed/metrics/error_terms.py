"""The words by which wrong answers are told apart: our own small tables of anatomy, findings and imaging, in English.

A text becomes a list of terms: its tokens in normal form (`text.normalise`), where the longest run of tokens that a
table knows becomes one term, and all names of one thing become the same one. A term has a kind (`organ`, `modality`,
...), and an organ or finding has others above it: what it is a part of, or an instance of.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

from vlmed.metrics.error_tables import ATTRIBUTES, COMPOUNDS, DENIALS, FILLERS, REGIONS, SILENT, TABLES, UNITS
from vlmed.metrics.text import tokens


def terms(text: str) -> list[str]:
    """The terms of a text in their order, without fillers.

    >>> terms("Hydrothorax in the right lungs")
    ['pleural effusion', 'right', 'lung']
    """
    return list(_read(tokens(text)))


def kinds(found: list[str]) -> set[str]:
    """The kinds of terms: those of the tables, `count` for a number, `size` for one with a unit, `polar` for yes or no.

    >>> sorted(kinds(["right", "kidney", "2"]))
    ['count', 'organ', 'side']
    """
    known = {kind for term in found if (kind := _kinds().get(term))}
    if any(term.replace(".", "").isdigit() for term in found):
        known.add("size" if UNITS.intersection(found) else "count")
    return known | {"polar" for term in found[:1] if term in ("yes", "none")}


def above(term: str) -> frozenset[str]:
    """Everything that a term is a part or an instance of, over any number of steps, without itself.

    >>> sorted(above("cecum"))
    ['abdomen', 'bowel', 'colon', 'digestive system']
    """
    reached: set[str] = set()
    nodes = [term]
    while nodes:
        nodes += new if (new := [up for up in _parents().get(nodes.pop(), ()) if up not in reached]) else ()
        reached.update(new)
    return frozenset(reached)


def regions(found: list[str]) -> frozenset[str]:
    """The regions of the body that terms lie in; empty where no term tells.

    >>> sorted(regions(["left", "kidney"]))
    ['abdomen']
    """
    return frozenset(REGIONS & {place for term in found for place in (term, *above(term))})


def attribute(term: str) -> int | None:
    """Which family of attributes, of which at most one is true, a term is of; None if it is none.

    >>> attribute("enlarged") == attribute("normal")
    True
    """
    return _attributes().get(term)


def parts(found: Iterable[str]) -> set[str]:
    """Terms with compounds taken apart, and without those that another of them implies.

    >>> sorted(parts(terms("Cardiomegaly on a chest film")))
    ['enlarged', 'heart', 'x ray']
    """
    apart = {part for term in found for part in _compounds().get(term, [term])}
    return apart - {up for term in apart for up in above(term)}


def _form(token: str) -> str:
    """What a word has in common with its other spellings and endings: British ones, plurals, derived words."""
    if token in _PLAIN or len(token) < 4 or not token.isalpha():
        return token
    for written, spelled in _SPELLINGS:
        token = written.sub(spelled, token)
    stem = _ENDING.sub(r"\1", _PLURAL.sub(r"\1", token))
    return stem[:4] + stem[4:].rstrip("aeiy")


_FILLERS = frozenset(FILLERS.split())
# Endings would make something else of these.
_PLAIN = frozenset(
    ("pelvis", "metastasis", "stenosis", "fibrosis", "atelectasis", "bronchiectasis", "pancreas", "axis", "basis",
     "does", "several", "severe", "lateral", "medial", "central", "coronal", "normal", "oval", "spinal")
)  # fmt: skip
_SPELLINGS = (
    (re.compile("ae|oe"), "e"),
    (re.compile(r"our(?=$|s$|ed$|ing$)"), "or"),
    (re.compile(r"is(?=e$|es$|ed$|ing$|ation)"), "iz"),
    (re.compile(r"re(?=s?$)(?<=[bt]re)"), "er"),
    (re.compile("^grey"), "gray"),
)
_PLURAL = re.compile(r"(..[^us])s$")
_ENDING = re.compile(r"^(.{4,}?)(?:ement|ment|ically|ical|at(?:ion|ed|ing)|ion|ing|ness|ity|ive|ous|ed|ly|ic|al)$")


def _read(words: list[str]) -> Iterator[str]:
    words = [word for word in words if word not in SILENT]
    forms = [_form(word) for word in words]
    place = 0
    while place < len(words):
        length = next((size for size in (4, 3, 2, 1) if tuple(forms[place : place + size]) in _names()), 0)
        if length:
            yield _names()[tuple(forms[place : place + length])]
        elif words[place] not in _FILLERS and _PLURAL.sub(r"\1", words[place]) not in _FILLERS:
            yield forms[place]
        place += length or 1


def _lines() -> Iterator[tuple[str, str, list[str], list[str]]]:
    """Kind, term, what stands above it and its other names, for each line of each table; attributes have no kind."""
    untyped = [("", table) for table in (*ATTRIBUTES, DENIALS)]
    for kind, table in (*TABLES.items(), *untyped):
        for line in table.strip().splitlines():
            rest, _, names = line.partition("=")
            term, _, parents = rest.partition("<")
            yield kind, term.strip(), _split(parents), _split(names)


def _split(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


@cache
def _names() -> Mapping[tuple[str, ...], str]:
    return {tuple(map(_form, tokens(name))): term for _, term, _, names in _lines() for name in (term, *names)}


@cache
def _compounds() -> Mapping[str, list[str]]:
    lines = (line.partition(":") for line in COMPOUNDS.strip().splitlines())
    return {term: _split(listed) for term, _, listed in lines}


@cache
def _kinds() -> Mapping[str, str]:
    return {term: kind for kind, term, _, _ in _lines() if kind}


@cache
def _parents() -> Mapping[str, list[str]]:
    return {term: parents for _, term, parents, _ in _lines()}


@cache
def _attributes() -> Mapping[str, int]:
    heads = (re.split("[<=]", line)[0].strip() for table in ATTRIBUTES for line in table.strip().splitlines())
    family = [number for number, table in enumerate(ATTRIBUTES) for _ in table.strip().splitlines()]
    return dict(zip(heads, family, strict=True))
