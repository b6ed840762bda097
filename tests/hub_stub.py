"""A small Hub on localhost: enough of its HTTP API to create, commit to and read model and dataset repositories.

It keeps everything in memory, one snapshot of the files per commit, and speaks to the real `huggingface_hub`,
`datasets` and `transformers`. It fails on request, as the Hub, what lies before it, and the wires do. Left out: Xet
(set `HF_HUB_DISABLE_XET=1`), tags, and all of discussions but the list of open pull requests.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep
from typing import Any
from urllib.parse import parse_qs, unquote, urlparse

import yaml


TOKEN = "hf_" + "stubtoken" * 4
TEXT_SUFFIXES = (".md", ".json", ".yaml", ".txt", ".py", ".gitattributes")
LICENSES = ("apache-2.0", "cc-by-4.0", "mit", "other")
Commit = tuple[str, str, dict[str, bytes]]


@dataclass
class Repo:
    """One repository: a list of (commit, message, files) for each branch, the newest last.

    Attributes:
        commits (`list`): Of the branch `main`.
        branches (`dict[str, list]`): Of the others, pull requests (`refs/pr/1`) among them.
    """

    private: bool = False
    commits: list[Commit] = field(
        default_factory=lambda: [(hashlib.sha1(b"initial commit").hexdigest(), "initial commit", {})]
    )
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def branch(self, revision: str | None) -> list[Commit] | None:
        return self.commits if revision in (None, "main") else self.branches.get(revision)

    def commit_at(self, revision: str | None) -> Commit | None:
        """The newest of a branch, or the one of that hash."""
        if (branch := self.branch(revision)) is not None:
            return branch[-1]
        everything = [commit for commits in (self.commits, *self.branches.values()) for commit in commits]
        return next((commit for commit in everything if commit[0] == revision), None)

    def at(self, revision: str | None) -> dict[str, bytes] | None:
        commit = self.commit_at(revision)
        return None if commit is None else commit[2]


class HubStub(ThreadingHTTPServer):
    """The server. `with HubStub() as hub:` serves at `hub.url` until the block ends.

    Attributes:
        repos (`dict`): Keyed by ("model" or "dataset", "owner/name").
        requests (`list` of (`str`, `str`)): Method and path of every request so far.
        failures (`Counter`): `hub.failures["commit"] = 2` answers the next two commits with 503; "create" likewise.
        faults (`dict[str, list]`): What becomes of the next requests of a route, by the name of its function below:
            a status, or it with headers (`(429, {"Retry-After": "3"})`); `"reset"`, before the request is looked at;
            `"late"`, the same after `hub.late` seconds; `"lost"`, `"lost late"` and `("lost", 504)`, after the work is
            done; None for none.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: Counter = Counter()
        self.faults: dict[str, list[Any]] = defaultdict(list)
        self.jobs: list[dict[str, Any]] = []  # that were submitted
        self.late = 0.5
        self.lock = threading.RLock()

    def __enter__(self) -> "HubStub":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def dataset(self, repo_id: str) -> Repo:
        return self.repos["dataset", repo_id]

    def model(self, repo_id: str) -> Repo:
        return self.repos["model", repo_id]

    def commits_made(self, repo_id: str) -> int:
        """How many commit requests reached `repo_id`, failed ones included."""
        return sum(method == "POST" and f"/{repo_id}/commit/" in path for method, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubStub
    muted = False

    def handle_request(self):
        url = urlparse(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(url.query)
        path = unquote(url.path)
        found = ((route, match) for pattern, route in _ROUTES if (match := re.fullmatch(pattern, path)))
        route, match = next(found, (None, None))
        with self.server.lock:
            self.server.requests.append((self.command, path))
            if route is None:
                return self.reply({"error": f"no such route: {path}"}, status=404)
            waiting = self.server.faults[route.__name__]
            fault = waiting.pop(0) if waiting else None
        lost = str(fault[0] if isinstance(fault, tuple) else fault).startswith("lost")
        if fault is None or lost:
            with self.server.lock:
                self.muted = lost
                if self.headers.get("Authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
                    self.refuse()
                else:
                    route(self, *match.groups())
                self.muted = False
        if fault is not None:
            self.fail(fault)

    def fail(self, fault: Any):
        status = fault if isinstance(fault, int) else fault[0] if isinstance(fault, tuple) else 0
        if status == "lost":
            return self.reply({"error": "Gateway Time-out"}, fault[1])
        if status:
            return self.reply({"error": "as asked for"}, status, **(fault[1] if isinstance(fault, tuple) else {}))
        if "late" in fault:
            sleep(self.server.late)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_request

    def log_message(self, *_):
        pass

    def reply(self, content=None, status: int = 200, data: bytes | None = None, **headers: str):
        if self.muted:
            return
        data = json.dumps(content).encode() if data is None else data
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def missing(self, code: str, message: str):
        self.reply({"error": message}, 404, X_Error_Code=code, X_Error_Message=message)

    def authorized(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def refuse(self):
        said = "Invalid credentials in Authorization header"
        self.reply({"error": said}, 401, X_Error_Message=said)

    def find(self, kind: str, repo_id: str) -> Repo | None:
        """The repository, or None after answering as the Hub does: a private one does not exist for a stranger."""
        repo = self.server.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self.authorized()):
            self.missing("RepoNotFound", "Repository Not Found")
            return None
        return repo

    def fails(self, action: str) -> bool:
        if self.server.failures[action] <= 0:
            return False
        self.server.failures[action] -= 1
        self.reply({"error": "Service Unavailable"}, 503)
        return True

    # --- routes ---------------------------------------------------------------------------------------------------

    def whoami(self):
        if not self.authorized():
            return self.refuse()
        self.reply({"type": "user", "name": "me", "fullname": "me", "orgs": [], "auth": {}})

    def run_job(self, owner: str):
        if not self.authorized():
            return self.refuse()
        self.server.jobs.append(json.loads(self.body))
        owned = {"id": "1", "name": owner, "type": "user"}
        self.reply({"id": "0a1b2c", "owner": owned, "status": {"stage": "RUNNING"}})

    def create_repo(self):
        if not self.authorized():
            return self.refuse()
        if self.fails("create"):
            return None
        request = json.loads(self.body)
        kind = request.get("type", "model")
        repo_id = f"{request.get('organization') or 'me'}/{request['name']}"
        answer = {"url": f"{self.server.url}/{_prefix(kind)}{repo_id}", "name": repo_id, "id": repo_id}
        if (kind, repo_id) in self.server.repos:
            return self.reply({**answer, "error": "You already created this repo"}, 409)
        # huggingface_hub sends the former before 1.8, the latter since.
        private = request.get("private", request.get("visibility") == "private")
        self.server.repos[kind, repo_id] = Repo(private=private)
        self.reply(answer)

    def validate_yaml(self):
        metadata = yaml.safe_load(json.loads(self.body)["content"].split("---\n")[1])
        if metadata.get("license", "mit") in LICENSES:
            return self.reply({"errors": [], "warnings": []})
        said = f'"license" must be one of [{", ".join(LICENSES)}]'
        self.reply({"errors": [{"message": said}], "warnings": []}, 400)

    def repo_info(self, kind: str, repo_id: str, revision: str | None = None):
        if (repo := self.find(kind, repo_id)) is None:
            return None
        if (commit := repo.commit_at(revision)) is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        sha, _, files = commit
        moment = "2026-01-01T00:00:00.000Z"
        self.reply(
            {
                "_id": "0",
                "id": repo_id,
                "sha": sha,
                "private": repo.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": moment,
                "createdAt": moment,
                "siblings": [{"rfilename": name, "size": len(data)} for name, data in files.items()],
            }
        )

    def tree(self, kind: str, repo_id: str, revision: str, folder: str | None):
        if (repo := self.find(kind, repo_id)) is None:
            return None
        if (files := repo.at(revision)) is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        prefix = f"{folder.strip('/')}/" if folder and folder.strip("/") else ""
        if prefix and not any(name.startswith(prefix) for name in files):
            return self.missing("EntryNotFound", f"{folder} does not exist")
        entries = [_folder(name) for name in _folders(files)] + [_entry(name, data) for name, data in files.items()]
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("1", "true")
        self.reply(
            [
                entry
                for entry in entries
                if entry["path"].startswith(prefix) and (recursive or "/" not in entry["path"][len(prefix) :])
            ]
        )

    def paths_info(self, kind: str, repo_id: str, revision: str):
        if (repo := self.find(kind, repo_id)) is None:
            return None
        files = repo.at(revision) or {}
        if self.body.startswith(b"{"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        folders = _folders(files)
        self.reply(
            [_entry(name, files[name]) for name in paths if name in files]
            + [_folder(name) for name in paths if name in folders]
        )

    def preupload(self, kind: str, repo_id: str, revision: str):
        if not self.authorized():
            return self.refuse()
        if (repo := self.find(kind, repo_id)) is None:
            return None
        held = repo.at(revision) or {}
        self.reply(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "regular" if file["path"].endswith(TEXT_SUFFIXES) else "lfs",
                        "shouldIgnore": False,
                        "oid": _oid(file["path"], held[file["path"]]) if file["path"] in held else None,
                    }
                    for file in json.loads(self.body)["files"]
                ]
            }
        )

    def commit(self, kind: str, repo_id: str, revision: str):
        if not self.authorized():
            return self.refuse()
        if (repo := self.find(kind, repo_id)) is None or self.fails("commit"):
            return None
        if (branch := repo.branch(revision)) is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        head, _, files = branch[-1]
        files, message, asked = dict(files), "", "create_pr" in self.query
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    return self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = hashlib.sha1(self.body + head.encode()).hexdigest()
        address = f"{self.server.url}/{_prefix(kind)}{repo_id}"
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{address}/commit/{sha}", "hookOutput": ""}
        if asked:
            number = 1 + len(self.pull_requests(repo))
            repo.branches[f"refs/pr/{number}"] = [*branch, (sha, message, files)]
            answer["pullRequestUrl"] = f"{address}/discussions/{number}"
        else:
            branch.append((sha, message, files))
        self.reply(answer)

    def create_branch(self, kind: str, repo_id: str, name: str):
        if (repo := self.find(kind, repo_id)) is not None:
            repo.branches[name] = [repo.commits[-1]]
            self.reply({})

    def pull_requests(self, repo: Repo) -> list[str]:
        return [name for name in repo.branches if name.startswith("refs/pr/")]

    def discussions(self, kind: str, repo_id: str):
        if (repo := self.find(kind, repo_id)) is None:
            return
        opened = [
            {
                "title": repo.branches[name][-1][1],
                "num": int(name.rpartition("/")[2]),
                "author": {"name": "me"},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "open",
                "repo": {"name": repo_id, "type": kind},
                "isPullRequest": True,
            }
            for name in self.pull_requests(repo)
        ]
        self.reply({"discussions": opened, "count": len(opened), "start": 0})

    def lfs_batch(self):
        if not self.authorized():
            return self.refuse()
        objects = []
        for item in json.loads(self.body)["objects"]:
            known = item["oid"] in self.server.blobs
            upload = {"upload": {"href": f"{self.server.url}/blobs/{item['oid']}", "header": {}}}
            objects.append({**item, "authenticated": True, **({} if known else {"actions": upload})})
        self.reply({"transfer": "basic", "objects": objects})

    def put_blob(self, oid: str):
        self.server.blobs[oid] = self.body
        self.reply({})

    def resolve(self, kind: str | None, repo_id: str, revision: str, name: str):
        if (repo := self.find(kind or "model", repo_id)) is None:
            return None
        if (commit := repo.commit_at(revision)) is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        sha, _, files = commit
        if name not in files:
            return self.missing("EntryNotFound", "Entry not found")
        data, status = files[name], 200
        headers = {"X_Repo_Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept_Ranges": "bytes"}
        if self.command == "GET" and (requested := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(requested[1]), min(int(requested[2] or len(data)), len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.reply(data=data, status=status, **headers)


_REPO = r"/api/(model|dataset)s/([^/]+/[^/]+)"
_REVISION = r"(refs/pr/\d+|[^/]+)"
_ROUTES = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create_repo),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (r"/api/jobs/([^/]+)", _Handler.run_job),
    (_REPO, _Handler.repo_info),
    (_REPO + r"/revision/" + _REVISION, _Handler.repo_info),
    (_REPO + r"/tree/" + _REVISION + r"(/.*)?", _Handler.tree),
    (_REPO + r"/paths-info/" + _REVISION, _Handler.paths_info),
    (_REPO + r"/preupload/" + _REVISION, _Handler.preupload),
    (_REPO + r"/commit/" + _REVISION, _Handler.commit),
    (_REPO + r"/branch/([^/]+)", _Handler.create_branch),
    (_REPO + r"/discussions", _Handler.discussions),
    (r"/.+/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/blobs/([0-9a-f]{64})", _Handler.put_blob),
    (r"/(?:(dataset)s/)?([^/]+/[^/]+)/resolve/" + _REVISION + r"/(.+)", _Handler.resolve),
]


def _prefix(kind: str) -> str:
    return "datasets/" if kind == "dataset" else ""


def _folders(files: dict[str, bytes]) -> list[str]:
    return sorted({name[:at] for name in files for at in range(len(name)) if name[at] == "/"})


def _folder(name: str) -> dict:
    return {"type": "directory", "path": name, "oid": "0", "size": 0}


def _entry(name: str, data: bytes) -> dict:
    entry = {
        "type": "file",
        "path": name,
        "size": len(data),
        "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(),
    }
    if not name.endswith(TEXT_SUFFIXES):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def _oid(name: str, data: bytes) -> str:
    """What the Hub compares a file by: git's hash of a text, the SHA-256 of what is kept by LFS."""
    entry = _entry(name, data)
    return entry.get("lfs", entry)["oid"]
