"""A hook of MkDocs: links from docs/ to files elsewhere in the repository lead to the repository."""

from __future__ import annotations

import re
from typing import Any

_REPOSITORY = "https://github.com/vlmed/vlmed/blob/main/"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """See MkDocs: called with the text of every page before it is rendered."""
    out = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"\]\({re.escape(out)}(?=\w)", f"]({_REPOSITORY}", markdown)
