"""A judge behind any OpenAI-compatible server: retried, cached by content, and silent about its key."""

import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ..errors import InstructMineError, one_line
from ..outputs.digests import digest
from .journal import Journal
from .prompts import Inquiry, Verdict, read_verdict


if TYPE_CHECKING:
    from openai import OpenAI

# Seconds before each further attempt, where the server does not say how long to wait.
RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# A server that asks for more is not waited for.
_LONGEST_WAIT = 600.0
# Tokens of a verdict with its explanation, and of what a judge may think before.
REPLY_TOKENS = 2048
# Shorter keys are words that a server of one's own is given, such as "none" or "EMPTY", and stand in replies.
_LEAST_SECRET = 8
_OPTIONAL = ("response_format", "temperature", "seed", "max_tokens")
_TOO_LONG = ("context_length_exceeded", "string_above_max_length")
_FILTERED = ("content_filter", "content_policy_violation")

logger = logging.getLogger(__name__)


class JudgeUnavailableError(InstructMineError):
    """The judge cannot be asked, now or at all."""


class _TransientError(Exception):
    """What may pass: the server is busy, or an answer did not come through."""

    def __init__(self, told: str, wait: float | None = None):
        super().__init__(told)
        self.wait = wait


class Endpoint:
    """A model behind a server that speaks OpenAI's chat completions.

    Args:
        model (`str`): The model's name there.
        cache ([`Journal`]): Every reply, by a digest of model, messages and parameters.
        base_url (`str`, *optional*): Of the server; `$OPENAI_BASE_URL`, or OpenAI's own, where it is not given.
        seed (`int`, defaults to 0): Sent with every request; not every server reads it.
        concurrency (`int`, defaults to 4): Most requests at once.
        timeout (`float`, defaults to 120): Seconds to wait for an answer.
        retry_delays (`Sequence[float]`): Seconds before each further attempt after 408, 409, 429, 5xx, a time-out, a
            dropped connection or an answer that is no JSON. `Retry-After` lengthens them.

    Raises:
        [`InstructMineError`]: Without the package `openai`, without a key where one is needed, or with a key that
            cannot be one.
    """

    def __init__(
        self,
        model: str,
        cache: Journal,
        base_url: str | None = None,
        seed: int = 0,
        concurrency: int = 4,
        timeout: float = 120.0,
        retry_delays: Sequence[float] = RETRY_DELAYS,
    ):
        if concurrency < 1:
            raise InstructMineError(f"concurrency must be at least 1, not {concurrency}")
        self.model, self.cache = model, cache
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self.concurrency, self.timeout, self.retry_delays = concurrency, timeout, tuple(retry_delays)
        self._key = _read_key(self.base_url)
        self.options: dict[str, Any] = {"temperature": 0.0, "seed": seed, "max_tokens": REPLY_TOKENS}
        self._dropped: set[str] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._replies: dict[str, dict[str, Any]] | None = None
        self._client: OpenAI | None = None

    @property
    def form(self) -> str:
        """How it replies."""
        return "json"

    @property
    def identity(self) -> dict[str, Any]:
        """What verdicts depend on, as plain data: neither key nor address."""
        return {"judge": f"openai:{self.model}", "judge_options": dict(self.options)}

    @property
    def replies(self) -> dict[str, dict[str, Any]]:
        """All replies that are kept, by their key."""
        if self._replies is None:
            self._replies = {line["key"]: line for line in self.cache.read() if "key" in line}
        return self._replies

    def check(self) -> None:
        """Asks for one word, before the first verdict is paid for.

        Raises:
            [`JudgeUnavailableError`]: Where the server cannot be reached, refuses the key, does not serve the model,
                or is no API.
        """
        self._ask({"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 16}, self.retry_delays[:2])

    def verdicts(self, inquiries: Sequence[Inquiry]) -> Iterator[tuple[int, Verdict]]:
        """Asks all, several at once, and yields the number of each with its verdict as it comes.

        Raises:
            [`JudgeUnavailableError`]: Once all requests that were on their way have been yielded.
        """
        self._stop.clear()
        waiting, failure = iter(enumerate(inquiries)), None
        running: dict[Future[Verdict], int] = {}
        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                while True:
                    while failure is None and len(running) < self.concurrency:
                        if (item := next(waiting, None)) is None:
                            break
                        running[pool.submit(self.verdict, item[1])] = item[0]
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        number = running.pop(future)
                        if (error := future.exception()) is None:
                            yield number, future.result()
                        else:
                            failure = failure or error
                            self._stop.set()  # those that wait for another attempt need not
            finally:
                self._stop.set()
        if failure is not None:
            raise failure

    def verdict(self, inquiry: Inquiry) -> Verdict:
        """The verdict on one inquiry; a refusal, and a reply that is no verdict, is asked once more."""
        verdict = self._read(inquiry, inquiry)
        if verdict.value is not None or verdict.problem == "too long":
            return verdict
        return replace(self._read(inquiry.again, inquiry), asked=2)

    def _read(self, asked: Inquiry, inquiry: Inquiry) -> Verdict:
        reply = self.reply(asked)
        if reply.get("problem"):
            return Verdict(None, reply["problem"])
        return read_verdict(reply["text"], inquiry)

    def reply(self, inquiry: Inquiry) -> dict[str, Any]:
        """What the judge says, from the cache where it was asked before: `text`, or a `problem`; and `usage`."""
        schema = {"name": _name(inquiry), "strict": True, "schema": inquiry.schema}
        body = {
            **self.options,
            "messages": inquiry.messages,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        key = digest({"model": self.model, **body}, 32)
        with self._lock:
            known = self.replies.get(key)
        if known is None:
            known = {"key": key, **self._ask(body, self.retry_delays)}
            self.cache.append([known])
            with self._lock:
                self.replies[key] = known
        return known

    def _ask(self, body: Mapping[str, Any], delays: Sequence[float]) -> dict[str, Any]:
        """One request, with further attempts where it fails for a reason that may pass."""
        for delay in (*delays, None):
            try:
                return self._request(body)
            except _TransientError as error:
                told, asked = str(error), error.wait
            if delay is None:
                break
            if asked is not None and asked > _LONGEST_WAIT:
                raise self._unavailable(f"{told}, and asks to wait for {asked:.0f} seconds: start again then")
            if self._stop.wait(max(delay, asked or 0.0)):
                break
        raise self._unavailable(f"{told}, {len(delays) + 1} times in a row: try again later")

    def _request(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """One request, again at once without a parameter that the server refuses."""
        import openai

        while True:
            sent, refusal = self._accepted(body), None
            try:
                raw = self._opened().chat.completions.with_raw_response.create(model=self.model, **sent)
            except openai.APIStatusError as error:
                refusal = error
            except openai.APITimeoutError:
                raise _TransientError(f"did not answer within {self.timeout:g} seconds") from None
            except openai.APIConnectionError as error:
                cause = self._clean(one_line(error.__cause__ or error, first=True))
                raise _TransientError(f"cannot be reached ({cause})") from None
            if refusal is None:
                return self._parsed(raw.text, raw.headers.get("content-type") or "")
            # Outside of `except`: a traceback would show the library's own error, which may quote the key.
            if (found := self._judged(refusal, sent)) is not None:
                return found

    def _accepted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            dropped = set(self._dropped)
        sent = {name: value for name, value in body.items() if name not in dropped}
        if "max_tokens" in dropped:  # which some models of OpenAI's know by another name
            sent["max_completion_tokens"] = max(body["max_tokens"], REPLY_TOKENS)
        return sent

    def _judged(self, error: Any, sent: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a refusal comes to: a problem of this request, or None where it is worth asking again without a
        parameter.

        Raises:
            [`_TransientError`]: Where it may pass.
            [`JudgeUnavailableError`]: Where it will not.
        """
        status, body = error.status_code, error.body
        said, code = self._said(error), str(body.get("code") if isinstance(body, Mapping) else "")
        if code == "insufficient_quota":
            raise self._unavailable(f"has no quota left for this key ({said}): see to the account, then start again")
        if status in (408, 409, 429) or status >= 500:
            raise _TransientError(f"answers {status} ({said})", _retry_after(error.response.headers))
        if status in (400, 413, 422):
            if code in _TOO_LONG or "context length" in said.lower():
                return {"problem": "too long"}
            if code in _FILTERED:
                return {"problem": "refused"}
            if self._drop(said, sent):
                return None
        raise self._unavailable(self._explained(status, said))

    def _explained(self, status: int, said: str) -> str:
        if status == 401:
            return f"refuses the key ({status}: {said}): set OPENAI_API_KEY to one that is valid there"
        if status == 403:
            return f"forbids this ({status}: {said}): the key may not use the model"
        if status == 404:
            served = self._served()
            known = f"; it serves {', '.join(served)}" if served else "; check base_url, which usually ends in /v1"
            return f"does not serve this model ({status}: {said}){known}"
        return f"refuses the request ({status}: {said})"

    def _drop(self, said: str, sent: Mapping[str, Any]) -> bool:
        """Leaves out a parameter that the server does not know, and says so once."""
        named = [name for name in _OPTIONAL if name in sent and name in said]
        if not named and "response_format" in sent:
            named = ["response_format"]
        if not named:
            return False
        with self._lock:
            is_new = named[0] not in self._dropped
            self._dropped.add(named[0])
        if is_new:
            what = "structured output" if named[0] == "response_format" else f"`{named[0]}`"
            logger.warning("%s does not take %s (%s): asked without it", self._named(), what, said)
        return True

    def _served(self) -> list[str]:
        """The first models that the server says it has; none where it does not tell."""
        import openai

        try:
            raw = self._opened().models.with_raw_response.list()
            found = json.loads(raw.text)["data"]
            names = sorted(str(model["id"]) for model in found)
        except (openai.OpenAIError, ValueError, LookupError, TypeError):
            return []
        return [self._clean(name) for name in names[:8]]

    def _parsed(self, text: str, kind: str) -> dict[str, Any]:
        """The reply in an answer of the server.

        Raises:
            [`_TransientError`]: Where it is damaged.
            [`JudgeUnavailableError`]: Where it is a web page.
        """
        if "html" in kind or text.lstrip()[:1] == "<":
            raise self._unavailable(
                "answers with a web page, not as an API: check base_url, which usually ends in /v1"
            )
        try:
            answer = json.loads(text)
            choice = answer["choices"][0]
            message = choice["message"]
            content, refusal = message.get("content"), message.get("refusal")
            usage = answer.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _TransientError("answers what cannot be read") from None
        told: dict[str, Any] = {"text": self._hidden(content if isinstance(content, str) else "")}
        if all(isinstance(number, int) for number in counts):
            told["usage"] = counts
        if refusal or choice.get("finish_reason") == "content_filter":
            told["problem"] = "refused"
        elif choice.get("finish_reason") == "length":
            told["problem"] = "cut"
        return told

    def _opened(self) -> "OpenAI":
        from openai import OpenAI

        with self._lock:
            if self._client is None:
                self._client = OpenAI(api_key=self._key, base_url=self.base_url, max_retries=0, timeout=self.timeout)
            return self._client

    def _unavailable(self, told: str) -> JudgeUnavailableError:
        return JudgeUnavailableError(f"{self._named()} {told}")

    def _named(self) -> str:
        """The judge with its server, without what an address may hold of a secret."""
        parts = urlsplit(self.base_url or "https://api.openai.com")
        place = parts.hostname or "the server"
        return f"the judge '{self.model}' at {place}{f':{parts.port}' if parts.port else ''}"

    def _said(self, error: Any) -> str:
        """What the server says of an error, in one line, without the key."""
        body = error.body
        told = body.get("message") if isinstance(body, Mapping) else None
        text = told if isinstance(told, str) else re.sub(r"<[^>]*>", " ", error.response.text)
        return self._clean(text) or "it says nothing"

    def _clean(self, text: str) -> str:
        return " ".join(self._hidden(text).split())[:200]

    def _hidden(self, text: str) -> str:
        """A text without the key: a server may echo what it was sent."""
        if len(self._key) < _LEAST_SECRET:
            return text
        for secret in {self._key, quote(self._key, safe="")}:
            text = text.replace(secret, "[key]")
        return text


def _name(inquiry: Inquiry) -> str:
    return "rating" if inquiry.mode == "single" else "verdict"


def _read_key(base_url: str | None) -> str:
    """The key of the environment; a server of one's own may need none."""
    if find_spec("openai") is None:
        raise InstructMineError(
            "a judge behind a server needs the package openai: run `pip install 'hf-instructmine[judge]'`"
        )
    key = (os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and base_url is None:
        raise InstructMineError("no key for the judge: set OPENAI_API_KEY, or base_url to a server that needs none")
    # Otherwise the HTTP library refuses the header, and quotes the key while doing so.
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise InstructMineError("OPENAI_API_KEY holds spaces or characters that no key has: copy it again")
    return key or "none"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, of `Retry-After` as seconds or as a date; None where it says nothing that can be read."""
    value = (headers.get("retry-after") or "").strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
