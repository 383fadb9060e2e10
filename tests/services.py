"""A server on this machine that speaks as model hubs, Zenodo and buckets do, and that can fail as they may."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Answer:
    """What is at a path. `cuts` are after how many bytes the next answers break off; `token` is the one that opens it."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    etag: str | None = None
    cuts: list[int] = field(default_factory=list)
    token: str | None = None
    ranges: bool = True


class Services:
    """The server. `answers` has what is at each path, `asked` what was asked for: method, path and headers."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.uploads: dict[str, bytes] = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"services": self}))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.environment = {
            **{"HF_ENDPOINT": self.url, "ZENODO_ENDPOINT": self.url, "AWS_ENDPOINT_URL_S3": self.url},
            **{"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
        }
        Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def requests(self, method: str, part: str) -> list[dict[str, str]]:
        """The headers of the requests of a method for paths with this in them."""
        return [headers for how, path, headers in self.asked if how == method and part in path]

    def file(self, path: str, body: bytes, **about) -> Answer:
        self.answers[path] = Answer(body, etag=about.pop("etag", f'"{hashlib.md5(body).hexdigest()}"'), **about)
        return self.answers[path]

    def repository(self, name: str, files: dict[str, bytes], revision: str = "main", licence: str | None = None, **about) -> str:
        """A repository of a hub, whose commit follows from its files; return the commit."""
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        siblings = []
        for path, body in files.items():
            sha256 = hashlib.sha256(body).hexdigest()
            siblings.append(
                {"rfilename": path, "size": len(body), "blobId": hashlib.sha1(body).hexdigest(),
                 "lfs": {"sha256": sha256, "size": len(body), "pointerSize": 134}}
            )  # fmt: skip
            headers = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(body))}
            self.file(f"/{name}/resolve/{commit}/{path}", body, headers=headers, etag=f'"{sha256}"', **about)
        tree = [
            {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"],
             "lfs": {"oid": one["lfs"]["sha256"], "size": one["size"], "pointerSize": 134}}
            for one in siblings
        ]  # fmt: skip
        card = {"license": licence} if licence else {}
        info = {"id": name, "sha": commit, "siblings": siblings, "cardData": card, "private": False, "downloads": 0, "tags": []}
        for asked in {revision, commit}:
            self.json(f"/api/models/{name}/revision/{asked}", info, **about)
            self.json(f"/api/models/{name}/tree/{asked}", tree, **about)
        if revision == "main":
            self.json(f"/api/models/{name}", info, **about)
        return commit

    def record(self, number: int, files: dict[str, bytes], licence: str = "cc-by-4.0", **about) -> None:
        """A record of Zenodo."""
        listed = []
        for name, body in files.items():
            path = f"/api/records/{number}/files/{name}/content"
            self.file(path, body, etag=None, **about)
            listed.append(
                {
                    "key": name,
                    "size": len(body),
                    "checksum": f"md5:{hashlib.md5(body).hexdigest()}",
                    "links": {"self": self.url + path},
                }
            )
        self.json(f"/api/records/{number}", {"id": number, "metadata": {"license": {"id": licence}}, "files": listed}, **about)

    def bucket(self, name: str, files: dict[str, bytes]) -> None:
        """A public bucket."""
        items = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(body)}</Size><ETag>&quot;{hashlib.md5(body).hexdigest()}&quot;</ETag></Contents>"
            for key, body in files.items()
        )
        listing = (
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{name}</Name>{items}</ListBucketResult>'
        )
        self.file(f"/{name}/", listing.encode())
        for key, body in files.items():
            self.file(f"/{name}/{key}", body)

    def json(self, path: str, value: object, **about) -> None:
        self.answers[path] = Answer(json.dumps(value).encode(), headers={"Content-Type": "application/json"}, **about)


class _Handler(BaseHTTPRequestHandler):
    services: Services

    def log_message(self, *_arguments) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(False)

    def do_GET(self) -> None:
        self._answer(True)

    def do_POST(self) -> None:
        self._take()

    def do_PUT(self) -> None:
        self._take()

    def _take(self) -> None:
        """Keep what is sent. A commit to a hub is lines of JSON, a deposition at Zenodo a number with a bucket."""
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.services.asked.append((self.command, path, {name.title(): value for name, value in self.headers.items()}))
        self.services.uploads[f"{self.command} {path}"] = body
        url = self.services.url
        if path.endswith("/preupload/main"):
            sent = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            answer = {"files": sent}
        elif "/commit/" in path:
            answer = {"commitUrl": f"{url}/lab/atlas/commit/{'a' * 40}", "commitOid": "a" * 40, "hookOutput": ""}
        elif path.endswith("/depositions"):
            answer = {"id": 42, "links": {"bucket": f"{url}/api/files/bucket"}}
        else:
            answer = {"url": f"{url}/lab/atlas", "id": "lab/atlas", "errors": [], "warnings": []}
        self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _answer(self, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.services.asked.append((self.command, path, {name.title(): value for name, value in self.headers.items()}))
        found = self.services.answers.get(path)
        if found is None:
            hub = path.startswith("/api/models") or "/resolve/" in path
            about = path.rpartition("/revision/")[0]
            missing = "RevisionNotFound" if hub and about in self.services.answers else "RepoNotFound"
            return self._send(404, b"{}", {"X-Error-Code": missing} if hub else {}, with_body)
        if found.token and self.headers.get("Authorization") != f"Bearer {found.token}":
            return self._send(401, b"{}", {}, with_body)
        body, status, headers = found.body, found.status, dict(found.headers)
        if found.etag:
            headers["ETag"] = found.etag
        if prefix := parse_qs(urlsplit(self.path).query).get("prefix"):
            body = re.sub(rb"<Contents><Key>(?!%s).*?</Contents>" % re.escape(prefix[0].encode()), b"", body)
        wanted = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if wanted and status == 200 and found.ranges and condition in (None, found.etag):
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(body):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"}, with_body)
            headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
            body, status = body[start:], 206
        self._send(status, body, headers, with_body, found.cuts.pop(0) if with_body and found.cuts else None)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True
