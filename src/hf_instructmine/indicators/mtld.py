"""Measure of textual lexical diversity of the response (InstructMining, section 3: MTLD).

McCarthy & Jarvis (2010), "MTLD, vocd-D, and HD-D", Behavior Research Methods 42: a factor is a run of words whose
type-token ratio has fallen to 0.72 (they recommend 0.660 to 0.750); MTLD is the mean number of words in a factor, read
once forwards and once backwards.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError
from .base import Indicator


class MTLD(Indicator):
    """Lexical diversity of the response; column `mtld`, above 1, in words. A text without a repeated word has as much
    as it has words; a response without any word (`"42"`) has NaN and is counted.

    The response is all that the assistant writes: reasoning, text and tool calls (as JSON).

    Words are found as the package `lexicalrichness` finds them in ASCII text, so that values compare with those of
    others: digits are taken out, hyphens and dashes too (`well-known` is `wellknown`), any other punctuation ends a
    word (`don't` is `don` and `t`). Beyond ASCII see [`split_words`].

    Under some 100 words MTLD is length in disguise: on 1,907 responses of at most 256 tokens the logarithms of both
    correlate at 0.80. A rule that holds both cannot tell them apart.

    Args:
        threshold (`float`, defaults to 0.72): Type-token ratio, between 0 and 1, at which a factor is complete.
        columns, turns, overwrite: See [`Indicator`]. With `turns="all"`, turns are weighted by their words.

    Raises:
        [`InstructMineError`]: Where the threshold is not between 0 and 1.

    Example:

    ```python
    >>> him.MTLD()({"instruction": ["Say it."], "output": ["The cat sat on the mat. The dog sat on the mat."]})
    {'mtld': [9.5]}
    ```
    """

    names = ("mtld",)
    cheap = True

    def __init__(
        self,
        threshold: float = 0.72,
        *,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        super().__init__(columns=columns, turns=turns, overwrite=overwrite)
        number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
        if not number or not 0 < threshold < 1:
            raise InstructMineError(f"threshold must be between 0 and 1, not {threshold!r}")
        self.threshold = float(threshold)

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """MTLD `(n, 1)`, weights `(n,)`, and the note "no word" where there is none; see [`Indicator.score`]."""
        texts = [split_words(conversation.written) for conversation in conversations]
        values = np.array([[mtld(words, self.threshold) if words else 0.0] for words in texts])
        # A lone turn has the weight 1: dividing by a sum of words would cost its value the last digit.
        weights = np.array([len(words) if self.turns == "all" else bool(words) for words in texts], float)
        return values, weights, [None if words else "no word" for words in texts]

    def provenance(self) -> dict[str, Any]:
        """Indicator, threshold and turns."""
        return {"indicator": "MTLD", "threshold": self.threshold, "turns": self.turns}


def mtld(words: list[str], threshold: float = 0.72) -> float:
    """Mean length of a factor in `words` (at least one), of the forward and the backward reading; linear in time.

    The words left over after the last factor are a part of one: (1 - their type-token ratio) / (1 - threshold).
    """
    return (_one_way(words, len(words), threshold) + _one_way(reversed(words), len(words), threshold)) / 2


def _one_way(words: Iterable[str], total: int, threshold: float) -> float:
    factors = 0.0
    types: set[str] = set()
    length = 0
    for word in words:
        length += 1
        if word not in types:
            types.add(word)  # a new word can only raise the ratio, so nothing is to be checked
        elif len(types) / length <= threshold:
            factors += 1
            length = 0
            types = set()
    if length:
        factors += (1 - len(types) / length) / (1 - threshold)
    return total / (factors or 1)  # no factor, not even a part of one: no word was repeated


def split_words(text: str) -> list[str]:
    """Words of a text in any script, case-folded, with composed accents (NFC).

    - Numbers of all scripts, hyphens, en and em dashes, and invisible characters are taken out; what stood on their
      two sides is joined.
    - Any other character that is no letter or combining mark ends a word: spaces, punctuation, symbols, emoji.
    - Each Han and kana character is a word. Hangul is read between spaces, as it is written. So is Thai, Lao, Khmer
      and Burmese, which write no spaces: their MTLD is too high.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
        text = _NON_ASCII.sub(lambda run: run[0].translate(_table), text)
    # What is not ASCII has been dealt with, and translating bytes is several times faster than translating characters.
    return text.encode().lower().translate(_ASCII_TABLE, b"0123456789-").decode().split()


class _WordTable(dict):
    """For `str.translate`: what becomes of a character beyond ASCII, worked out when it is first met."""

    _JOINING = "\u2010\u2011–—"
    _ONE_WORD_EACH = (
        "CJK UNIFIED",
        "CJK COMPATIBILITY IDEOGRAPH",
        "IDEOGRAPHIC",
        "HIRAGANA",
        "KATAKANA",
        "HALFWIDTH KATA",
    )

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        name = unicodedata.name(character, "")
        if character in self._JOINING or name.startswith("VARIATION SELECTOR"):
            kept = ""
        elif category[0] == "N" or category in ("Me", "Cf"):
            kept = " " if character == "\u200b" else ""  # a zero-width space is where a word ends
        elif category[0] in "LM":
            kept = f" {character} " if name.startswith(self._ONE_WORD_EACH) else character
        else:
            kept = " "
        self[code] = kept
        return kept


_table = _WordTable()
_NON_ASCII = re.compile(r"[^\x00-\x7f]+")
_ASCII_TABLE = bytes(code if code > 127 or chr(code).isalpha() else ord(" ") for code in range(256))
