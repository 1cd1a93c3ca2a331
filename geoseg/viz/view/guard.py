"""Who may look at a map: whoever has its link, and on Linux whoever started it.

A machine may have many users, and all of them can reach its ports. So the map's address
has a secret in its path. With it any host name will do, which is how a JupyterHub's
proxy asks; without it a request must be for this machine by name, come from no other
page, and over a connection that belongs to the very user who serves the map.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import compare_digest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_HOSTS = {"localhost", "127.0.0.1"}
_OWN_PAGES = {"", "none", "same-origin"}
_CONNECTIONS = Path("/proc/net/tcp")


@dataclass(frozen=True, slots=True, eq=False)
class Guard:
    """Lets requests through that may look; answers all others in one line."""

    app: ASGIApp
    token: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        inner = self._inside(scope)
        if inner is None:
            from starlette.responses import JSONResponse

            text = "open the link that geoseg view has printed: it has a secret in it"
            # Who may look, but not write: 405, as of what nobody writes.
            may_look = self._inside({**scope, "method": "GET"}) is not None
            status = 405 if may_look else 403
            refusal = JSONResponse({"error": text}, status_code=status)
            await refusal(scope, receive, send)
            return
        await self.app(inner, receive, send)

    def _inside(self, scope: Scope) -> Scope | None:
        """Return a request without the secret in its path; None where it may not be."""
        first, slash, rest = scope["path"].removeprefix("/").partition("/")
        if slash and compare_digest(first.encode(), self.token.encode()):
            return {**scope, "path": f"/{rest}", "raw_path": None}
        headers = {k: v.decode("latin-1").lower() for k, v in scope["headers"]}
        host = headers.get(b"host", "").rsplit(":", 1)[0]
        # Whoever writes says that the page is ours; an old browser that does not say
        # where a request comes from may look only.
        known = _OWN_PAGES if scope["method"] in {"GET", "HEAD"} else {"same-origin"}
        own_page = headers.get(b"sec-fetch-site", "") in known
        if host in _HOSTS and own_page and is_own_connection(scope):
            return scope
        return None


def is_own_connection(scope: Mapping[str, Any]) -> bool:
    """Whether a request came over a connection of the user whom this process is of.

    Linux lists the owner of every connection; elsewhere nobody is known.
    """
    client, server = scope.get("client"), scope.get("server")
    if not client or not server or not hasattr(os, "getuid"):
        return False
    try:
        lines = _CONNECTIONS.read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    ends = [_end(*client[:2]), _end(*server[:2])]
    # sl, local_address, rem_address, st, queues, timer, retransmits, uid: proc(5). What
    # its owner has closed is listed as root's, and is open (01) no more.
    found = (line.split() for line in lines)
    owners = {words[7] for words in found if words[1:4] == [*ends, "01"]}
    return owners == {str(os.getuid())}


def _end(address: str, port: int) -> str:
    """Return an end of a connection as Linux lists it: bytes of the host's order."""
    number = int.from_bytes(ipaddress.IPv4Address(address).packed, "little")
    return f"{number:08X}:{port:04X}"
