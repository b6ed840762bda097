"""A folder to the Hub in one commit. `huggingface_hub` does the work; here is what it leaves to its caller."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import InstructMineError, one_line
from ..versions import check_versions


check_versions("huggingface-hub")


T = TypeVar("T")

# Seconds between attempts: the Hub's 5xx and 429 answers usually pass within a minute.
RETRY_DELAYS = (1, 4, 15)


def require_token(token: str | None = None) -> str:
    """Returns `token`, or the one that is logged in with.

    Raises:
        [`InstructMineError`]: Where there is none, or it cannot be one.
    """
    from huggingface_hub import get_token

    token = (token or get_token() or "").strip()
    if not token:
        raise InstructMineError("no Hugging Face token: run `hf auth login`, set HF_TOKEN, or pass token=…")
    # Otherwise the HTTP library refuses the header, and quotes the token while doing so.
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise InstructMineError("the Hugging Face token holds spaces or characters that no token has: copy it again")
    return token


def check_repo_id(repo_id: str) -> None:
    """Refuses what cannot be a repository's id.

    Raises:
        [`InstructMineError`]: Says what is wrong with it.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InstructMineError(f"{repo_id!r} is no repository id: {one_line(error)}") from error


def create_repo(repo_id: str, *, repo_type: str, private: bool = False, token: str | None = None) -> str:
    """Creates a repository where there is none.

    Args:
        repo_id (`str`): `"owner/name"`, or `"name"` for one's own.
        repo_type (`str`): `"dataset"` or `"model"`.
        private (`bool`, *optional*, defaults to `False`): Whether a new repository is private.
        token (`str`, *optional*): Token with write access; by default the one logged in with.

    Returns:
        `str`: The repository's id, owner included.

    Raises:
        [`InstructMineError`]: Without a token; where `private` is asked and the repository is a public one; where the
            Hub refuses or stays out of reach.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=require_token(token))
    check_repo_id(repo_id)
    with _one_line_errors(repo_id):
        url = _with_retries(lambda: api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True))
        if private and not api.repo_info(url.repo_id, repo_type=repo_type).private:
            raise InstructMineError(
                f"'{url.repo_id}' exists and is public, so private=True cannot be kept: nothing was pushed; "
                "make it private in its settings, or choose another name"
            )
        return url.repo_id


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    repo_type: str,
    commit_message: str,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Pushes the files of a folder as one commit, to a repository that is created where absent.

    A commit that fails with a 5xx or 429 answer or for want of a connection is tried again, `len(RETRY_DELAYS)` times.

    Args:
        folder (`str` or `Path`): Its files are pushed under their paths in it.
        repo_id, repo_type, private, token: As [`create_repo`] takes them.
        commit_message (`str`): The first line of the commit.

    Returns:
        `str`: The repository's id, owner included.

    Raises:
        [`InstructMineError`]: As [`create_repo`] does.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    full_id = create_repo(repo_id, repo_type=repo_type, private=private, token=token)
    api = HfApi(token=require_token(token))
    files = sorted(file for file in Path(folder).rglob("*") if file.is_file())

    def commit() -> None:
        # Operations remember what was uploaded, so a new attempt needs new ones; the Hub skips files that it has.
        operations = [
            CommitOperationAdd(path_in_repo=file.relative_to(folder).as_posix(), path_or_fileobj=file)
            for file in files
        ]
        api.create_commit(full_id, operations, commit_message=commit_message, repo_type=repo_type)

    with _one_line_errors(full_id):
        _with_retries(commit)
    return full_id


@contextmanager
def _one_line_errors(repo_id: str) -> Iterator[None]:
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled as error:
        raise InstructMineError("offline mode is on: unset HF_HUB_OFFLINE to push to the Hub") from error
    except HfHubHTTPError as error:
        raise InstructMineError(f"the Hub refused to push to '{repo_id}': {one_line(error)}") from error
    except RuntimeError as error:  # what huggingface_hub makes of any failure while it uploads a large file
        raise InstructMineError(f"nothing was pushed to '{repo_id}': {one_line(error)} Try again later") from error
    except HTTPError as error:  # of httpx or, since huggingface_hub 2.0, httpx2
        raise InstructMineError(
            f"the Hub at {constants.ENDPOINT} cannot be reached ({one_line(error)}): nothing was pushed; "
            "try again later"
        ) from error


def _with_retries(request: Callable[[], T]) -> T:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    for delay in RETRY_DELAYS:
        try:
            return request()
        except HfHubHTTPError as error:
            if error.response.status_code not in (429, 500, 502, 503, 504):
                raise
        except HTTPError:  # no answer at all
            pass
        time.sleep(delay)
    return request()
