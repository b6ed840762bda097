"""Text to token ids, so that text from the data never becomes a special token.

`tokenizer("… <|im_end|> …")` turns the text of a special token into the token itself: a row of a dataset could end
its own turn, or open another's. Here only a template may write special tokens; what comes from the data is tokenised
as the characters it is made of. Ordinary text gets exactly the ids that the tokenizer gives it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError
from ..outputs.digests import fast_digest


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_PRIVATE_USE = range(0xE000, 0xF8FF)


def encode_data(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Ids of text from the data: no special token is read from it, none is added to it."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    control = control_ids(tokenizer)
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
    guard = Guard(tokenizer, data)
    return guard.encode(template.format(*map(guard.hide, data)))


def added_bos(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """`[bos_token_id]` if the tokenizer puts one before every text by itself, else `[]`."""
    ids = tokenizer("")["input_ids"]
    return ids[:1] if ids and ids[0] == tokenizer.bos_token_id and tokenizer.bos_token_id is not None else []


@lru_cache(maxsize=16)
def special_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The special tokens that the vocabulary holds, longest first, and their ids."""
    named = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokens = sorted({*named, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    unknown = tokenizer.unk_token_id
    return {t: i for t, i in ids.items() if isinstance(i, int) and (i != unknown or t == tokenizer.unk_token)}


@lru_cache(maxsize=16)
def control_ids(tokenizer: "PreTrainedTokenizerBase") -> frozenset[int]:
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
    return [i for letter in ids for i in letter if i not in control_ids(tokenizer)]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)


class Guard:
    """Hides the special tokens that some data spell out behind characters that the data do not use.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Its own special tokens are the ones hidden.
        data: Texts from the dataset, and structures that hold some.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", data: Any):
        self.tokenizer = tokenizer
        data = list(_strings(data))
        spelled = [token for token in special_ids(tokenizer) if any(token in text for text in data)]
        used = set("".join(data)) if spelled else set()
        free = (chr(code) for code in _PRIVATE_USE if chr(code) not in used)
        self.placeholders = dict(zip(spelled, free))

    def hide(self, value: Any) -> Any:
        """Returns `value` (text, or a structure that holds some) with every spelled-out special token replaced."""
        if not self.placeholders:
            return value
        if isinstance(value, Mapping):
            return {self.hide(key): self.hide(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.hide(item) for item in value]
        if isinstance(value, str):
            for token, placeholder in self.placeholders.items():
                value = value.replace(token, placeholder)
        return value

    def encode(self, text: str) -> list[int]:
        """Ids of a text with hidden data in it, which become what they were."""
        special = special_ids(self.tokenizer)
        pattern = f"({'|'.join(map(re.escape, special)) or '(?!)'})"
        if not self.placeholders:
            ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            # More of them than the template wrote: the tokenizer's normaliser made one, of full-width letters say.
            control = control_ids(self.tokenizer)
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
    # What is not asked for costs a fifth of the time.
    unused = {"return_attention_mask": False, "return_token_type_ids": False}
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False, **unused)
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
