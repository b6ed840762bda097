"""Which rows of a pool hold prompts of an evaluation set: 8-grams, as Tülu 3 looks for them (arXiv 2411.15124, 3.2).

A token of an evaluation prompt matches a training prompt where both share an 8-gram that contains it; the prompt is
found in the row where more than half of its tokens match. As there, users' turns are compared, not system prompts,
which many rows have in common for no fault of theirs.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..errors import InstructMineError
from ..outputs.markdown import count, printable
from ..outputs.shown import Cells, Shown
from .containers import as_dataset
from .conversation import Conversation, check_text_columns, read_conversations, read_turns
from .evaluation_sets import EvaluationSet, open_eval_sets
from .fields import read_columns


NGRAM = 8
SHARE = 0.5
_CHUNK = 4096
# Tülu 3 splits at these, and keeps digits and operators, which are what tells one problem of arithmetic from another.
# Chinese and Japanese are written without spaces: there each character is a word.
_APART = r"぀-ヿ㐀-鿿豈-﫿"
_WORD = re.compile(rf"[{_APART}]|[^\s,.?!:;()\"\\\-。，、？！：；（）「」{_APART}]+")


@dataclass(frozen=True)
class Overlap:
    """An evaluation prompt found in a row of the pool.

    Attributes:
        row (`int`): The pool's row.
        eval_set (`str`): The evaluation set.
        eval_row (`int`): Its row: of those found in the pool's row, the one with the largest share, the first of
            equal ones.
        share (`float`): How much of the evaluation prompt is in the row, above 0.5 and at most 1.
    """

    row: int
    eval_set: str
    eval_row: int
    share: float


@dataclass(frozen=True, repr=False)
class Overlaps(Shown):
    """What [`find_contaminated`] found.

    Attributes:
        found (`list[Overlap]`): At most one for each row of the pool and evaluation set, in the order of the pool.
        prompts (`dict[str, int]`): How many distinct prompts of each evaluation set were looked for.
    """

    found: list[Overlap]
    prompts: dict[str, int]

    @property
    def rows(self) -> np.ndarray:
        """The rows of the pool with a finding, ascending."""
        return np.unique(np.array([overlap.row for overlap in self.found], dtype=np.int64))

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the pool in which each evaluation set was found; 0 where it was looked for and not found."""
        return {name: sum(overlap.eval_set == name for overlap in self.found) for name in self.prompts}

    def _tables(self) -> list[Cells]:
        rows = [[o.eval_set, str(o.row), str(o.eval_row), f"{o.share:.0%}"] for o in self.found]
        caption = "Rows of the pool that hold an evaluation prompt"
        return [Cells(caption, ["evaluation set", "row", "its row", "share"], rows)] if rows else []

    def __str__(self) -> str:
        return ", ".join(f"{printable(name)} in {count(rows, 'row')}" for name, rows in self.counts.items())


def find_contaminated(
    pool: Any,
    eval_sets: Any,
    columns: Mapping[str, str] | None = None,
) -> Overlaps:
    """Finds the rows of a pool whose prompt holds more than half of an evaluation prompt, by 8-grams.

    A prompt is what the user says in it, lower-cased and split into words; of an example with several turns, each
    response has its prompt. A prompt of fewer than 8 words is found where one of a row's user turns, or all of them
    together, are exactly its words.

    Args:
        pool (`Dataset`, or what else [`as_dataset`] takes): In any known layout.
        eval_sets (`Mapping[str, Any]`, `str` or `Sequence[str]`): As for [`load_eval_sets`]; rows without a reference
            count too.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.

    Returns:
        [`Overlaps`]

    Raises:
        [`InstructMineError`]: Where the pool or an evaluation set has no known layout, or a set no prompt.

    Example:
    ```python
    >>> overlaps = find_contaminated(pool, {"gsm8k": gsm8k})
    >>> clean = pool.select(np.setdiff1d(np.arange(len(pool)), overlaps.rows))
    ```
    """
    from datasets.utils import tqdm

    pool = as_dataset(pool, "pool", columns=columns)
    check_text_columns(pool, columns)
    index = _Index()
    for name, examples in open_eval_sets(eval_sets).items():
        index.add(name, examples)
    texts, found = pool.select_columns(read_columns(pool.column_names, columns)), []
    with tqdm(total=len(pool), desc="Looking for evaluation prompts", unit="row", delay=3) as progress:
        for start in range(0, len(pool), _CHUNK):
            read = read_conversations(texts[start : start + _CHUNK], columns, first_row=start)
            for row, conversation in enumerate(read, start):
                found += index.find(row, _user_turns(conversation))
            progress.update(len(read))
    return Overlaps(found, index.prompts)


def split_words(text: str) -> list[str]:
    """Lower-cased words, digits and operators kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _WORD.findall(text.casefold())


class _Index:
    """Evaluation prompts by their 8-grams, and the short ones by all of their words."""

    def __init__(self) -> None:
        self.prompts: dict[str, int] = {}
        self._prompts: list[tuple[str, int, int]] = []  # set, row, words
        self._grams: dict[tuple[str, ...], list[tuple[int, int]]] = {}  # the prompts that have it, and where
        self._short: dict[tuple[str, ...], list[int]] = {}

    def add(self, name: str, examples: Dataset | EvaluationSet) -> None:
        known = set()
        for row, conversation in _turns_of(examples):
            words = tuple(word for turn in _user_turns(conversation) for word in turn)
            if not words or words in known:
                continue
            known.add(words)
            number = len(self._prompts)
            self._prompts.append((name, row, len(words)))
            if len(words) < NGRAM:
                self._short.setdefault(words, []).append(number)
            for place, gram in enumerate(_grams(words)):
                self._grams.setdefault(gram, []).append((number, place))
        if not known:
            raise InstructMineError(f"the evaluation set '{name}' has no prompt to look for")
        self.prompts[name] = len(known)

    def find(self, row: int, turns: Sequence[Sequence[str]]) -> list[Overlap]:
        """The best match of each evaluation set in one row."""
        words = [word for turn in turns for word in turn]
        shares = {}
        if self._short:
            for whole in {tuple(words), *map(tuple, turns)}:
                shares.update(dict.fromkeys(self._short.get(whole, ()), 1.0))
        covered: dict[int, set[int]] = {}
        for gram in self._grams.keys() & set(_grams(words)):
            for number, place in self._grams[gram]:
                covered.setdefault(number, set()).update(range(place, place + NGRAM))
        for number, places in covered.items():
            shares[number] = len(places) / self._prompts[number][2]
        best: dict[str, Overlap] = {}
        for number in sorted(shares):
            name, eval_row, _ = self._prompts[number]
            if shares[number] > max(SHARE, best[name].share if name in best else 0):
                best[name] = Overlap(row, name, eval_row, shares[number])
        return [best[name] for name in self.prompts if name in best]


def _grams(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(NGRAM)))


def _turns_of(examples: Dataset | EvaluationSet) -> Iterator[tuple[int, Conversation]]:
    """Each assistant turn with its row; a prompt without a reference can have leaked too."""
    if not isinstance(examples, Dataset):
        yield from zip((examples.rows[owner] for owner in examples.owners), examples.turns)
        return
    check_text_columns(examples)
    texts = examples.select_columns(read_columns(examples.column_names))
    for start in range(0, len(texts), _CHUNK):
        read = read_turns(texts[start : start + _CHUNK], first_row=start)
        yield from ((row, turn) for row, turns in enumerate(read, start) for turn in turns)


def _user_turns(conversation: Conversation) -> list[list[str]]:
    return [split_words(message["content"]) for message in conversation.prompt if message["role"] == "user"]
