"""The walk down a ranking: which rows are taken until the budget is spent, and why the others are passed over."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np

from ..errors import InstructMineError
from ..outputs.markdown import count
from .budget import Budget
from .likeness import Block, Taken
from .near_copies import Sketches, TakenCopies
from .shares import Shares


BLOCK = 1024  # rows whose texts are fetched, and whose similarities are computed, at once
_ROUNDING = 1e-6  # of a float32 product of two vectors of length 1

# What became of the rows that were passed over, by reason: those of a Selector's options bear the option's name.
REASONS = {
    "duplicates": "are exact duplicates",
    "empty": "have no response",
    "output_length": "have no length (output_length)",
    "embeddings": "have no embedding",
    "max_response_tokens": "have a longer response (max_response_tokens={})",
    "eval_sets": "hold a prompt of an evaluation set (eval_sets)",
    "max_similarity": "are too similar to a selected row (max_similarity={})",
    "quotas": "are of a source that has its most (quotas)",
    "length_bins": "are of a length that has its share (length_bins={})",
    "set_level": "have no prediction at their distance inside the set (set_level)",
    "near_duplicates": "are near copies of a selected row (near_duplicates={})",
    "limit": "have a value at or above the strategy's limit",
}
# How a reason begins where it is told of one row.
_SINGULAR = {
    "are exact duplicates": "is an exact duplicate",
    "are near copies": "is a near copy",
    "are": "is",
    "have": "has",
    "hold": "holds",
}
_MENDS = {
    "max_response_tokens": "raise max_response_tokens",
    "max_similarity": "raise max_similarity",
    "near_duplicates": "raise near_duplicates",
    "quotas": "raise the quotas' maxima",
    "length_bins": "lower length_bins",
}


def passed_over(reason: str, rows: int, options: Mapping[str, Any]) -> str:
    """How many rows a reason passed over, such as "1 has a longer response (max_response_tokens=800)"."""
    many = REASONS[reason]
    head = next(head for head in _SINGULAR if many.startswith(head))
    return count(rows, _SINGULAR[head] + many.removeprefix(head), many).format(options.get(reason))


@dataclass
class Walk:
    """Where a walk led: the rows taken, and those passed over.

    Attributes:
        taken (`list[int]`): Row numbers in the order they were taken.
        passed (`dict[str, np.ndarray]`): Row numbers passed over, by one of [`REASONS`].
        spent (`float`): The part of the budget that was used.
        mean (`float`): Mean predicted log loss of the rows taken.
        distances (`dict[str, np.ndarray]`): For set-level selection: `knn_<i>` of `taken` inside the set.
    """

    taken: list[int] = field(default_factory=list)
    passed: dict[str, np.ndarray] = field(default_factory=dict)
    spent: float = 0.0
    mean: float = np.nan
    distances: dict[str, np.ndarray] = field(default_factory=dict)


class Ranking(Protocol):
    """An order of rows, which may depend on those taken so far."""

    rows: np.ndarray

    def blocks(self, descent: "Descent", wanted: np.ndarray) -> Iterator[tuple[np.ndarray, str | None]]:
        """The wanted rows (a mask over the pool), best first, in blocks.

        The next block is asked for when the rows of the one before have been taken or not. Beside each stands None, or
        the reason, one of [`REASONS`], why its rows can no longer be ranked.
        """

    def conclude(self, taken: list[int]) -> tuple[float, dict[str, np.ndarray]]:
        """The `mean` and the `distances` of a [`Walk`] that took these rows."""


class Stage(Enum):
    """What a descent fills: first the least shares of the sources, where there are any, then the greatest shares."""

    LEAST = auto()
    # Whole rows fill no share of tokens exactly: what is left of it goes to one row more.
    LEAST_AND_ONE = auto()
    MOST = auto()
    BINS_AND_ONE = auto()

    @property
    def fills_least(self) -> bool:
        """Whether it goes to the least shares."""
        return self in (Stage.LEAST, Stage.LEAST_AND_ONE)

    def is_full(self, account: "Account", group: Any, cost: Any, left: float) -> Any:
        """Whether a group has no room for a row of this cost, where `left` is left of the budget.

        Groups and costs may be arrays of one shape. What is full stays full: shares are only spent.
        """
        share, spent = account.share, account.spent[group]
        if share.option == "length_bins" and self is Stage.BINS_AND_ONE:
            return spent >= share.most[group]
        full = spent + cost > share.most[group]
        if share.option != "quotas" or not self.fills_least:
            return full
        if self is Stage.LEAST:
            return full | (spent + cost > share.least[group])
        # One row more only where it does not take the others' least away.
        missing = account.missing
        return full | (missing[group] == 0) | (left - cost < missing.sum() - missing[group])


@dataclass
class Account:
    """What a descent has spent of the shares of one option.

    Attributes:
        share ([`Shares`]): The least and the most of each group.
        spent (`np.ndarray`): By group.
    """

    share: Shares
    spent: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """What each group lacks of its least share."""
        return (self.share.least - self.spent).clip(0)


@dataclass
class Terms:
    """All that every walk of one selection has in common.

    Attributes:
        budget ([`Budget`]): How much may be taken.
        costs (`np.ndarray` of shape `(n,)`): As [`Budget.costs`] returns them.
        keys (mapping of `int` to `bytes`, *optional*): What makes a row equal to another, None where it has no
            response; with a method `load` that fetches many at once. None: rows are not compared.
        unscored (`int`): Rows of the pool without a prediction.
        excluded (`dict[str, np.ndarray]`): Rows that are not walked over, by reason.
        shares (`list[Shares]`): How the budget is shared out.
        embeddings (`np.ndarray`, *optional*): Rows of length 1, `(n, d)`.
        max_similarity (`float`, *optional*): Highest cosine between rows taken.
        sketches ([`Sketches`], *optional*): By which near copies are told.
        options (`dict`): What to fill into [`REASONS`].
        lack (`str`): What unscored rows have not: a `"prediction"`, or a strategy's `"value"`.
    """

    budget: Budget
    costs: np.ndarray
    keys: Any = None
    unscored: int = 0
    excluded: dict[str, np.ndarray] = field(default_factory=dict)
    shares: list[Shares] = field(default_factory=list)
    embeddings: np.ndarray | None = None
    max_similarity: float | None = None
    sketches: Sketches | None = None
    options: dict[str, Any] = field(default_factory=dict)
    lack: str = "prediction"

    def walk(self, ranking: Ranking) -> Walk:
        """Takes rows until the budget is spent, or no row is left that fits into the rest of it.

        Raises:
            [`InstructMineError`]: Where the rows do not fill the budget or a quota, with what stood in the way.
        """
        return Descent(self, ranking).run()

    def told(self, counts: Mapping[str, int]) -> list[str]:
        """How many rows were passed over, and why, the most frequent reason of an option first."""
        rest = sorted((r for r in counts if r not in ("duplicates", "empty") and counts[r]), key=lambda r: -counts[r])
        return [passed_over(reason, counts.get(reason, 0), self.options) for reason in ["duplicates", "empty", *rest]]


class Descent:
    """One walk, stage by stage.

    Attributes:
        terms ([`Terms`]): What it keeps to.
        open (`np.ndarray`): Mask of the rows that were neither taken nor passed over.
        walk ([`Walk`]): The rows taken and passed over so far.
    """

    def __init__(self, terms: Terms, ranking: Ranking):
        self.terms, self.ranking = terms, ranking
        self.limit = terms.budget.limit(len(terms.costs))
        self.open = np.zeros(len(terms.costs), bool)
        self.open[ranking.rows] = True
        self.walk = Walk()
        # In parts, which are joined at the end: rows that an option keeps out may be most of a pool.
        self._passed: dict[str, list[np.ndarray]] = {"duplicates": [], "empty": []}
        self._passed |= {reason: [rows] for reason, rows in terms.excluded.items()}
        self._alike = None if terms.max_similarity is None else self._taken_vectors()
        self._copies = None if terms.sketches is None else TakenCopies(terms.sketches)
        compared = {"max_similarity": self._alike, "near_duplicates": self._copies}
        for option in (*(share.option for share in terms.shares), *(name for name, used in compared.items() if used)):
            self._passed.setdefault(option, [])
        self._accounts = [Account(share, np.zeros(len(share.names))) for share in terms.shares]
        self._seen: set = set()

    @property
    def left(self) -> float:
        """What is left of the budget."""
        return self.limit - self.walk.spent

    def _taken_vectors(self) -> Taken:
        embeddings, most = self.terms.embeddings, self.terms.max_similarity
        assert embeddings is not None and most is not None  # max_similarity is refused without embeddings
        return Taken(embeddings, most + _ROUNDING)

    def run(self) -> Walk:
        """Goes through the stages; once only."""
        by_token = self.terms.budget.kind == "tokens"
        for account in self._accounts:
            if account.share.least.any():
                self._descend(Stage.LEAST, account)
                if by_token:
                    self._descend(Stage.LEAST_AND_ONE, account)
                self._check_least(account)
        self._descend(Stage.MOST)
        if by_token and (late := self._passed.get("length_bins")):
            self.open[np.concatenate(late)], self._passed["length_bins"] = True, []
            self._descend(Stage.BINS_AND_ONE)
        self._check_filled()
        self.walk.passed = {reason: _joined(parts) for reason, parts in self._passed.items()}
        self.walk.mean, self.walk.distances = self.ranking.conclude(self.walk.taken)
        return self.walk

    def _descend(self, stage: Stage, least: Account | None = None) -> None:
        """Goes down the ranking once; over the rows of groups that have a least share, where `least` is given."""
        wanted = True if least is None else least.share.least[least.share.codes] > 0
        for block, gone in self.ranking.blocks(self, self.open & wanted):
            if gone is not None:
                self._pass_over(block, gone)
            elif least is not None and not least.missing.any():
                return
            else:
                self._go_through(block, stage)

    def _go_through(self, block: np.ndarray, stage: Stage) -> None:
        """Takes the rows of a block that fit, and passes over those that never will."""
        costs = self.terms.costs[block]
        full = [stage.is_full(account, account.share.codes[block], costs, self.left) for account in self._accounts]
        if self.terms.keys is not None and len(block) > 1:
            # Texts are what takes time: a row without room now will have none later.
            self.terms.keys.load(block[~np.logical_or.reduce(full)] if full else block)
        met = np.flatnonzero(~full[0]) if full else np.arange(len(block))
        rows, passed = block[met], defaultdict[str, list[int]](list)
        alike = self._compared(rows)
        taken_at, left = [-1], [self.left]
        for number, (row, cost) in enumerate(zip(rows.tolist(), costs[met].tolist())):
            if cost > left[-1]:
                continue
            reason = self._full_share(row, cost, stage)
            if reason is not None and stage.fills_least:
                continue  # it stays open: its turn may come when the least shares are filled
            reason = reason or self._refusal(row, alike is not None and alike.alike[number])
            if reason is not None:
                passed[reason].append(row)
                continue
            self._take(row, cost)
            taken_at.append(met[number])
            left.append(self.left)
            if alike is not None:
                alike.take(number)
        for reason, those in passed.items():
            self._pass_over(those, reason)
        if full and not stage.fills_least:
            # Those without room from the start are passed over too, but for the ones that did not fit when met.
            places = np.flatnonzero(full[0])
            fitting = costs[places] <= np.array(left)[np.searchsorted(taken_at, places) - 1]
            self._pass_over(block[places[fitting]], self._accounts[0].share.option)

    def _full_share(self, row: int, cost: float, stage: Stage) -> str | None:
        """The option whose share has no room for a row at this stage."""
        for account in self._accounts:
            if stage.is_full(account, account.share.codes[row], cost, self.left):
                return account.share.option
        return None

    def _pass_over(self, rows: np.ndarray | list[int], reason: str) -> None:
        if len(rows):
            self.open[rows] = False
            self._passed.setdefault(reason, []).append(np.asarray(rows, dtype=np.int64))

    def _take(self, row: int, cost: float) -> None:
        self.open[row] = False
        self.walk.taken.append(row)
        self.walk.spent += cost
        for account in self._accounts:
            account.spent[account.share.codes[row]] += cost
        if self.terms.keys is not None:
            self._seen.add(self.terms.keys[row])
        if self._alike is not None:
            self._alike.add(row)
        if self._copies is not None:
            self._copies.add(row)

    def _refusal(self, row: int, alike: bool) -> str | None:
        if self.terms.keys is not None:
            key = self.terms.keys[row]
            if key is None:
                return "empty"
            if key in self._seen:
                return "duplicates"
        if alike:
            return "max_similarity"
        return "near_duplicates" if self._copies is not None and self._copies.has_like(row) else None

    def _compared(self, rows: np.ndarray) -> Block | None:
        """Rows compared with those taken and among each other, where they are."""
        if self.terms.sketches is not None:
            self.terms.sketches.load(rows)
        return None if self._alike is None else self._alike.compare(rows)

    def _check_least(self, account: Account) -> None:
        share, spent = account.share, account.spent
        for group in np.flatnonzero(spent < share.least):
            rows = share.codes == group
            if (self.terms.costs[self.open & rows] > min(share.least[group] - spent[group], self.left)).any():
                continue  # it is short by less than a row
            passed = {reason: int(rows[_joined(parts)].sum()) for reason, parts in self._passed.items()}
            why, unit = ", ".join(self.terms.told(passed)), self.terms.budget.unit
            raise InstructMineError(
                f"quotas ask for at least {share.least[group]:,.0f} {unit} of '{share.names[group]}', and "
                f"{spent[group]:,.0f} can be selected: of its {count(rows.sum(), 'row')}, {why}; "
                f"lower its least share, or ask for less than {self.terms.budget}"
            )

    def _check_filled(self) -> None:
        budget, taken = self.terms.budget, self.walk.taken
        if self.left == 0 or (budget.kind == "max_log_loss" and taken):
            return
        # Rows that are still open did not fit into what was left: the budget, not the pool, ended the walk, unless
        # they could not be taken anyway.
        rows, refused = np.flatnonzero(self.open), defaultdict[str, list[int]](list)
        start, size = 0, 1  # most often the first row tells
        while start < len(rows):
            block = rows[start : start + size]
            if self.terms.keys is not None:
                self.terms.keys.load(block)
            compared = self._compared(block)
            for number, row in enumerate(block.tolist()):
                reason = self._refusal(row, compared is not None and compared.alike[number])
                if reason is None and taken:
                    return
                if reason is None:
                    shortest = self.terms.costs[self.open].min()
                    raise InstructMineError(
                        f"{budget} is less than any response that can be selected, the shortest has {shortest:.0f} "
                        "tokens: raise it"
                    )
                refused[reason].append(row)
            start, size = start + size, min(8 * size, BLOCK)
        for reason, those in refused.items():
            self._pass_over(those, reason)
        raise InstructMineError(self._unfilled())

    def _unfilled(self) -> str:
        """Why the budget could not be filled, and what mends it: what the option that bound most rows asks."""
        budget, taken = self.terms.budget, self.walk.taken
        passed = {reason: sum(map(len, parts)) for reason, parts in self._passed.items()}
        spent = round(self.walk.spent)
        reached = count(spent, "response token") if budget.kind == "tokens" else count(len(taken), "row")
        reasons = [f"{count(self.terms.unscored, 'has', 'have')} no {self.terms.lack}", *self.terms.told(passed)]
        short = [account.share.shortest(account.spent) for account in self._accounts]
        binding = max(_MENDS, key=lambda reason: passed.get(reason, 0))
        mend = f"{_MENDS[binding]} or ask for less" if passed.get(binding) else "ask for less"
        return (
            f"{budget} is above the {reached} that can be selected: of {count(len(self.terms.costs), 'row')}, "
            f"{', '.join(reasons[:-1])} and {reasons[-1]}; {'; '.join([*filter(None, short), mend])}"
        )


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])
