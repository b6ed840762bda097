"""What all indicators share: reading rows, refusing to overwrite, and hashing by configuration alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..data.containers import as_batch
from ..data.conversation import Conversation, read_turns
from ..errors import InstructMineError
from ..models.availability import check_model
from ..models.chat import Chat
from ..models.loading import LoadedModel, ModelSource
from ..models.rendering import RefusedByTemplateError


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


_REFUSED = "refused by the chat template"


class Ready(NamedTuple):
    """Rows as they go to a model: the turns of each, and what [`Indicator.prepare`] made of those that are sound."""

    rows: list[list[Conversation]]
    prepared: Any


class Indicator:
    """A per-example indicator. Subclasses set `names` and implement [`score`].

    Cheap to build, hash and pickle: only what is passed to `__init__` is part of either, so that
    `Dataset.map(indicator, batched=True)` finds its cache again in another process.

    Args:
        columns (`Mapping[str, str]`, *optional*): Which column holds the `prompt` and `response` (or `messages`),
            where the layout is not one that is detected.
        turns (`str`, defaults to `"last"`): `"last"` scores the last assistant turn, given all before it; `"all"`
            scores every assistant turn and averages, each weighted by its tokens.
        overwrite (`bool`, defaults to `False`): Whether a column of the same name may be replaced.

    Attributes:
        names (`tuple[str, ...]`): The columns it makes.
        notes (`Counter`): How many rows were truncated, empty, … since the object was made, by kind.
        cheap (`bool`): Whether it has no model to hold, so that it may go through the rows together with others.
        libraries (`tuple[str, ...]`): Distributions whose minor releases may change what it gives.
    """

    names: tuple[str, ...]
    source: ModelSource | None = None
    cheap = False
    libraries: tuple[str, ...] = ()

    def __init__(self, columns: Mapping[str, str] | None = None, turns: str = "last", overwrite: bool = False):
        if turns not in ("last", "all"):
            raise InstructMineError(f"turns must be 'last' or 'all', not {turns!r}")
        self.columns = dict(columns) if columns is not None else None
        self.turns = turns
        self.overwrite = overwrite
        self.notes: Counter[str] = Counter()

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Scores conversations that all have a response.

        Returns:
            Values of shape `(n, len(self.names))`, weights of shape `(n,)` (tokens of each response, by which turns
            are averaged) and, for each conversation, a note ("truncated", …) or None.
        """
        raise NotImplementedError

    def prepare(self, conversations: list[Conversation]) -> Any:
        """What can be done with conversations before the model is asked: tokenising. A [`score`] with a second
        parameter gets it there, where it is not None. While a GPU's model runs, another thread prepares the next rows.
        """
        return None

    def provenance(self) -> dict[str, Any]:
        """The configuration that the numbers depend on, recorded beside each column."""
        raise NotImplementedError

    def fit(self, pool: "Dataset") -> "Indicator":
        """Learns what it needs of the whole pool; most indicators need nothing. Returns itself."""
        return self

    def check_available(self) -> None:
        """Looks whether what it will load is there. No weights are loaded.

        Raises:
            [`InstructMineError`]: Where it is not.
        """

    def chat(self) -> Chat | None:
        """The chat template that rows have to pass, without the model's weights; None where there is none."""
        return None

    def release(self) -> None:
        """Lets go of whatever was loaded; the next call loads it again."""

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list[float]]:
        """Scores a batch, as [`Dataset.map`] wants it, and counts what happened to its rows."""
        values, notes = self.annotate(batch)
        self.notes.update(note for note in notes if note)
        return values

    def annotate(
        self, batch: Mapping[str, Sequence], first_row: int = 0
    ) -> tuple[dict[str, list[float]], list[str | None]]:
        """Scores a batch and says what happened to each row.

        Returns:
            The new columns, and for each row a note ("empty response", "truncated response", …) or None. A row that
            cannot be scored has NaN and a note.

        Raises:
            [`InstructMineError`]: Where a column would be overwritten, the layout is unknown, or a value is not text.
        """
        batch = as_batch(batch)
        taken = [name for name in self.names if name in batch]
        if taken and not self.overwrite:
            raise InstructMineError(
                f"the column '{taken[0]}' exists already: remove it, or pass overwrite=True to replace it"
            )
        rows = read_turns({n: v for n, v in batch.items() if n not in self.names}, self.columns, first_row)
        return self.annotate_ready(self.ready(rows))

    def ready(self, rows: list[list[Conversation]]) -> Ready:
        """Rows that were read ([`read_turns`]), made ready for the model."""
        if self.turns == "last":
            rows = [row[-1:] for row in rows]
        try:
            return Ready(rows, self._prepared(rows))
        except RefusedByTemplateError:
            return self._without_refused(rows)

    def annotate_ready(self, ready: Ready) -> tuple[dict[str, list[float]], list[str | None]]:
        """Scores rows that were made ready; see [`annotate`]."""
        try:
            return self._scored(ready)
        except RefusedByTemplateError:
            return self._scored(self._without_refused(ready.rows))

    def _without_refused(self, rows: list[list[Conversation]]) -> Ready:
        # Rare, so rows are asked one by one only where a batch has one that its template refuses.
        rows = [[self._checked(turn) for turn in row] for row in rows]
        return Ready(rows, self._prepared(rows))

    def _prepared(self, rows: list[list[Conversation]]) -> Any:
        # A subclass may have a `score` of its own, that takes conversations alone.
        sound = sound_turns(rows) if len(signature(self.score).parameters) > 1 else []
        return self.prepare(sound) if sound else None

    def _scored(self, ready: Ready) -> tuple[dict[str, list[float]], list[str | None]]:
        sound = sound_turns(ready.rows)
        given = [sound] if ready.prepared is None else [sound, ready.prepared]
        values, weights, notes = self.score(*given) if sound else (np.empty((0, len(self.names))), [], [])
        owners = [i for i, row in enumerate(ready.rows) for turn in row if turn.problem is None]
        return self._gather(ready.rows, owners, values, np.asarray(weights, float), notes)

    def _checked(self, turn: Conversation) -> Conversation:
        """The turn, with a problem where the model's chat template refuses it."""
        chat = self.chat()
        if turn.problem is not None or chat is None:
            return turn
        try:
            chat.check(turn)
        except RefusedByTemplateError:
            return replace(turn, problem=_REFUSED)
        return turn

    def _gather(
        self, rows: list[list[Conversation]], owners: list[int], values: np.ndarray, weights: np.ndarray, notes: list
    ) -> tuple[dict[str, list[float]], list[str | None]]:
        # A turn without a value counts for nothing; a row without any is 0 / 0, NaN.
        scored = ~np.isnan(values)
        totals, shares = np.zeros((2, len(rows), len(self.names)))
        np.add.at(totals, owners, np.where(scored, values, 0) * weights[:, None])
        np.add.at(shares, owners, scored * weights[:, None])
        with np.errstate(invalid="ignore"):
            means = totals / shares
        # Of several turns the last one counts; that the template refuses one of them is told in any case.
        row_notes: list[str | None] = [
            _REFUSED if any(turn.problem == _REFUSED for turn in row) else row[-1].problem for row in rows
        ]
        for i, note in zip(owners, notes):
            row_notes[i] = row_notes[i] or note
        return {name: means[:, k].tolist() for k, name in enumerate(self.names)}, row_notes

    def __getstate__(self) -> dict[str, Any]:
        # Configuration alone: not what was loaded, not what was counted.
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_") and k != "notes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, notes=Counter())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__getstate__().items())})"


def sound_turns(rows: list[list[Conversation]]) -> list[Conversation]:
    """The turns that can be scored."""
    return [turn for row in rows for turn in row if turn.problem is None]


class ModelIndicator(Indicator):
    """An indicator that needs a model: loads it on the first batch, at most once."""

    libraries = ("torch", "transformers")
    source: ModelSource
    _loaded: LoadedModel | None = None

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        auto_class: str,
        max_length: int,
        token_budget: int | None,
        source: dict,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if max_length < 2 or (token_budget is not None and token_budget < 1):
            raise InstructMineError("max_length must be at least 2 and token_budget at least 1")
        self.max_length = max_length
        self.token_budget = token_budget
        self.source, self._loaded = ModelSource.of(model, tokenizer, auto_class, token_budget, **source)

    def load(self) -> LoadedModel:
        """Returns the model, loaded on the first call."""
        if self._loaded is None:
            self._loaded = self.source.load(self.token_budget)
        return self._loaded

    def check_available(self) -> None:
        """Opens configuration and tokenizer; see [`Indicator.check_available`]."""
        if self._loaded is None:
            check_model(self.source)

    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer; a model that is not loaded yet is not loaded for it."""
        return self.source.load_tokenizer() if self._loaded is None else self._loaded.tokenizer

    def release(self) -> None:
        """Lets go of the model, but not of one that the user passed: it could not be loaded again."""
        if not self.source.is_loaded:
            self._loaded = None

    def provenance(self) -> dict[str, Any]:
        """The model's, with what of a row it reads."""
        return {
            "indicator": type(self).__name__,
            **self.source.provenance(),
            "max_length": self.max_length,
            "turns": self.turns,
        }
