"""What a chat template makes of messages, as text: hostile data in it stay data, and every day is the same."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from ..data.conversation import REASONING, RESERVED_KWARGS, Conversation
from ..errors import InstructMineError, one_line
from .tokenization import Guard, special_ids


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data.conversation import Message

# Templates that write today's date get this one, so that a text has the same tokens on every day.
FROZEN_DATE = datetime(2026, 1, 1)
_TODAY = re.compile(r"strftime_now\(\s*(['\"])([^'\"]*)\1\s*\)")
# How a template marks what the assistant generates.
GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_USER, _ANSWER = "Qmarkq", "Amarka"  # no template looks for these


class RefusedByTemplateError(InstructMineError):
    """The chat template does not render these turns: a role, an order or a field is not what it expects."""


def check_template_kwargs(kwargs: Any, name: str = "chat_template_kwargs") -> dict[str, Any]:
    """Reads arguments of a chat template: a mapping, JSON text of one, or None.

    Raises:
        [`InstructMineError`]: Where they are something else, or name what the rendering sets itself.
    """
    if isinstance(kwargs, str):
        try:
            kwargs = json.loads(kwargs)
        except ValueError as error:
            raise InstructMineError(f"{name} is not JSON: {one_line(error)}") from error
    if kwargs is None:
        return {}
    if not isinstance(kwargs, Mapping) or not all(isinstance(key, str) for key in kwargs):
        raise InstructMineError(
            f"{name} must map names to values, as {{'enable_thinking': False}}; got {kwargs!r:.60}"
        )
    reserved = sorted(RESERVED_KWARGS & set(kwargs))
    if reserved:
        raise InstructMineError(f"{name} cannot set '{reserved[0]}', which the rendering sets itself")
    return dict(kwargs)


@dataclass(frozen=True)
class Probe:
    """What a template does with a question and an answer.

    Attributes:
        parts (`bool`): Whether it writes contents that are lists of parts, and no plain text.
        opens (`bool`): Whether it has a generation prompt.
        closing (`str`, *optional*): What it writes after the answer; None where it refuses the two.
    """

    parts: bool
    opens: bool
    closing: str | None


@dataclass(frozen=True)
class Writer:
    """Renders the messages of one row."""

    tokenizer: "PreTrainedTokenizerBase"
    template: str
    kwargs: Mapping[str, Any]
    tools: list[dict[str, Any]] | None
    guard: Guard
    texts: bool = False  # whether the template wants arguments of tool calls as JSON text

    @classmethod
    def of(
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        kwargs: Mapping[str, Any],
        conversation: Conversation,
        template: str | None = None,
    ) -> "Writer":
        """The writer for a row, and for this row's form of tool calls."""
        try:
            own = check_template_kwargs(conversation.template_kwargs, "the row's chat_template_kwargs")
        except InstructMineError as error:  # a fault of the row, which ends no run
            raise RefusedByTemplateError(str(error)) from error
        kwargs = {**kwargs, **own}
        messages = [*conversation.prompt, *conversation.completion]
        data = [messages, conversation.tools, conversation.template_kwargs]
        guard = Guard(tokenizer, data)
        template = frozen(template) if template is not None else chosen_template(tokenizer, conversation.tools)
        writer = cls(tokenizer, template, guard.hide(kwargs), guard.hide(conversation.tools), guard)
        if not any(message.get("tool_calls") for message in messages):
            return writer
        try:
            writer.write(messages)
        except RefusedByTemplateError:
            other = replace(writer, texts=True)
            try:
                other.write(messages)
            except RefusedByTemplateError:
                return writer
            return other
        return writer

    @property
    def probe(self) -> Probe:
        """See [`Probe`]."""
        return _probe(self.tokenizer, self.template, json.dumps(self.kwargs, sort_keys=True, default=str))

    @staticmethod
    def messages(conversation: Conversation) -> list["Message"]:
        """All messages."""
        return [*conversation.prompt, *conversation.completion]

    def write(self, messages: Sequence["Message"], generation: bool = False, parts: bool | None = None) -> str:
        """The messages as the template writes them; with a generation prompt where asked.

        Raises:
            [`RefusedByTemplateError`]: Where it refuses them.
        """
        from jinja2 import TemplateError

        wanted = [self._formed(message, self.probe.parts if parts is None else parts) for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                self.guard.hide(wanted),
                tools=cast(Any, self.tools),  # the stub's list is of dicts and functions
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation,
                **self.kwargs,
            )
        except (TemplateError, TypeError, ValueError) as error:  # the latter from what a template does with a field
            raise self.refusal(messages, one_line(error)) from error
        return cast(str, text)  # ids only where it is asked to tokenize

    def write_marked(self, messages: Sequence["Message"]) -> tuple[str, list[tuple[int, int]]]:
        """The messages, and where in the text the template says that the assistant generates."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        wanted = [self._formed(message, self.probe.parts) for message in messages]
        try:
            texts, spans = cast(
                tuple[list[str], list[list[tuple[int, int]]]],
                render_jinja_template(
                    [self.guard.hide(wanted)],
                    tools=cast(Any, self.tools),
                    chat_template=self.template,
                    return_assistant_tokens_mask=True,
                    **{**self.tokenizer.special_tokens_map, **self.kwargs},
                ),
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise self.refusal(messages, one_line(error)) from error
        return texts[0], spans[0]

    def refusal(self, messages: Sequence["Message"], reason: str) -> RefusedByTemplateError:
        """The error that names the turns."""
        roles = " → ".join(m["role"] for m in messages) or "none"
        return RefusedByTemplateError(
            f"the chat template of '{self.tokenizer.name_or_path}' refuses the turns {roles}: {reason}"
        )

    def encode(self, text: str) -> list[int]:
        """Ids of what was written."""
        return self.guard.encode(text)

    def end_of(self, whole: str) -> str:
        """What the template writes after the last data of a text."""
        closing = self.probe.closing
        if closing is not None and whole.endswith(closing):
            return closing
        # A turn that ends otherwise than an answer does (in a tool call, say): the special tokens at its end.
        special = "|".join(map(re.escape, special_ids(self.tokenizer))) or "(?!)"
        found = re.search(rf"(?:(?:{special})\s*)+\Z", whole)
        return found.group() if found else ""

    def closes(self, whole: str, ids: list[int]) -> int:
        """Where the end of the turn starts in `ids`."""
        closing = self.end_of(whole)
        if not closing:
            return len(ids)
        if closing.startswith(tuple(special_ids(self.tokenizer))):  # no token crosses the start of a special one
            tail = self.encode(closing)
            if ids[-len(tail) :] == tail:
                return len(ids) - len(tail)
        return common_length(self.encode(whole[: -len(closing)]), ids)

    def unwritten(self, conversation: Conversation, prompt: str, whole: str) -> str | None:
        """Names what the row has and the text has not.

        Raises:
            [`RefusedByTemplateError`]: Where these are the response or its tool calls: the turn would seem to end
                before them.
        """
        answer = whole[common_length(prompt, whole) :]
        reasoning = next((conversation.extras[name] for name in REASONING if conversation.extras.get(name)), "")
        if not self.has_calls(conversation.extras, answer):
            raise self.refusal(self.messages(conversation), "it does not write the tool calls of the response")
        words = conversation.response.split()
        if words and not any(self.guard.hide(word) in answer for word in words):
            raise self.refusal(self.messages(conversation), "it does not write the response")
        checks = {
            "reasoning": self._holds(answer, [reasoning]),
            "response": self._holds(answer, [conversation.response]),
            "messages": self._holds(whole, [m["content"] for m in conversation.prompt if m["role"] != "assistant"]),
            "tools": self._holds(prompt, [_name_of(tool) for tool in conversation.tools or ()]),
        }
        absent = " and ".join(what for what, is_there in checks.items() if not is_there)
        return f"{absent} not written as given by the chat template" if absent else None

    def has_calls(self, message: Mapping[str, Any], text: str) -> bool:
        """Whether a text names all tool calls of a message."""
        return self._holds(text, [_name_of(call) for call in message.get("tool_calls") or ()])

    def _holds(self, text: str, parts: Sequence[str]) -> bool:
        return all(self.guard.hide(part.strip()) in text for part in parts)

    def _formed(self, message: "Message", parts: bool) -> "Message":
        reasoning = next((message[name] for name in REASONING if message.get(name)), None)
        if reasoning is not None:  # each template reads one of the names; transformers before 5.24 gives it no other
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        if parts:
            message = {**message, "content": [{"type": "text", "text": message["content"]}]}
        if self.texts and message.get("tool_calls"):
            message = {**message, "tool_calls": [_with_text(call) for call in message["tool_calls"]]}
        return message


def common_length(a: Sequence, b: Sequence) -> int:
    """How many items two sequences have in common at their beginning."""
    if a == b[: len(a)]:
        return len(a)
    return next(i for i in range(len(a)) if i >= len(b) or a[i] != b[i])


@lru_cache(maxsize=64)
def _probe(tokenizer: "PreTrainedTokenizerBase", template: str, kwargs: str) -> Probe:
    writer = Writer(tokenizer, template, json.loads(kwargs), None, Guard(tokenizer, []))
    question, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}
    for parts in (False, True):
        try:
            whole = writer.write([question, answer], parts=parts)
            opens = writer.write([question], True, parts) != writer.write([question], False, parts)
        except RefusedByTemplateError:
            continue
        if _USER in whole and _ANSWER in whole:
            return Probe(parts, opens, whole.rpartition(_ANSWER)[2])
    return Probe(False, True, None)


def writes_as_is(writer: Writer) -> bool:
    """Whether a turn is the generation prompt, the text as it is, EOS, and at most blanks."""
    question, answer = {"role": "user", "content": _USER}, {"role": "assistant", "content": f" {_ANSWER}\n"}
    try:
        whole, prompt = writer.write([question, answer]), writer.write([question], True)
    except RefusedByTemplateError:
        return False
    return whole.rstrip() == f"{prompt} {_ANSWER}\n{writer.tokenizer.eos_token}"


def chosen_template(tokenizer: "PreTrainedTokenizerBase", tools: list[dict[str, Any]] | None) -> str:
    """The tokenizer's template (of several, the one for tools where there are some), with a date that stands still."""
    return frozen(tokenizer.get_chat_template(tools=cast(Any, tools)))


@lru_cache(maxsize=64)
def frozen(template: str) -> str:
    """The template with every date it writes turned into `FROZEN_DATE`."""
    written = _TODAY.sub(lambda call: json.dumps(FROZEN_DATE.strftime(call.group(2))), template)
    if "strftime_now(" not in written:
        return written
    return "{%- macro strftime_now(format) -%}" + f"{FROZEN_DATE:%d %b %Y}" + "{%- endmacro -%}" + written


def _name_of(tool: Mapping[str, Any]) -> str:
    name = (tool.get("function") or tool).get("name") if isinstance(tool.get("function") or tool, Mapping) else None
    return name if isinstance(name, str) else ""


def _with_text(call: dict[str, Any]) -> dict[str, Any]:
    if "function" in call:
        return {**call, "function": _with_text(call["function"])}
    arguments = call.get("arguments")
    return call if isinstance(arguments, str) else {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
