"""A STAC API, files with ranges, and a service that signs, all on this machine."""

import json
import threading
from collections import deque
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from shapely.geometry import box, shape

from geoseg.core.dates import moment_of
from geoseg.rasters.search import find


class Server(ThreadingHTTPServer):
    """Serves what is put into it.

    `items` are found by `/search`, `size` at a time, with an empty page before those of
    `gaps`; `files` are bytes by path: those whose path begins with `/signed/` are given
    only to addresses that `/sign` gave out, those below `/login/` to who has the
    `token`;
    `fail` holds what the next answers are instead: (status, headers).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.host = f"127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self):
        self.items, self.files, self.size, self.gaps = [], {}, 2, set()
        self.fail, self.asked, self.life = deque(), [], 3600
        self.ways, self.signatures, self.token = ("GET", "POST"), {}, "nobody's"

    def handle_error(self, request, client_address):
        """Clients that hang up are no news."""


class Handler(BaseHTTPRequestHandler):
    """Answers for `Server`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        length = int(self.headers.get("Content-Length", 0))
        self._answer(json.loads(self.rfile.read(length) or b"{}"))

    def do_GET(self):
        query = parse_qs(urlsplit(self.path).query)
        self._answer({key: values[0] for key, values in query.items()})

    def _answer(self, query):
        server, path = self.server, urlsplit(self.path).path
        server.asked.append((self.command, path, query))
        if server.fail:
            status, headers = server.fail.popleft()
            return self._send(b"busy", status, headers)
        if path in server.files or path.startswith(("/signed/", "/login/")):
            return self._file(path, query)
        found = self._json(path.rstrip("/"), query)
        if found is None:
            return self._send(b'{"code": "NotFound"}', 404)
        return self._send(json.dumps(found).encode(), 200)

    def _json(self, path, query):
        server = self.server
        if path == "":
            links = [
                {"rel": "search", "href": f"{server.url}/search", "method": way}
                for way in server.ways
            ]
            links.append({"rel": "data", "href": f"{server.url}/collections"})
            core = "https://api.stacspec.org/v1.0.0/"
            return {
                "type": "Catalog",
                "stac_version": "1.0.0",
                "id": "api",
                "description": "-",
                "conformsTo": [
                    f"{core}{x}" for x in ("core", "item-search", "collections")
                ],
                "links": links,
            }
        if path == "/collections":
            return {"collections": [collection_of("scenes", server.url)], "links": []}
        if path == "/collections/scenes":
            return collection_of("scenes", server.url)
        if path == "/search":
            return self._found(query)
        if path == "/sign":
            href = query["href"]
            token = f"sig{len(server.signatures)}secret"
            server.signatures[token] = urlsplit(href).path
            expiry = datetime.now(UTC) + timedelta(seconds=server.life)
            return {"href": f"{href}?sig={token}", "msft:expiry": expiry.isoformat()}
        return None

    def _found(self, query):
        items = [item for item in self.server.items if matches(item, query)]
        start = int(query.get("token", 0))
        end = start + self.server.size
        if start in self.server.gaps:  # an empty page, and then the rest
            self.server.gaps.remove(start)
            end = start
        links = []
        if end < len(items):
            more = {"rel": "next", "href": f"{self.server.url}/search"}
            if self.command == "POST":
                more |= {
                    "method": "POST",
                    "merge": False,
                    "body": {**query, "token": end},
                }
            else:
                rest = "&".join(f"{k}={v}" for k, v in query.items() if k != "token")
                more["href"] += f"?{rest}&token={end}"
            links.append(more)
        return {
            "type": "FeatureCollection",
            "features": items[start:end],
            "links": links,
        }

    def _file(self, path, query):
        server = self.server
        if (
            path.startswith("/signed/")
            and server.signatures.get(query.get("sig")) != path
        ):
            return self._send(b"", 403)
        if path.startswith("/login/") and self.headers.get("Authorization") != (
            f"Bearer {server.token}"
        ):
            return self._send(b"", 401)
        data = server.files.get(unquote(path))
        if data is None:
            return self._send(b"", 404)
        span = self.headers.get("Range")
        if span is None:
            return self._send(data, 200, {"Accept-Ranges": "bytes"})
        start, _, last = span.removeprefix("bytes=").partition("-")
        stop = min(len(data), int(last or len(data) - 1) + 1)
        told = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
        return self._send(data[int(start) : stop], 206, told)

    def _send(self, body, status, headers=None):
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def found_items(what, **how):
    """Return the items that a search finds."""
    return find(what, **how).items


def collection_of(name, root):
    """Return a collection of anywhere and any time."""
    return {
        "type": "Collection",
        "stac_version": "1.0.0",
        "id": name,
        "description": "-",
        "license": "other",
        "links": [{"rel": "root", "href": root}] if root else [],
        "extent": {
            "spatial": {"bbox": [[-180, -90, 180, 90]]},
            "temporal": {"interval": [[None, None]]},
        },
    }


def matches(item, query):
    """Whether an API finds an item by what it is asked."""
    wanted = query.get("collections")
    if wanted and item["collection"] not in wanted:
        return False
    if "datetime" in query:
        ends = query["datetime"].split("/")
        start, end = (None if e == ".." else moment_of(e) for e in (ends[0], ends[-1]))
        moment = moment_of(item["properties"]["datetime"])
        if (start and moment < start) or (end and moment > end):
            return False
    if "bbox" in query:
        told = query["bbox"]
        numbers = told.split(",") if isinstance(told, str) else told
        return box(*map(float, numbers)).intersects(shape(item["geometry"]))
    if "intersects" in query:
        told = query["intersects"]
        area = shape(json.loads(told) if isinstance(told, str) else told)
        return area.intersects(shape(item["geometry"]))
    return True


@contextmanager
def serving():
    """Give a server that listens, and end it."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
