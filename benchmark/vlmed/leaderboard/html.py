"""Templates -> pages. Jinja2 escapes every value; styles and scripts stand in the page, allowed by their hashes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vlmed.leaderboard.rows import ranked_row
from vlmed.leaderboard.texts import croissant_file, decimal, model_page, quantity, task_page
from vlmed.metrics.table import METRICS, Metric

_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def render(template: str, root: str, scripts: Sequence[str] = (), **values: Any) -> str:
    """A page, whole; it needs no other file to be read.

    Args:
        template: Its file below `templates`.
        root: How one gets from the page's folder to the site's: empty or `../`.
        scripts: Files below `assets`, which run in this order after those of every page.
    """
    page = _environment().get_template(template)
    return page.render(**_inline(tuple(scripts)), root=root, **values)


def data_block(value: Any) -> Markup:
    """JSON that may stand in a page: no text in it can close the element."""
    return Markup(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).translate(_ESCAPES))


@cache
def _inline(scripts: tuple[str, ...]) -> Mapping[str, str]:
    """What every page with these scripts holds."""
    style, script = _asset("site.css"), "\n".join(_asset(name) for name in ("theme.js", *scripts))
    return {"policy": _policy(style, script), "style": Markup(style), "script": Markup(script)}


def _asset(name: str) -> str:
    return (resources.files("vlmed.leaderboard") / "assets" / name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Nothing may load or run but the page's own style and script; no request leaves for any host."""
    style_hash, script_hash = (
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'" for text in (style, script)
    )
    return (
        f"default-src 'none'; style-src {style_hash}; script-src {script_hash}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vlmed.leaderboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "metric_of": _metric,
        "ranked_row": ranked_row,
    }
    environment.filters |= {
        "decimal": decimal,
        "tick": lambda value: f"{value:g}",
        "quantity": quantity,
        "task_page": task_page,
        "croissant_file": croissant_file,
        "model_page": lambda entry: model_page(entry.org, entry.model),
    }
    return environment


def _metric(name: str) -> Metric:
    return METRICS[name]
