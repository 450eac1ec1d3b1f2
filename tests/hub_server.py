"""A small Hugging Face Hub on loopback: the routes that `huggingface_hub` calls to download and to upload a model, and
to download a data set, whose name here begins with "datasets/".

Answers follow what the public Hub sends: commit and ETag headers, large files behind a redirect to another path with
Range support, error codes in X-Error-Code. Every request is in the log, so that a test sees what was fetched. Not
here: Xet storage, multi-part uploads, rate limits, several commits of one file's history.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

TOKEN = "hf_loopback"
LFS_BYTES = 20_000
"""Files of this size are "large": stored behind a redirect, uploaded through LFS."""


@dataclass
class Repo:
    """A model: its files, who may read it, and branches or tags besides "main"."""

    files: dict[str, bytes]
    private: bool = False
    gated: bool = False
    refs: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def at(self, revision):
        """(commit, files) of a branch, tag or commit; None when there is none."""
        for name, files in {"main": self.files, **self.refs}.items():
            commit = _commit(files)
            if revision in (name, commit):
                return commit, files
        return None


@dataclass(frozen=True)
class Seen:
    """A request that was answered. `sent`: bytes of the body that went out; `range`: the Range header."""

    method: str
    path: str
    status: int
    sent: int
    range: str | None
    token: str | None


@dataclass
class Hub:
    """The server's state.

    Attributes:
        address, elsewhere: its own URL, and that of the host where large files lie.
        repos: models by id.
        moved: old id to new id.
        cut: file name to the byte after which its next download breaks off, once.
        broken: path prefixes that answer 500.
        log: all requests in the order of their answers.
        uploads: LFS objects by SHA-256.
    """

    address: str = ""
    elsewhere: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    log: list[Seen] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)

    def fetched(self, repo):
        """Names of the files of which bytes were sent."""
        names = {hashlib.sha256(c).hexdigest(): n for n, c in self.repos[repo].files.items()}
        found = set()
        for seen in self.log:
            if seen.method == "GET" and seen.sent:
                if f"/{repo}/resolve/" in seen.path:
                    found.add(seen.path.split("/resolve/")[1].split("/", 1)[1])
                elif seen.path.startswith("/cdn/"):
                    found.add(names[seen.path.removeprefix("/cdn/")])
        return found

    def environment(self, home, token=None):
        """Variables that make the client talk to this server only."""
        direct = "127.0.0.1,localhost"
        return {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_TOKEN": token or "", "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": direct, "no_proxy": direct}  # fmt: skip


def files_of(folder: Path):
    """The content of a folder, for a `Repo`."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@contextmanager
def running(**repos):
    """A Hub with these repositories ("owner__name" for owner/name), in a thread, for a `with` block."""
    hub = Hub(repos={name.replace("__", "/"): repo for name, repo in repos.items()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    # Another name for the same place: to the client another host, which gets no token.
    hub.elsewhere = f"http://localhost:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _commit(files):
    return hashlib.sha1(b"".join(n.encode() + hashlib.sha1(c).digest() for n, c in sorted(files.items()))).hexdigest()


class _Error(Exception):
    def __init__(self, status, code=None, message="no"):
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *arguments):
        pass

    def _serve(self):
        self.path_only = unquote(urlsplit(self.path).path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            self.body = self._chunks()
        try:
            if any(self.path_only.startswith(p) for p in self.hub.broken):
                raise _Error(500)
            self._route()
        except _Error as error:
            headers = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            self._send(error.status, json.dumps({"error": error.message}).encode(), headers)

    def _chunks(self):
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _route(self):
        parts = self.path_only.strip("/").split("/")
        match parts:
            case ["cdn", digest]:
                self._send_object(digest)
            case ["upload", digest]:
                self._put(digest)
            case ["api", "repos", "create"]:
                self._create()
            case ["api", "validate-yaml"]:
                self._json({"errors": [], "warnings": []})
            case ["api", "models", owner, name]:
                self._info(f"{owner}/{name}", "main")
            case ["api", "datasets", owner, name]:
                self._info(f"datasets/{owner}/{name}", "main")
            case ["datasets", owner, name, "resolve", revision, *path]:
                self._resolve(f"datasets/{owner}/{name}", revision, "/".join(path))
            case ["api", "models", owner, name, "revision", *revision]:
                self._info(f"{owner}/{name}", "/".join(revision))
            case ["api", "models", owner, name, "tree", revision]:
                self._tree(f"{owner}/{name}", revision)
            case ["api", "models", owner, name, "preupload", "main"]:
                self._preupload(f"{owner}/{name}")
            case ["api", "models", owner, name, "commit", "main"]:
                self._accept_commit(f"{owner}/{name}")
            case [owner, name, "info", "lfs", "objects", "batch"] if name.endswith(".git"):
                self._batch(f"{owner}/{name.removesuffix('.git')}")
            case [owner, name, "resolve", revision, *path]:
                self._resolve(f"{owner}/{name}", revision, "/".join(path))
            case _:
                raise _Error(404, None, f"no route {self.command} {self.path_only}")

    @property
    def _token(self):
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, name, *, content=False, write=False):
        """The repository, if this client may see it."""
        if self._token not in (None, TOKEN):
            raise _Error(401, None, "Invalid credentials in Authorization header")
        if name in self.hub.moved:
            new = self.path.replace(name, self.hub.moved[name])
            self._send(307, b"", {"Location": new})
            return None
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self._token is None):
            # The Hub tells strangers nothing about what exists.
            raise _Error(404 if self._token else 401, "RepoNotFound", "Repository not found")
        if content and repo.gated:
            raise _Error(403 if self._token else 401, "GatedRepo", "Access to this model is restricted")
        if write and self._token is None:
            raise _Error(401, None, "log in")
        if write and name.split("/")[0] == "others":
            raise _Error(403, None, "You don't have the rights to create a model under this namespace")
        return repo

    def _version(self, name, revision, **access):
        repo = self._repo(name, **access)
        if repo is None:
            return None
        found = repo.at(revision)
        if found is None:
            raise _Error(404, "RevisionNotFound", "Invalid rev id")
        return found

    def _info(self, name, revision):
        if (found := self._version(name, revision)) is not None:
            commit, files = found
            self._json({"_id": "1", "id": name, "modelId": name, "sha": commit, "private": False, "gated": False,
                        "tags": [], "siblings": [{"rfilename": f} for f in files]})  # fmt: skip

    def _tree(self, name, revision):
        if (found := self._version(name, revision)) is not None:
            entries = []
            for path, content in found[1].items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                if len(content) >= LFS_BYTES:
                    entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 1}
                entries.append(entry)
            self._json(entries)

    def _resolve(self, name, revision, path):
        if (found := self._version(name, revision, content=True)) is None:
            return
        commit, files = found
        if path not in files:
            raise _Error(404, "EntryNotFound", "Entry not found")
        content = files[path]
        headers = {"X-Repo-Commit": commit}
        if len(content) < LFS_BYTES:
            self._send_bytes(content, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'}, path)
            return
        digest = hashlib.sha256(content).hexdigest()
        linked = {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{digest}"'}
        self._send(302, b"", headers | linked | {"Location": f"{self.hub.elsewhere}/cdn/{digest}"})

    def _send_object(self, digest):
        for repo in self.hub.repos.values():
            for files in (repo.files, *repo.refs.values()):
                for path, content in files.items():
                    if hashlib.sha256(content).hexdigest() == digest:
                        self._send_bytes(content, {"ETag": f'"{digest}"'}, path)
                        return
        raise _Error(404)

    def _send_bytes(self, content, headers, path):
        wanted = self.headers.get("Range")
        if wanted is None:
            self._send(200, content, headers, cut=path)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last) if last else len(content) - 1, len(content) - 1)
        span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(206, content[first : last + 1], headers | span, cut=path)

    def _create(self):
        if self._token != TOKEN:
            raise _Error(401, None, "Invalid username or password.")
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] == "others":
            raise _Error(403, None, "You don't have the rights to create a model under this namespace")
        if name in self.hub.repos:
            self._json({"url": f"{self.hub.address}/{name}", "error": "You already created this model repo"}, 409)
            return
        self.hub.repos[name] = Repo({".gitattributes": b""}, private=wanted.get("visibility") == "private")
        self._json({"url": f"{self.hub.address}/{name}", "id": name})

    def _preupload(self, name):
        repo = self._repo(name, write=True)
        self._json({"files": [
            {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LFS_BYTES else "regular", "shouldIgnore": False,
             **({"oid": hashlib.sha1(repo.files[f["path"]]).hexdigest()} if f["path"] in repo.files else {})}
            for f in json.loads(self.body)["files"]
        ]})  # fmt: skip

    def _batch(self, name):
        self._repo(name, write=True)
        self._json({"transfer": "basic", "objects": [
            {**o, "actions": {"upload": {"href": f"{self.hub.elsewhere}/upload/{o['oid']}"}}}
            for o in json.loads(self.body)["objects"]
        ]})  # fmt: skip

    def _put(self, digest):
        if hashlib.sha256(self.body).hexdigest() != digest:
            raise _Error(400, None, "the content does not match its hash")
        self.hub.uploads[digest] = self.body
        self._send(200, b"", {"ETag": f'"{digest}"'})

    def _accept_commit(self, name):
        repo = self._repo(name, write=True)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.uploads[value["oid"]]
        commit = _commit(repo.files)
        self._json({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.address}/{name}/commit/{commit}"})

    def _json(self, value, status=200):
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status, content, headers, cut=None):
        limit = self.hub.cut.pop(cut, None) if self.command == "GET" else None
        shown = b"" if self.command == "HEAD" else content[:limit]
        self.hub.log.append(
            Seen(self.command, self.path_only, status, len(shown), self.headers.get("Range"), self._token)
        )
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content)), "Accept-Ranges": "bytes"} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(shown)
        if limit is not None:
            self.close_connection = True
