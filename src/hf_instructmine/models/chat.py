"""What a chat template writes: the prompt, the response after it, and the end of the turn, in token ids.

All three are taken from the rendered conversation. A template may strip a text, write an empty thought before an
answer, or end a turn in another token than the tokenizer's EOS: what a model reads and learns is what it writes.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..data.conversation import Conversation
from ..errors import InstructMineError
from .rendering import (
    FROZEN_DATE,
    GENERATION,
    Writer,
    check_template_kwargs,
    chosen_template,
    common_length,
    writes_as_is,
)
from .tokenization import Guard, added_bos, control_ids, encode_data


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data.conversation import Message

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Turn:
    """A response in token ids, with all that stands before it.

    Attributes:
        ids (`list[int]`): Prompt, response and end of turn.
        start (`int`): Where the response starts.
        close (`int`): Where its end of turn starts; the number of `ids` where there is none.
        stop (`int`): Past the token that ends the turn; what a template writes after it is the text between turns.
        unwritten (`str`, *optional*): What of the row the template does not write.
        cut (`str`, *optional*): `"truncated prompt"` or `"truncated response"`.
    """

    ids: list[int]
    start: int
    close: int
    stop: int
    unwritten: str | None = None
    cut: str | None = None

    @property
    def note(self) -> str | None:
        """What was cut, and what is not written."""
        return "; ".join(text for text in (self.cut, self.unwritten) if text) or None

    def until(self, end: int) -> "Turn":
        """Its first `end` tokens."""
        return replace(self, ids=self.ids[:end], close=min(self.close, end), stop=min(self.stop, end))

    def within(self, max_length: float) -> "Turn":
        """At most `max_length` tokens.

        The start of the prompt goes first, down to a quarter of `max_length`, then the end of the response, with the
        end of the turn. Where nothing stands before the response, its first token has nothing to be predicted from:
        `start` is at least 1.
        """
        if len(self.ids) <= max_length:
            return replace(self, start=max(self.start, 1))
        limit = int(max_length)
        room = max(limit - (self.stop - self.start), limit // 4, 1)
        lost = max(self.start - room, 0)
        is_cut = self.stop - lost > limit
        return Turn(
            self.ids[lost:][:limit],
            max(self.start - lost, 1),
            limit if is_cut else self.close - lost,
            limit if is_cut else self.stop - lost,
            self.unwritten,
            "truncated response" if is_cut else "truncated prompt" if lost else None,
        )


class Chat:
    """A tokenizer's chat template. Without one: the messages' contents, each followed by a blank line, after the BOS
    token if (and only if) the tokenizer adds one by itself; the turn ends in the EOS token.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Its special tokens are read from the template, never from the data.
        kwargs (`Mapping[str, Any]`, *optional*): Arguments of the template, such as `enable_thinking`; a row's own
            `chat_template_kwargs` go before them.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", kwargs: Mapping[str, Any] | None = None):
        self.tokenizer = tokenizer
        self.kwargs = check_template_kwargs(kwargs)

    def encode(self, conversation: Conversation, end: bool = True) -> Turn:
        """The conversation in token ids, as the template writes it.

        Where the generation prompt is no beginning of the rendered turn, their common beginning is the prompt, as it
        is in TRL.

        Args:
            conversation ([`Conversation`]): One response and all before it.
            end (`bool`, defaults to `True`): Whether the end of the turn is needed.

        Raises:
            [`RefusedByTemplateError`]: Where the template refuses the messages (a role it does not know, say).
            [`InstructMineError`]: Where there is no template, and no EOS token to end the turn.
        """
        if self.tokenizer.chat_template is None:
            return self._encode_plain(conversation, end)
        writer = Writer.of(self.tokenizer, self.kwargs, conversation)
        prompt, whole = writer.write(conversation.prompt, True), writer.write(writer.messages(conversation))
        prompt_ids, ids = writer.encode(prompt), writer.encode(whole)
        start = common_length(prompt_ids, ids)
        self._tell(writer, prompt_ids[start:])
        close = max(start, writer.closes(whole, ids))
        controls = control_ids(self.tokenizer)
        stop = next((i + 1 for i in range(close, len(ids)) if ids[i] in controls), len(ids))
        return Turn(ids, start, close, stop, writer.unwritten(conversation, prompt, whole))

    def encode_prompt(self, conversation: Conversation) -> list[int]:
        """What a model goes on from to answer, in token ids: the messages with the generation prompt after them.

        Raises:
            [`RefusedByTemplateError`]: Where the template refuses the messages.
        """
        if self.tokenizer.chat_template is None:
            texts = "".join(f"{message['content']}\n\n" for message in conversation.prompt)
            return added_bos(self.tokenizer) + encode_data(self.tokenizer, texts)
        writer = Writer.of(self.tokenizer, self.kwargs, conversation)
        return writer.encode(writer.write(conversation.prompt, True))

    def stop_ids(self) -> set[int]:
        """The tokens that end a model's answer: the tokenizer's EOS, and the special token in which the template ends
        a turn, which may be another one."""
        found = {self.tokenizer.eos_token_id} - {None}
        if self.tokenizer.chat_template is None:
            return found
        turn = self.encode(Conversation([{"role": "user", "content": "Which?"}], "This one."))
        return found | ({*turn.ids[turn.close : turn.stop]} & control_ids(self.tokenizer))

    def check(self, conversation: Conversation) -> None:
        """Renders a conversation.

        Raises:
            [`RefusedByTemplateError`]: Where the template refuses it.
        """
        if self.tokenizer.chat_template is not None:
            writer = Writer.of(self.tokenizer, self.kwargs, conversation)
            prompt, whole = writer.write(conversation.prompt, True), writer.write(writer.messages(conversation))
            writer.unwritten(conversation, prompt, whole)

    def encode_closed(self, conversation: Conversation) -> tuple[list[int], str | None]:
        """Ids of whole, closed turns, and a note where something of them is not written.

        Raises:
            [`RefusedByTemplateError`]: Where the template refuses the messages.
            [`InstructMineError`]: Where the tokenizer has no chat template.
        """
        if self.tokenizer.chat_template is None:
            raise InstructMineError(
                f"the tokenizer '{self.tokenizer.name_or_path}' has no chat template, which this indicator needs: "
                "set tokenizer.chat_template, or choose a model that has one"
            )
        writer = Writer.of(self.tokenizer, self.kwargs, conversation)
        prompt, whole = writer.write(conversation.prompt, True), writer.write(writer.messages(conversation))
        return writer.encode(whole), writer.unwritten(conversation, prompt, whole)

    def encode_turns(
        self, conversation: Conversation, training_template: str | None
    ) -> tuple[list[int], list[bool], str | None]:
        """The conversation in token ids, which of them are learnt where all assistant turns are, and a note.

        A template that marks what the assistant generates says it; else each turn is what stands between the prompt
        before it and its end, both rendered.

        Args:
            conversation ([`Conversation`]): Its `masked` turns are not learnt.
            training_template (`str`, *optional*): A template that marks it, in place of the tokenizer's own.

        Raises:
            [`RefusedByTemplateError`]: Where the template refuses the messages, or does not say where a turn is.
        """
        if self.tokenizer.chat_template is None and training_template is None:
            raise InstructMineError(
                f"the tokenizer '{self.tokenizer.name_or_path}' has no chat template, which training on all assistant "
                "turns needs: set chat_template_path"
            )
        writer = Writer.of(self.tokenizer, self.kwargs, conversation, training_template)
        messages = writer.messages(conversation)
        turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        learnt = [i not in conversation.masked for i in turns]
        if GENERATION.search(writer.template):
            whole, spans = writer.write_marked(messages)
            ids = writer.encode(whole)
            ranges = _token_ranges(writer, whole, ids, spans)
        else:
            whole = writer.write(messages)
            ids = writer.encode(whole)
            ranges = [self._turn_range(writer, messages[: i + 1], whole, ids) for i in turns]
        if not all(learnt) and len(ranges) != len(turns):
            raise writer.refusal(messages, "it does not say which assistant turn is which, and some are masked")
        if len(ranges) == len(turns):
            self._check_calls(writer, [m for m in messages if m["role"] == "assistant"], learnt, ids, ranges)
        mask = [False] * len(ids)
        for k, (first, last) in enumerate(ranges):
            if len(ranges) != len(turns) or learnt[k]:
                mask[first:last] = [True] * (last - first)
        return ids, mask, writer.unwritten(conversation, writer.write(conversation.prompt, True), whole)

    def _turn_range(self, writer: "Writer", messages: list["Message"], whole: str, ids: list[int]) -> tuple[int, int]:
        before, until = writer.write(messages[:-1], True), writer.write(messages)
        shared = common_length(until, whole)
        if shared < len(until) - len(writer.end_of(until)):
            raise writer.refusal(
                messages, "it writes a turn otherwise once others follow, so not all of them can be learnt at once"
            )
        return common_length(writer.encode(before), ids), common_length(writer.encode(until), ids)

    def _check_calls(
        self,
        writer: "Writer",
        turns: list["Message"],
        learnt: list[bool],
        ids: list[int],
        ranges: list[tuple[int, int]],
    ) -> None:
        """Refuses a turn that would be learnt without the tool calls that it ends in."""
        for message, wanted, (first, last) in zip(turns, learnt, ranges):
            if wanted and not writer.has_calls(message, str(self.tokenizer.decode(ids[first:last]))):
                raise writer.refusal(turns, "it does not write the tool calls of a turn that is to be learnt")

    def provenance(self) -> dict[str, Any]:
        """What the tokens depend on besides the tokenizer: nothing where the template writes the texts as they are and
        ends a turn in EOS."""
        template = self.tokenizer.chat_template
        if template is None:
            return {"chat_template_kwargs": self.kwargs} if self.kwargs else {}
        tokenizer = self.tokenizer
        writer = Writer(tokenizer, chosen_template(tokenizer, None), self.kwargs, None, Guard(tokenizer, []))
        record: dict[str, Any] = {} if writes_as_is(writer) else {"template": "as rendered"}
        if "strftime_now" in str(template):
            record["template_date"] = FROZEN_DATE.date().isoformat()
        return {**record, **({"chat_template_kwargs": self.kwargs} if self.kwargs else {})}

    def _encode_plain(self, conversation: Conversation, end: bool) -> Turn:
        tokenizer = self.tokenizer
        if end and tokenizer.eos_token_id is None:
            raise InstructMineError(f"the tokenizer '{tokenizer.name_or_path}' has no EOS token to score")
        texts = "".join(f"{m['content']}\n\n" for m in conversation.prompt)
        prompt = added_bos(tokenizer) + encode_data(tokenizer, texts)
        ids = prompt + encode_data(tokenizer, conversation.written)
        closing = [tokenizer.eos_token_id] if end else []
        note = "tools not written without a chat template" if conversation.tools else None
        return Turn([*ids, *closing], len(prompt), len(ids), len(ids) + len(closing), note)

    def _tell(self, writer: "Writer", lost: list[int]) -> None:
        name = self.tokenizer.name_or_path
        if lost:
            has_switch = "enable_thinking" in writer.template
            mend = "; or pass chat_template_kwargs={'enable_thinking': False}" if has_switch else ""
            _tell_once(
                f"the chat template of '{name}' ends a prompt in {self.tokenizer.decode(lost)!r}, which it does not "
                "write before the answers here: that end is left out, as TRL leaves it out; give the rows their "
                f"reasoning as 'reasoning_content'{mend}"
            )
        elif not writer.probe.opens:
            _tell_once(
                f"the chat template of '{name}' has no generation prompt, so the header before an answer counts as "
                "part of it; give the template one (add_generation_prompt)"
            )


@lru_cache(maxsize=256)
def _tell_once(text: str) -> None:
    logger.warning("%s", text)


def _token_ranges(writer: Writer, whole: str, ids: list[int], spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The tokens that overlap each span of the text, as transformers counts them."""
    tokenizer = writer.tokenizer
    if tokenizer.is_fast and not writer.guard.placeholders:
        encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if encoding["input_ids"] == ids:
            offsets = encoding["offset_mapping"]
            inside = [[i for i, (a, b) in enumerate(offsets) if a < end and b > start] for start, end in spans]
            return [(tokens[0], tokens[-1] + 1) for tokens in inside if tokens]
    lengths = [[common_length(writer.encode(whole[:at]), ids) for at in span] for span in spans]
    return [(first, last) for first, last in lengths]


def tell_notes(what: str, notes: "Sequence[str | None]") -> None:
    """Says once how many texts are not written as the rows give them, by kind."""
    for note, count in Counter(filter(None, notes)).items():
        logger.warning("%s: %d texts: %s", what, count, note)
