"""Length of prompt and response in tokens (InstructMining, section 3: Len_in and Len_out)."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.conversation import Conversation, calls_as_text
from ..models.loading import ModelSource
from ..models.tokenization import count_tokens, tokens_digest
from .base import Indicator, Ready, sound_turns


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Length(Indicator):
    cheap = True
    libraries = ("tokenizers",)
    _tokenizer: "PreTrainedTokenizerBase | None" = None

    def __init__(
        self,
        tokenizer: Any,
        *,
        revision: str | None = None,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        super().__init__(columns=columns, turns=turns, overwrite=overwrite)
        self.revision = revision
        if isinstance(tokenizer, (str, Path)):
            self.tokenizer = str(tokenizer)
        else:
            self.tokenizer = tokens_digest(tokenizer)
            self._tokenizer = self._source.keep(tokenizer)

    @property
    def _source(self) -> ModelSource:
        return ModelSource(self.tokenizer, "AutoTokenizer", revision=self.revision)

    def load(self) -> "PreTrainedTokenizerBase":
        if self._tokenizer is None:
            self._tokenizer = self._source.share(self._source.load_tokenizer, "tokenizer")
        return self._tokenizer

    def check_available(self) -> None:
        self.load()

    def release(self) -> None:
        if not self._source.is_loaded:  # one that the user passed could not be loaded again
            self._tokenizer = None

    def prepare(self, conversations: list[Conversation]) -> tuple[list[list[str]], dict[str, int]]:
        """The texts of each conversation, and the tokens of each distinct text; see [`Indicator.prepare`]."""
        texts = [self._texts(conversation) for conversation in conversations]
        return texts, count_distinct(self.load(), texts)

    def score(
        self, conversations: list[Conversation], prepared: Any = None
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Tokens of each conversation `(n, 1)`, weights of 1 `(n,)`, and no notes; see [`Indicator.score`]."""
        texts, tokens = self.prepare(conversations) if prepared is None else prepared
        values = np.array([[sum(tokens[text] for text in row if text)] for row in texts], float)
        return values, np.ones(len(conversations)), [None] * len(conversations)

    def _texts(self, conversation: Conversation) -> list[str]:
        raise NotImplementedError

    def provenance(self) -> dict[str, Any]:
        tokenizer = self.load()
        name = tokenizer.name_or_path if self._source.is_loaded else self.tokenizer
        return {
            "indicator": type(self).__name__,
            "tokenizer": Path(name).resolve().name if Path(name).is_absolute() or Path(name).is_dir() else name,
            "tokenizer_digest": _digest(tokenizer, len(tokenizer)),
            "turns": self.turns,
        }


class InputLength(_Length):
    """Tokens of the prompt; column `input_length`, from 0 upwards.

    Each message's content is tokenised by itself and the counts are added: the chat template belongs to a model, not
    to the data, so none of its tokens count. The definitions of tools and the tool calls of earlier turns count as
    JSON. The reasoning of earlier turns does not count: most templates leave it out. Special tokens written in the
    data count as the text they are.

    Args:
        tokenizer (`str` or `PreTrainedTokenizerBase`): Hub id, local folder, or loaded.
        revision (`str`, *optional*): Branch, tag or commit of the tokenizer on the Hub.
        columns, overwrite: See [`Indicator`].
        turns (`str`, defaults to `"last"`): `"last"` counts all messages before the last response, earlier responses
            among them; `"all"` counts every message before the last response that is not a response itself.

    Raises:
        [`InstructMineError`]: On the first batch, where the tokenizer cannot be loaded.

    Example:

    ```python
    pool = pool.map(him.InputLength("HuggingFaceTB/SmolLM2-135M-Instruct"), batched=True)
    ```
    """

    names = ("input_length",)

    def _texts(self, conversation: Conversation) -> list[str]:
        counted = [m for m in conversation.prompt if self.turns == "last" or m["role"] != "assistant"]
        tools = [json.dumps(tool, ensure_ascii=False, default=str) for tool in conversation.tools or ()]
        return [*tools, *(text for message in counted for text in (message["content"], *calls_as_text(message)))]

    def _gather(
        self, rows: list[list[Conversation]], owners: list[int], values: np.ndarray, weights: np.ndarray, notes: list
    ) -> tuple[dict[str, list[float]], list[str | None]]:
        # The last turn's prompt holds the prompts of the turns before it, so it is counted alone.
        last = {row: turn for turn, row in enumerate(owners)}
        kept = list(last.values())
        return super()._gather(rows, list(last), values[kept], weights[kept], [notes[turn] for turn in kept])


class OutputLength(_Length):
    """Tokens of all that the assistant writes, without an end-of-turn token; column `output_length`, from 1 upwards.

    That is the reasoning, the response and the tool calls, as JSON. None of the template's own tokens count. Special
    tokens written in the data count as the text they are. A row without a response has NaN.

    Args:
        tokenizer (`str` or `PreTrainedTokenizerBase`): Hub id, local folder, or loaded.
        revision (`str`, *optional*): Branch, tag or commit of the tokenizer on the Hub.
        columns, overwrite: See [`Indicator`].
        turns (`str`, defaults to `"last"`): `"last"` counts the last response; `"all"` adds up all of them.

    Raises:
        [`InstructMineError`]: On the first batch, where the tokenizer cannot be loaded.

    Example:

    ```python
    pool = pool.map(him.OutputLength("HuggingFaceTB/SmolLM2-135M-Instruct"), batched=True)
    ```
    """

    names = ("output_length",)

    def _texts(self, conversation: Conversation) -> list[str]:
        return [conversation.written]

    def _gather(
        self, rows: list[list[Conversation]], owners: list[int], values: np.ndarray, weights: np.ndarray, notes: list
    ) -> tuple[dict[str, list[float]], list[str | None]]:
        means, row_notes = super()._gather(rows, owners, values, weights, notes)
        turns = np.bincount(np.asarray(owners, int), minlength=len(rows))  # lengths of turns are added, not averaged
        return {name: (np.asarray(column) * turns).tolist() for name, column in means.items()}, row_notes


@lru_cache(maxsize=16)
def _digest(tokenizer: "PreTrainedTokenizerBase", tokens: int) -> str:
    """Its digest, which takes a third of a second, once for all that share it; with other `tokens` it is another."""
    return tokens_digest(tokenizer)


def count_distinct(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[Sequence[str]]) -> dict[str, int]:
    """The tokens of each text, in one call of the tokenizer: system prompts and the earlier turns of a conversation
    come again and again, and each is tokenised once."""
    distinct = list({text for row in texts for text in row if text})
    return dict(zip(distinct, count_tokens(tokenizer, distinct)))


def ready_together(indicators: Sequence[Indicator], rows: list[list[Conversation]]) -> list[Ready]:
    """Rows made ready for several indicators; those that count with one tokenizer share one call of it.

    Args:
        indicators (`Sequence[Indicator]`): Each with its own `turns`.
        rows (`list[list[Conversation]]`): From [`read_turns`].
    """
    lengths = {k: i for k, i in enumerate(indicators) if isinstance(i, _Length)}
    kept = {k: [row[-1:] for row in rows] if i.turns == "last" else rows for k, i in lengths.items()}
    texts = {k: [i._texts(turn) for turn in sound_turns(kept[k])] for k, i in lengths.items()}
    tokens: dict[int, dict[str, int]] = {}
    for tokenizer in {id(i.load()): i.load() for i in lengths.values()}.values():
        counting = [k for k, i in lengths.items() if i.load() is tokenizer]
        counted = count_distinct(tokenizer, [row for k in counting for row in texts[k]])
        tokens.update(dict.fromkeys(counting, counted))
    return [
        Ready(kept[k], (texts[k], tokens[k])) if k in lengths else indicator.ready(rows)
        for k, indicator in enumerate(indicators)
    ]
