"""Whether a row is a near copy of one that was taken, by the words they share: MinHash and its index (datasketch).

Broder 1997, "On the resemblance and containment of documents". A row is read and hashed when a walk meets it, and
compared with the taken rows of its buckets alone, so the time is in proportion to the rows met.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from ..data.conversation import read_conversations
from ..data.decontamination import split_words
from ..data.fields import read_columns
from ..errors import InstructMineError


SEED, PERMUTATIONS = 1, 128
WORDS = 3  # in a row, of which the sets are made that are compared
_FOUND = 0.99  # the least share of rows just as alike as the threshold that the index is to find


def check_near_duplicates(value: Any) -> float:
    """Refuses what is no share, and says what to install where the library is absent.

    Raises:
        [`InstructMineError`]: In one line.
    """
    try:
        threshold = float(value)
    except (TypeError, ValueError):
        raise InstructMineError(f"near_duplicates={value!r} has to be a number") from None
    if not 0 < threshold <= 1:
        raise InstructMineError(
            f"near_duplicates={threshold} has to be a share of words in common, above 0 and at most 1"
        )
    try:
        import datasketch  # noqa: F401
    except ImportError as error:
        raise InstructMineError(
            "near_duplicates needs datasketch: run `pip install hf-instructmine[dedup]`, or leave it out"
        ) from error
    return threshold


def shingles(text: str) -> set[str]:
    """Three words in a row each, in small letters; all of a text that has fewer."""
    words = split_words(text)
    return {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))} if words else {text.strip()}


class Sketches:
    """The MinHash of what each row says, its prompt and its response, by row number; made when it is asked for.

    Args:
        dataset (`Dataset`): The pool.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
        threshold (`float`): The Jaccard similarity from which on a row is a near copy.
    """

    def __init__(self, dataset: Dataset, columns: Mapping[str, Any] | None, threshold: float):
        self._texts = dataset.with_format(None).select_columns(read_columns(dataset.column_names, columns))
        self._columns, self.threshold = columns, threshold
        self._batch: dict[int, str] = {}
        self._known: dict[int, Any] = {}

    def load(self, rows: np.ndarray) -> None:
        """Fetches the texts of many rows at once; those are hashed that are asked for."""
        missing = [row for row in rows.tolist() if row not in self._known]
        if missing:
            read = read_conversations(self._texts[missing], self._columns)
            self._batch = {row: f"{one.prompt_text}\n\n{one.written}" for row, one in zip(missing, read)}

    def __getitem__(self, row: int) -> Any:
        from datasketch import MinHash

        if row not in self._known:
            if row not in self._batch:
                self.load(np.array([row]))
            words = [shingle.encode("utf-8", "surrogatepass") for shingle in shingles(self._batch[row])]
            (self._known[row],) = MinHash.generator([words], num_perm=PERMUTATIONS, seed=SEED)
        return self._known[row]


class TakenCopies:
    """The rows of one walk that were taken, in an index of their sketches."""

    def __init__(self, sketches: Sketches):
        from datasketch import MinHashLSH

        self.sketches = sketches
        bands = _bands(sketches.threshold)
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=(bands, PERMUTATIONS // bands))

    def add(self, row: int) -> None:
        """Takes a row."""
        self._index.insert(row, self.sketches[row])

    def has_like(self, row: int) -> bool:
        """Whether a taken row's estimated Jaccard similarity to this one is at or above the threshold."""
        sketch, threshold = self.sketches[row], self.sketches.threshold
        return any(sketch.jaccard(self.sketches[other]) >= threshold for other in self._index.query(sketch))


def _bands(threshold: float) -> int:
    """Into how many bands a sketch is cut: the fewest by which the index finds what is just alike enough."""
    for bands in range(1, PERMUTATIONS):
        if 1 - (1 - threshold ** (PERMUTATIONS // bands)) ** bands >= _FOUND:
            return bands
    return PERMUTATIONS
