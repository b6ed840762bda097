"""The one way to the Hub: our files and a card made for the repository, in one commit or not at all.

Whatever can be refused is refused before a repository is made. What cannot be known, because an answer was lost, is
looked up. `huggingface_hub` does the transport.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError, one_line
from . import hub
from .hub import check_repo_id, is_unsure, passes, pause, refusal, require_token, status_of, with_retries
from .hub_card import files_of, merge_card
from .shards import MAX_SHARD_SIZE, cut, parse_size, shard_pattern, write_shards


if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import CommitOperationAdd, HfApi


CARD = "README.md"
# Seconds until an answer that does not come is given up; uploads and commits may take as long as they need.
PATIENCE = 60
# Files that a push may take away again: of these names, and named as ours by the card in the repository.
_OURS = re.compile(r"data/train-\d{5}-of-\d{5}\.parquet|(?:figures/)?\w[\w.-]*\.(?:json|npz|parquet|pdf|png|svg)")


class Pushed(str):
    """A repository's id, owner included, with what came of a push.

    Attributes:
        changed (`bool`): Whether a commit was made; not where the repository held all of it already.
        pull_request (`str`, *optional*): The address of the pull request, where one was asked for.
        files (`list[str]`): The names of the files.
        card (`str`): The text of the card.
    """

    changed: bool
    pull_request: str | None
    files: list[str]
    card: str

    def __new__(
        cls,
        repo_id: str,
        changed: bool = True,
        pull_request: str | None = None,
        files: Iterable[str] = (),
        card: str = "",
    ) -> "Pushed":
        """The id as a string that knows the rest."""
        pushed = super().__new__(cls, repo_id)
        pushed.changed, pushed.pull_request = changed, pull_request
        pushed.files, pushed.card = sorted(files), card
        return pushed


@dataclass
class Content:
    """What is pushed.

    Attributes:
        repo_type (`str`): `"dataset"` or `"model"`.
        message (`str`): The first line of the commit.
        write (`Callable[[Path, str], None]`): Writes every file but the rows to a folder, with a card for the
            repository of that id. All of them are pushed.
        rows (`Dataset`, *optional*): The table that `load_dataset` is to open.
    """

    repo_type: str
    message: str
    write: Callable[[Path, str], None]
    rows: "Dataset | None" = None


def publish(
    content: Content,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    overwrite: bool = False,
) -> Pushed:
    """Pushes as one commit, to a repository that is made where absent.

    Args:
        content ([`Content`]): What is pushed.
        repo_id (`str`): `"owner/name"`, or `"name"` for one's own.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        token (`str`, *optional*): Token with write access; by default the one logged in with.
        revision (`str`, *optional*): Branch to commit to, which has to exist; by default `main`.
        create_pr (`bool`, *optional*, defaults to `False`): Whether to open a pull request in place of a commit.
        commit_message (`str`, *optional*): The first line of the commit.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Bytes of Arrow in a Parquet file. Shards
            are written and uploaded one after another, so that no more than one lies on the disk.
        overwrite (`bool`, *optional*, defaults to `False`): Whether a card in the repository is replaced where ours
            cannot be merged into it.

    Raises:
        [`InstructMineError`]: Where something is refused, here or by the Hub, or the Hub stays out of reach. It says
            the mend, whether anything was pushed, and whether a repository was made for it.
    """
    from huggingface_hub import HfApi

    token, most = require_token(token), parse_size(max_shard_size)
    check_repo_id(repo_id)
    if commit_message is not None and not commit_message.strip():
        raise InstructMineError("commit_message is empty: say what the commit is, or leave it out")
    push = _Push(
        HfApi(token=token), repo_id, content.repo_type, commit_message or content.message, private, revision, create_pr
    )
    with push.told(), TemporaryDirectory() as stage:
        push.look()
        files = Path(stage, "files")
        files.mkdir()
        content.write(files, push.repo_id)
        shards = [] if content.rows is None else cut(content.rows, most)
        named = sorted({path.relative_to(files).as_posix() for path in files.rglob("*") if path.is_file()} - {CARD})
        named += [shard_pattern(len(shards))] if shards else []
        card = (files / CARD).read_text("utf-8")
        push.card = merge_card(push.earlier_card, card, named, push.repo_id, overwrite)
        push.validate()
        (files / CARD).write_text(push.card, "utf-8")
        push.create()
        push.upload(files, (path for path in files.rglob("*") if path.is_file()))
        if content.rows is not None:
            for path in write_shards(content.rows, shards, Path(stage, "rows")):
                push.upload(Path(stage, "rows"), [path])
                push.drop(path)
        push.take_away([*named, CARD])
        return push.commit()


@dataclass
class _Push:
    """A push on its way: what the repository holds, and what is to be changed."""

    api: "HfApi"
    repo_id: str
    repo_type: str
    message: str
    private: bool
    revision: str | None
    create_pr: bool
    exists: bool = False
    made: bool = False
    unsure: bool = False
    head: str | None = None
    held: set[str] = field(default_factory=set)
    earlier_card: bytes | None = None
    card: str = ""
    additions: "dict[str, CommitOperationAdd]" = field(default_factory=dict)
    digests: dict[str, tuple[str, str]] = field(default_factory=dict)
    deletions: list[str] = field(default_factory=list)

    @property
    def where(self) -> dict[str, Any]:
        """The repository, as the methods of the API take it."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}

    @contextmanager
    def told(self) -> Iterator[None]:
        """Makes one line of every failure: what it was, the mend, and what was left behind."""
        from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

        try:
            yield
        except InstructMineError as error:
            if not self.made:
                raise
            raise InstructMineError(f"{error}; {self._left()}") from error
        except (HTTPError, OfflineModeIsEnabled, RuntimeError) as error:
            raise InstructMineError(f"{refusal(error, self.repo_id)}; {self._left()}") from error
        except OSError as error:
            # Of the disk, and of hf_xet, which takes its errors from there.
            what = refusal(error, self.repo_id) if error.errno is None else f"cannot write or read ({one_line(error)})"
            raise InstructMineError(f"{what}; {self._left()}") from error

    def look(self) -> None:
        """Finds out whether the repository is there, and refuses what it does not allow.

        Raises:
            [`InstructMineError`]: For a private push to a public one, or a branch or pull request of one that is not
                there.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        if "/" not in self.repo_id:
            self.repo_id = f"{with_retries(self.api.whoami)['name']}/{self.repo_id}"
        try:
            self._read()
        except RepositoryNotFoundError as error:
            if status_of(error) == 401:  # also told of what is not there, to a token that is not valid
                with_retries(self.api.whoami)
            elif status_of(error) != 404:  # 403: gated
                raise
        if not self.exists and (self.create_pr or self.revision not in (None, "main")):
            what = "pull request" if self.create_pr else f"branch '{self.revision}'"
            raise InstructMineError(f"there is no '{self.repo_id}' yet to have a {what}: push without, first")

    def _read(self) -> None:
        from huggingface_hub import get_session, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        info = with_retries(lambda: self.api.repo_info(**self.where, revision=self.revision, timeout=PATIENCE))
        self.repo_id, self.exists, self.head = info.id, True, info.sha
        self.held = {file.rfilename for file in getattr(info, "siblings", None) or []}
        if self.private and not info.private:
            raise InstructMineError(
                f"'{self.repo_id}' exists and is public, so private=True cannot be kept: nothing was pushed; "
                "make it private in its settings, or choose another name"
            )
        if CARD in self.held:
            url = hf_hub_url(self.repo_id, CARD, repo_type=self.repo_type, revision=self.head)

            def download() -> Any:
                answer = get_session().get(url, headers=build_hf_headers(token=self.api.token), timeout=PATIENCE)
                hf_raise_for_status(answer)
                return answer

            self.earlier_card = with_retries(download).content

    def validate(self) -> None:
        """Asks the Hub whether it accepts the card's metadata.

        Raises:
            [`InstructMineError`]: With what it does not accept, such as a licence that it does not know.
        """
        from huggingface_hub import constants, get_session
        from huggingface_hub.errors import BadRequestError
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

        def ask() -> None:
            answer = get_session().post(
                f"{constants.ENDPOINT}/api/validate-yaml",
                json={"content": self.card, "repoType": self.repo_type},
                headers=build_hf_headers(token=self.api.token),
                timeout=PATIENCE,
            )
            try:
                hf_raise_for_status(answer)
            except BadRequestError as error:
                said = "; ".join(str(found.get("message")) for found in answer.json().get("errors", []))
                raise InstructMineError(
                    f"the Hub does not accept the card's metadata ({' '.join(said.split()):.300}): mend what it "
                    f"names, such as the licence; nothing was pushed to '{self.repo_id}'"
                ) from error

        with_retries(ask)

    def create(self) -> None:
        """Makes the repository where there is none."""
        if self.exists:
            return
        try:
            with_retries(lambda: self.api.create_repo(**self.where, private=self.private, exist_ok=True))
        except Exception as error:
            # The last answer may have been lost: what then was made is told.
            self.made = is_unsure(error) and self._is_there_now()
            raise
        self.made = True
        self._read()

    def _is_there_now(self) -> bool:
        try:
            return self.api.repo_exists(**self.where)
        except Exception:  # out of reach: the failure that is told already says so
            return False

    def upload(self, folder: Path, paths: Any) -> None:
        """Uploads those files of a folder that the repository does not hold as they are; they are not shown yet."""
        from huggingface_hub import CommitOperationAdd

        named = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
        digests = {name: _digests(path) for name, path in named.items()}
        self.digests |= digests
        same = with_retries(lambda: self._same(digests, self.head))
        new = {name: CommitOperationAdd(name, path) for name, path in named.items() if name not in same}
        try:
            if new:
                # The client repeats these requests itself, five times, and frees what it has sent.
                self.api.preupload_lfs_files(
                    **self.where, additions=new.values(), revision=self.revision, create_pr=self.create_pr
                )
        except ValueError as error:  # what it makes of refused files
            raise RuntimeError(one_line(error)) from error
        self.additions |= new

    def drop(self, path: Path) -> None:
        """Removes a file that is uploaded; small ones, which travel with the commit, stay."""
        waiting = {str(addition.path_or_fileobj) for addition in self.additions.values()}
        if str(path) not in waiting:
            path.unlink()

    def take_away(self, kept: list[str]) -> None:
        """Marks those files for deletion that an earlier push wrote and this one does not."""
        earlier = [name for name in files_of(self.earlier_card) if _is_name_of_ours(name)]
        stale = {name for name in self.held for pattern in earlier if fnmatch(name, pattern)}
        self.deletions = sorted(
            name for name in stale if _OURS.fullmatch(name) and not any(fnmatch(name, pattern) for pattern in kept)
        )

    def commit(self) -> Pushed:
        """Makes the commit; where its answer is lost, looks whether it was made before it is tried again."""
        from huggingface_hub import CommitOperationDelete

        deletions = [CommitOperationDelete(name) for name in self.deletions]
        if not self.additions and not deletions:
            return Pushed(self.repo_id, changed=False, files=self.digests, card=self.card)
        doubt = False
        for delay in (*hub.RETRY_DELAYS, None):
            try:
                done = self.api.create_commit(
                    **self.where,
                    operations=[*self.additions.values(), *deletions],
                    commit_message=self.message,
                    revision=self.revision,
                    create_pr=self.create_pr,
                    parent_commit=self.head,
                )
                return Pushed(self.repo_id, pull_request=done.pr_url, files=self.digests, card=self.card)
            except Exception as error:
                if passes(error) and (delay is not None or is_unsure(error)):
                    pause(hub.RETRY_DELAYS[-1] if delay is None else delay, error)
                # After a while, for the Hub may still be at work; 412 may be of a commit that came in since.
                doubt = doubt or is_unsure(error)
                found = self._find(last=delay is None or not passes(error)) if doubt else None
                if found is not None:
                    return found
                if delay is None or not passes(error):
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _find(self, last: bool) -> Pushed | None:
        """The commit of an earlier attempt, by its content; None where it is not there, or cannot be looked for.

        Args:
            last (`bool`): Whether no further attempt follows, so that the look is worth repeating.
        """
        look = with_retries if last else _once
        try:
            if not self.create_pr:
                there = look(lambda: self._holds_all(self.revision))
                found = Pushed(self.repo_id, files=self.digests, card=self.card) if there else None
            else:
                url = look(self._pull_request)
                found = Pushed(self.repo_id, pull_request=url, files=self.digests, card=self.card) if url else None
        except Exception:  # out of reach: then it is told that it is not known
            self.unsure = True
            return None
        self.unsure = False
        return found

    def _pull_request(self) -> str | None:
        kinds: dict[str, Any] = {"discussion_type": "pull_request", "discussion_status": "open"}
        for discussion in self.api.get_repo_discussions(**self.where, **kinds):
            if discussion.title == self.message and self._holds_all(f"refs/pr/{discussion.num}"):
                return discussion.url
        return None

    def _holds_all(self, revision: str | None) -> bool:
        gone = not self.deletions or not self._infos(self.deletions, revision)
        return gone and len(self._same(self.digests, revision)) == len(self.digests)

    def _same(self, digests: dict[str, tuple[str, str]], revision: str | None) -> set[str]:
        """Those files that the repository holds as they are."""
        names = list(digests) if revision != self.head else [name for name in digests if name in self.held]
        found = self._infos(names, revision) if names else []
        return {
            file.path
            for file in found
            if (file.lfs.sha256 if file.lfs else file.blob_id) in digests.get(file.path, ())
        }

    def _infos(self, names: list[str], revision: str | None) -> list[Any]:
        found = self.api.get_paths_info(**self.where, paths=names, revision=revision)
        return [entry for entry in found if hasattr(entry, "blob_id")]

    def _left(self) -> str:
        """What a failed push leaves on the Hub."""
        from huggingface_hub import constants

        if self.unsure:
            kind = "datasets/" if self.repo_type == "dataset" else ""
            return f"whether it was pushed is not known: see {constants.ENDPOINT}/{kind}{self.repo_id}"
        if self.made:
            kind = "private" if self.private else "public"
            return (
                f"nothing was pushed; '{self.repo_id}', made for it, is left as an empty {kind} repository: push "
                f"again, or delete it with `hf repos delete {self.repo_id} --type {self.repo_type}`"
            )
        return "nothing was pushed"


def _once(request: Callable[[], Any]) -> Any:
    return request()


def _is_name_of_ours(pattern: str) -> bool:
    """Whether a card may name it as ours: a card on the Hub is text that others may have written."""
    return _OURS.fullmatch(re.sub(r"^data/train-\*-of-", "data/train-00000-of-", pattern)) is not None


def _digests(path: Path) -> tuple[str, str]:
    """The two names that the Hub has for a file's content: SHA-256, and git's SHA-1 of a blob."""
    whole, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            whole.update(chunk)
            blob.update(chunk)
    return whole.hexdigest(), blob.hexdigest()
