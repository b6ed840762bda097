"""Text to token ids, so that text from the data never becomes a special token.

`tokenizer("… <|im_end|> …")` turns the text of a special token into the token itself: a row of a dataset could end
its own turn, or open another's. Here only a template may write special tokens; what comes from the data is tokenised
as the characters it is made of. Ordinary text gets exactly the ids that the tokenizer gives it.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from ..data.conversation import Conversation
from ..errors import InstructMineError, one_line
from ..outputs.digests import fast_digest
from .loading import LoadedModel


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..data.conversation import Message


class RefusedByTemplateError(InstructMineError):
    """The chat template does not render these turns: a role, an order or a field is not what it expects."""


_PRIVATE_USE = range(0xE000, 0xF8FF)


def encode_data(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of text from the data: no special token is read from it, none is added to it."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    control = _control_ids(tokenizer)
    if control.isdisjoint(ids):
        return ids
    # A Unigram vocabulary (T5's, DeBERTa's) has special tokens as pieces that plain text can match: letter by letter.
    return [j for i in ids for j in (_spell_out(tokenizer, i) if i in control else [i])]


def encode_template(tokenizer: "PreTrainedTokenizerBase", template: str, *data: str) -> list[int]:
    """Ids of `template.format(*data)`: special tokens are read from the template, never from the data.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Its own special tokens are the ones looked for.
        template (`str`): Text with one `{}` for each of `data`.
        data (`str`): Texts from the dataset.
    """
    guard = _Guard(tokenizer, data)
    return guard.encode(template.format(*map(guard.hide, data)))


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", messages: Sequence["Message"]) -> list[int]:
    """Ids of everything that stands before a response.

    With a chat template: the template, with its generation prompt. Without one, a plain template: the messages'
    contents, each followed by a blank line, after the BOS token if (and only if) the tokenizer adds one by itself.

    Raises:
        [`RefusedByTemplateError`]: Where the chat template refuses the messages (a role it does not know, say).
    """
    if tokenizer.chat_template is None:
        return added_bos(tokenizer) + encode_data(tokenizer, "".join(f"{m['content']}\n\n" for m in messages))
    return _encode_chat(tokenizer, messages, add_generation_prompt=True)


def encode_conversation(tokenizer: "PreTrainedTokenizerBase", messages: Sequence["Message"]) -> list[int]:
    """Ids of whole, closed turns under the tokenizer's chat template.

    Raises:
        [`InstructMineError`]: Where the tokenizer has no chat template, or the template refuses the messages.
    """
    if tokenizer.chat_template is None:
        raise InstructMineError(
            f"the tokenizer '{tokenizer.name_or_path}' has no chat template, which this indicator needs: "
            "set tokenizer.chat_template, or choose a model that has one"
        )
    return _encode_chat(tokenizer, messages, add_generation_prompt=False)


def added_bos(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """`[bos_token_id]` if the tokenizer puts one before every text by itself, else `[]`."""
    ids = tokenizer("")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None else []


def _encode_chat(
    tokenizer: "PreTrainedTokenizerBase", messages: Sequence["Message"], add_generation_prompt: bool
) -> list[int]:
    from jinja2 import TemplateError

    guard = _Guard(tokenizer, list(_strings(messages)))
    try:
        text = tokenizer.apply_chat_template(
            guard.hide(list(messages)), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except (TemplateError, TypeError, ValueError) as error:  # the latter from what a template does with a field
        roles = " → ".join(m["role"] for m in messages) or "none"
        raise RefusedByTemplateError(
            f"the chat template of '{tokenizer.name_or_path}' refuses the turns {roles}: {one_line(error)}"
        ) from error
    return guard.encode(cast(str, text))  # ids only where it is asked to tokenize


@lru_cache(maxsize=16)
def special_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The special tokens that the vocabulary holds, longest first, and their ids."""
    named = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted({*named, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    unknown = tokenizer.unk_token_id
    return {t: i for t, i in ids.items() if isinstance(i, int) and (i != unknown or t == tokenizer.unk_token)}


@lru_cache(maxsize=16)
def _control_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
    """Ids that no text from the data may have: all special ones but the unknown token's, which any text may become.

    Raises:
        [`InstructMineError`]: Where the tokenizer adds tokens of its own to every text.
    """
    t = tokenizer
    if added := t("", add_special_tokens=False)["input_ids"]:
        raise InstructMineError(
            f"the tokenizer '{t.name_or_path}' adds {t.convert_ids_to_tokens(added)} to every text, also where it is "
            "asked not to: scores would be of other texts; name another tokenizer"
        )
    roles = {t.bos_token, t.eos_token, t.pad_token, t.sep_token, t.cls_token, t.mask_token}
    return frozenset(i for token, i in special_ids(t).items() if token != t.unk_token or token in roles)


def _spell_out(tokenizer: "PreTrainedTokenizerBase", token_id: int) -> list[int]:
    letters = tokenizer.convert_ids_to_tokens(token_id)
    ids = (tokenizer(c, add_special_tokens=False, split_special_tokens=True)["input_ids"] for c in letters)
    return [i for letter in ids for i in letter if i not in _control_ids(tokenizer)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)


class _Guard:
    """Hides the special tokens that some data spell out behind characters that the data do not use."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", data: Sequence[str]):
        self.tokenizer = tokenizer
        spelled = [token for token in special_ids(tokenizer) if any(token in text for text in data)]
        used = set("".join(data)) if spelled else set()
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        self.placeholders = dict(zip(spelled, free))

    def hide(self, value: Any) -> Any:
        """Returns `value` (text, or a structure that holds some) with every spelled-out special token replaced."""
        if isinstance(value, dict):
            return {key: self.hide(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.hide(item) for item in value]
        if isinstance(value, str):
            for token, placeholder in self.placeholders.items():
                value = value.replace(token, placeholder)
        return value

    def encode(self, text: str) -> list[int]:
        special = special_ids(self.tokenizer)
        pattern = f"({'|'.join(map(re.escape, special)) or '(?!)'})"
        if not self.placeholders:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            # More of them than the template wrote: the tokenizer's normaliser made one, of full-width letters say.
            control = _control_ids(self.tokenizer)
            if sum(i in control for i in ids) <= len(re.findall(pattern, text)):
                return ids
        ids = []
        for i, piece in enumerate(re.split(pattern, text)):
            if i % 2:  # `re.split` with one group: pieces at odd places are the template's own special tokens
                ids.append(special[piece])
            elif piece:
                for token, placeholder in self.placeholders.items():
                    piece = piece.replace(placeholder, token)
                ids += encode_data(self.tokenizer, piece)
        return ids


def count_tokens(tokenizer: "PreTrainedTokenizerBase", texts: list[str]) -> list[int]:
    """Tokens of each text, as [`~tokenization.encode_data`] would give them, in one call of the tokenizer."""
    if not texts:
        return []
    # `verbose=False`: a text longer than some model's window is no cause for a warning, it is only counted.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def tokens_digest(tokenizer: "PreTrainedTokenizerBase") -> str:
    """A digest of all that decides how text is cut into tokens; the same in every process."""
    if tokenizer.is_fast:
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        # Whoever called the tokenizer last left these behind.
        del state["truncation"], state["padding"]
    else:
        added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
        state = [type(tokenizer).__name__, tokenizer.get_vocab(), added]
    return fast_digest([json.dumps(state, sort_keys=True)])


def encode_pair(
    loaded: LoadedModel, conversation: Conversation, given: bool, eos: bool, max_length: int
) -> tuple[list[int], int, str | None]:
    """Ids of prompt and response, where the response starts, and a note where something was cut."""
    tokenizer = loaded.tokenizer
    prompt = encode_prompt(tokenizer, conversation.prompt) if given else added_bos(tokenizer)
    response = encode_data(tokenizer, conversation.response)
    max_length = int(min(max_length, loaded.max_positions))
    if eos:
        if tokenizer.eos_token_id is None:
            raise InstructMineError(f"the tokenizer '{tokenizer.name_or_path}' has no EOS token to score")
        response = [*response, tokenizer.eos_token_id]
    note = None
    if len(prompt) + len(response) > max_length:
        room = max(max_length - len(response), max_length // 4, 1)
        note = "truncated prompt" if len(prompt) > room else None
        prompt = prompt[-room:]
        if len(response) > max_length - len(prompt):
            response = response[: max_length - len(prompt)]
            note = "truncated response"
    # Without a prompt or BOS there is nothing to predict the first token from.
    return prompt + response, max(len(prompt), 1), note
