"""A small Hub on localhost: enough of its HTTP API to create, commit to and read model and dataset repositories.

It keeps everything in memory, one snapshot of the files per commit, and speaks to the real `huggingface_hub`,
`datasets` and `transformers`. Left out: Xet (set `HF_HUB_DISABLE_XET=1`), branches, tags and discussions.
"""

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlparse


TOKEN = "hf_" + "stubtoken" * 4
TEXT_SUFFIXES = (".md", ".json", ".yaml", ".txt", ".py", ".gitattributes")


@dataclass
class Repo:
    """One repository: a list of (commit, message, files), the newest last."""

    private: bool = False
    commits: list[tuple[str, str, dict[str, bytes]]] = field(
        default_factory=lambda: [(hashlib.sha1(b"initial commit").hexdigest(), "initial commit", {})]
    )

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][2]

    def at(self, revision: str | None) -> dict[str, bytes] | None:
        if revision in (None, "main"):
            return self.files
        return next((files for sha, _, files in self.commits if sha == revision), None)


class HubStub(ThreadingHTTPServer):
    """The server. `with HubStub() as hub:` serves at `hub.url` until the block ends.

    Attributes:
        repos (`dict`): Keyed by ("model" or "dataset", "owner/name").
        requests (`list` of (`str`, `str`)): Method and path of every request so far.
        failures (`Counter`): `hub.failures["commit"] = 2` answers the next two commits with 503; "create" likewise.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[tuple[str, str], Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: Counter = Counter()
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

    def handle_request(self):
        url = urlparse(self.path)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.query = parse_qs(url.query)
        path = unquote(url.path)
        with self.server.lock:
            self.server.requests.append((self.command, path))
            for pattern, route in _ROUTES:
                if match := re.fullmatch(pattern, path):
                    return route(self, *match.groups())
        self.reply({"error": f"no such route: {path}"}, status=404)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_request

    def log_message(self, *_):
        pass

    def reply(self, content=None, status: int = 200, data: bytes | None = None, **headers: str):
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
        self.reply({"error": "Invalid username or password."}, 401)

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
        self.reply({"errors": [], "warnings": []})

    def repo_info(self, kind: str, repo_id: str, revision: str | None = None):
        if (repo := self.find(kind, repo_id)) is None:
            return None
        if (files := repo.at(revision)) is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        moment = "2026-01-01T00:00:00.000Z"
        self.reply(
            {
                "_id": "0",
                "id": repo_id,
                "sha": repo.sha if revision in (None, "main") else revision,
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
        self.reply(
            {
                "files": [
                    {
                        "path": file["path"],
                        "uploadMode": "regular" if file["path"].endswith(TEXT_SUFFIXES) else "lfs",
                        "shouldIgnore": False,
                        "oid": None,
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
        files, message = dict(repo.files), ""
        for operation in map(json.loads, self.body.splitlines()):
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, repo.sha):
                    return self.reply({"error": "A commit has happened since. Please refresh and try again."}, 412)
            elif operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
            elif operation["key"] == "deletedFile":
                files.pop(value["path"], None)
        sha = hashlib.sha1(self.body + repo.sha.encode()).hexdigest()
        repo.commits.append((sha, message, files))
        url = f"{self.server.url}/{_prefix(kind)}{repo_id}/commit/{sha}"
        self.reply({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

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
        files = repo.at(revision)
        if files is None:
            return self.missing("RevisionNotFound", f"Invalid rev id: {revision}")
        if name not in files:
            return self.missing("EntryNotFound", "Entry not found")
        data, status = files[name], 200
        sha = repo.sha if revision == "main" else revision
        headers = {"X_Repo_Commit": sha, "ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept_Ranges": "bytes"}
        if self.command == "GET" and (requested := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))):
            first, last = int(requested[1]), min(int(requested[2] or len(data)), len(data) - 1)
            headers["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[first : last + 1], 206
        self.reply(data=data, status=status, **headers)


_REPO = r"/api/(model|dataset)s/([^/]+/[^/]+)"
_ROUTES = [
    (r"/api/whoami-v2", _Handler.whoami),
    (r"/api/repos/create", _Handler.create_repo),
    (r"/api/validate-yaml", _Handler.validate_yaml),
    (_REPO, _Handler.repo_info),
    (_REPO + r"/revision/([^/]+)", _Handler.repo_info),
    (_REPO + r"/tree/([^/]+)(/.*)?", _Handler.tree),
    (_REPO + r"/paths-info/([^/]+)", _Handler.paths_info),
    (_REPO + r"/preupload/([^/]+)", _Handler.preupload),
    (_REPO + r"/commit/([^/]+)", _Handler.commit),
    (r"/.+/info/lfs/objects/batch", _Handler.lfs_batch),
    (r"/blobs/([0-9a-f]{64})", _Handler.put_blob),
    (r"/(?:(dataset)s/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
]


def _prefix(kind: str) -> str:
    return "datasets/" if kind == "dataset" else ""


def _folders(files: dict[str, bytes]) -> list[str]:
    return sorted({name[:at] for name in files for at in range(len(name)) if name[at] == "/"})


def _folder(name: str) -> dict:
    return {"type": "directory", "path": name, "oid": "0", "size": 0}


def _entry(name: str, data: bytes) -> dict:
    return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
