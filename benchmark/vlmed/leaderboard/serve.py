"""A built site on this machine, as a browser sees it on a static host."""

from __future__ import annotations

import errno
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vlmed.errors import UsageError
from vlmed.leaderboard.site import check_built

_HOST = "127.0.0.1"  # nobody else's browser reaches it


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012 - as its base has it
        **SimpleHTTPRequestHandler.extensions_map,
        ".atom": "application/atom+xml",
        ".html": "text/html; charset=utf-8",
        ".json": "application/json",
        ".parquet": "application/vnd.apache.parquet",
        ".svg": "image/svg+xml",
    }

    def end_headers(self) -> None:
        """A site that was built again is shown at once."""
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing: errors are the reader's, who sees them."""


def site_server(site: Path, port: int) -> ThreadingHTTPServer:
    """A server of a built site on this machine alone; call its `serve_forever`.

    Args:
        port: 0 takes any free one; `server_port` tells which.

    Raises:
        MissingError: There is no built site in `site`.
        UsageError: The port is taken, or not ours to take.
    """
    check_built(site)
    try:
        return ThreadingHTTPServer((_HOST, port), partial(_Handler, directory=str(site)))
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        what = f"port {port} can't be used: {error.strerror}"
        raise UsageError(what, hint="choose another --port; 0 takes any free one") from None


def address(server: ThreadingHTTPServer) -> str:
    """Where a browser finds it."""
    return f"http://{_HOST}:{server.server_port}/"
