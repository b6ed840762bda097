"""The Hub's answers: which are tried again, and what each that is not means for a user, in one line."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from ..errors import InstructMineError, one_line
from ..versions import check_versions


check_versions("huggingface-hub")


T = TypeVar("T")

# Seconds between attempts: the Hub's 5xx and 429 answers usually pass within a minute.
RETRY_DELAYS = (1, 4, 15)
# Seconds that the Hub may make us wait between attempts; what asks for more is told to the user.
MOST_WAIT = 60
PASSING = (408, 429, 500, 502, 503, 504)

_WRITING = {
    401: "the token is not valid, or not any more: run `hf auth login`, or pass another as token=…",
    402: "the account has to pay for it first: see https://huggingface.co/settings/billing",
    403: "the token may not write there: give it the right at https://huggingface.co/settings/tokens, or push under "
    "a name of your own",
    404: "there is no such repository, or the token may not see it: check the name and the token",
    409: "another change of it is under way: push again in a minute",
    412: "somebody else changed it meanwhile: push again",
    413: "a file is too large for it: pass a smaller max_shard_size",
    429: "these were too many requests: push again {wait}",
    507: "its storage is full: free some, or get more at https://huggingface.co/settings/billing",
}
_READING = {
    401: "the token is not valid, or the repository is private: run `hf auth login`, or pass another as token=…",
    403: "the token may not read it: ask for access on its page, or use a token that has it",
    404: "check the id, the repository's type and your token, without which a private one is not shown",
    429: "these were too many requests: try again {wait}",
}


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


def with_retries(request: Callable[[], T]) -> T:
    """Sends a request again, `len(RETRY_DELAYS)` times, where the Hub's answer will pass or none came.

    For requests that `huggingface_hub` does not repeat itself, as it does uploads. The Hub's Retry-After is kept to,
    up to `MOST_WAIT` seconds.

    Args:
        request (`Callable`): Sends it; safe to be sent twice.
    """
    for delay in RETRY_DELAYS:
        try:
            return request()
        except Exception as error:
            if not passes(error):
                raise
            pause(delay, error)
    return request()


def pause(delay: float, error: Exception) -> None:
    """Waits `delay` seconds, or as long as the Hub asked for in its answer, up to `MOST_WAIT`."""
    time.sleep(max(delay, min(retry_after(error) or 0, MOST_WAIT)))


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status of an answer, also where an error that hides it was raised from it; None where none came."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def passes(error: Exception) -> bool:
    """Whether the same request may succeed a little later: 429, 5xx, a reset or late connection."""
    from huggingface_hub.errors import HTTPError

    status = status_of(error)
    return isinstance(error, HTTPError) and (status is None or status in PASSING)


def is_unsure(error: Exception) -> bool:
    """Whether the Hub may have done what was asked although its answer says no, or did not come."""
    from huggingface_hub.errors import HTTPError

    status = status_of(error)
    never_sent = type(error).__name__ in ("ConnectError", "ConnectTimeout", "ProxyError")
    return (
        isinstance(error, HTTPError) and not never_sent and (status is None or (status in PASSING and status != 429))
    )


def retry_after(error: BaseException) -> float | None:
    """Seconds until the Hub wants to be asked again, from its header in seconds or as a date; None where none is."""
    text = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def refusal(error: Exception, repo_id: str) -> str:
    """What kept a push to a repository from being done, and the mend, as one line without a full stop.

    Args:
        error (`Exception`): Of `huggingface_hub` or the HTTP library below it.
        repo_id (`str`): Where to.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled, RevisionNotFoundError

    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "offline mode is on: unset HF_HUB_OFFLINE to push to the Hub"
    if isinstance(error, RevisionNotFoundError):
        return f"'{repo_id}' has no such branch: make it with `hf repos branch create`, or leave revision out"
    if isinstance(error, HfHubHTTPError):
        return f"the Hub refused to push to '{repo_id}' (status {status}): {_mend(error, _WRITING, 'push again')}"
    if isinstance(error, HTTPError):  # of httpx or, since huggingface_hub 2.0, httpx2
        return f"the Hub at {constants.ENDPOINT} cannot be reached ({one_line(error)}): push again later"
    # What huggingface_hub and hf_xet make of any failure while they upload a large file.
    said = one_line(error).rstrip(".")
    if status in (401, 403, 404):  # of the storage, whose addresses hold for a while
        return f"{said} (status {status}): its address holds no more: push again, and check this machine's clock"
    if status is not None:
        return f"{said} (status {status}): {_mend(error.__cause__, _WRITING, 'push again')}"
    cause = f" ({one_line(error.__cause__)})" if error.__cause__ is not None else ""
    return f"an upload to '{repo_id}' failed: {said}{cause}: push again later"


def unreadable(error: Exception, what: str) -> str:
    """Why something could not be read from the Hub, and the mend, as one line.

    Args:
        error (`Exception`): Of `huggingface_hub` or the HTTP library below it.
        what (`str`): What was to be read, such as "the model 'me/my-rule'".
    """
    from huggingface_hub.errors import RevisionNotFoundError

    status = status_of(error)
    if isinstance(error, RevisionNotFoundError):
        return f"{what} has no such revision: check its name, or leave revision out"
    if status is not None:
        return f"the Hub refused {what} (status {status}): {_mend(error, _READING, 'try again')}"
    return f"the connection to the Hub broke while {what} was read ({one_line(error)}): try again"


def _mend(error: BaseException | None, mends: dict[int, str], again: str) -> str:
    while error is not None and getattr(error, "response", None) is None:
        error = error.__cause__
    status = status_of(error)
    if status in mends:
        seconds = retry_after(error) if error is not None else None
        return mends[status].format(wait="in a few minutes" if seconds is None else f"in {seconds:.0f} seconds")
    if (status is not None and status >= 500) or status == 408:
        return f"it fails for now, see https://status.huggingface.co: {again} later"
    return f"it says: {one_line(error) if error is not None else 'nothing'}"
