"""A small server that speaks the routes of the Hugging Face hub, well and badly, on loopback."""

import contextlib
import hashlib
import io
import json
import tarfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubServer(ThreadingHTTPServer):
    """Serves repositories from memory.

    Attributes:
        repositories: {"models/owner/name": {commit: {file: bytes}}}; the last commit is `main`.
        gated: repositories that are listed but whose files need accepted terms.
        mood: `well`, `busy` (answers 503), `drip` (answers at once, but a byte at a time), `login`
            (a captive network's page for everything) or `cut` (breaks off half-way through large
            files).
        requests: paths asked for, in order.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories, self.gated, self.mood, self.requests = {}, set(), "well", []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def serving():
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        self.server.requests.append(f"{self.command} {path}")
        match self.server.mood:
            case "busy":
                return self.answer(503, b"try later")
            case "drip":
                return self.drip()
            case "login":
                return self.answer(200, b"<html>Please log in</html>", kind="text/html")
        parts = path.split("/")
        if parts[0] == "api":  # api/models/[owner/]name[/revision/x | /tree/x]
            end = 3 if "/".join(parts[1:3]) in self.server.repositories else 4
            return self.api("/".join(parts[1:end]), parts[end:])
        if parts[0] != "datasets":  # [datasets/][owner/]name/resolve/commit/file
            parts.insert(0, "models")
        end = parts.index("resolve")
        return self.file("/".join(parts[:end]), parts[end + 1], "/".join(parts[end + 2 :]))

    def commit(self, repository, revision):
        commits = self.server.repositories.get(repository, {})
        return next(reversed(commits), None) if revision == "main" else revision

    def api(self, repository, rest):
        commit = self.commit(repository, rest[1] if rest else "main")
        if repository not in self.server.repositories:
            return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.server.repositories[repository].get(commit)
        if files is None:
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if rest[:1] == ["tree"]:
            listing = [
                {"type": "file", "path": name, "size": len(content), "oid": digest(content)}
                for name, content in files.items()
            ]
            return self.answer(200, json.dumps(listing).encode())
        name = repository.split("/", 1)[1]
        siblings = [{"rfilename": file} for file in files]
        info = {"_id": "0", "id": name, "modelId": name, "sha": commit, "siblings": siblings}
        info |= {"private": False, "tags": [], "downloads": 0, "likes": 0}
        return self.answer(200, json.dumps(info).encode())

    def file(self, repository, revision, name):
        commit = self.commit(repository, revision)
        content = self.server.repositories.get(repository, {}).get(commit, {}).get(name)
        if repository in self.server.gated:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if content is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest(content)}"'}
        headers["Accept-Ranges"] = "bytes"
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.mood == "cut" and len(content) > 10_000
        return self.answer(206 if start else 200, content[start:], headers, cut=cut)

    def answer(self, status, content, headers=(), *, kind="application/json", cut=False):
        self.send_response(status)
        for name, value in {**dict(headers), "Content-Type": kind}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut and self.command == "GET":
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()

    def drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with contextlib.suppress(OSError):  # the one who asked has gone
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.1)
        self.close_connection = True


def digest(content):
    return hashlib.sha256(content).hexdigest()


def member(name, content=b"", **attributes):
    """A file for `tar`, or with another `type` a folder, link or device."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, content


def tar(*members, files=(), top=""):
    """Bytes of a plain tar file with `files` below `top`, then `members`."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for info, content in [*(member(top + n, c) for n, c in dict(files).items()), *members]:
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()
