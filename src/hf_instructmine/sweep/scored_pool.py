"""A scored pool as arrays, and how a subset is drawn from it and measured."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset

from ..data.columns import NEIGHBOR_COLUMN, TOKENS, indicator_names, numeric_column
from ..data.provenance import get_provenance
from ..data.tables import read_codes, whole_numbers
from ..errors import InstructMineError
from ..models.neighbors import neighbor_distances


CLIP = 4.0  # standard deviations; one freak row must not decide where a tilt goes
SKEWED = 2.0  # lengths and perplexities above this skewness are tilted on the log scale
POOL_ROWS = 1_000_000  # of a larger pool so many rows stand in for all: a draw looks at each of them
SHARE = 10  # and at least so many times the rows of a subset
_BLOCK = 2**16  # rows that are looked at together
SET_QUERIES = 512  # rows that a candidate's set-level distance is estimated on; chosen subsets are measured whole


@dataclass
class SubsetSize:
    """What every subset costs: a number of rows or a number of response tokens."""

    rows: int | None
    tokens: int | None

    def __post_init__(self) -> None:
        if (self.rows is None) == (self.tokens is None):
            raise InstructMineError("give exactly one of subset_size (rows) and subset_tokens (response tokens)")
        name, size = ("subset_size", self.rows) if self.tokens is None else ("subset_tokens", self.tokens)
        if size is not None and size < 1:
            raise InstructMineError(f"{name}={size} is an empty subset: give a positive number")

    def check(self, rows: int, tokens: np.ndarray | None, sources: Sequence[str] | np.ndarray) -> None:
        """Refuses a size that `rows` usable rows of these sources and `tokens` cannot be cut to."""
        if self.rows is not None and self.rows >= rows:
            what = f"source '{sources[0]}'" if len(sources) == 1 else "the pool"
            raise InstructMineError(
                f"subset_size={self.rows} leaves nothing to choose among the {rows} usable rows of {what}"
            )
        if self.tokens is None:
            return
        assert tokens is not None  # a pool without them is refused first
        if not tokens.min() <= self.tokens < tokens.sum():
            raise InstructMineError(
                f"subset_tokens={self.tokens} must lie between the {tokens.min()} tokens of the shortest usable "
                f"response and less than the {tokens.sum()} of all of them"
            )

    def draw(self, pool: "ScoredPool", log_weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draws rows one after another, each with probability ∝ its weight among those left (Gumbel top-k)."""
        keys = rng.gumbel(size=len(log_weights))
        keys += log_weights
        return self.take(pool, keys)

    def take(self, pool: "ScoredPool", keys: np.ndarray) -> np.ndarray:
        """The rows of highest key that make up the size, ascending; where tokens are left over, also the longest rows
        that still fit into them."""
        if self.rows is not None:
            return np.sort(np.argpartition(keys, len(keys) - self.rows)[-self.rows :])
        assert pool.tokens is not None and self.tokens is not None  # the size is either rows or tokens
        taken = _fill(pool.tokens, keys, self.tokens)
        left_over = self.tokens - int(pool.tokens[taken].sum())
        return np.sort(np.concatenate([taken, _longest_that_fit(pool, keys, taken, left_over)]))

    def stands_in(self, rows: np.ndarray, tokens: np.ndarray | None, seed: int) -> np.ndarray:
        """Those of the rows that subsets are drawn from: all, or so many at random, ascending."""
        expected = self.rows if tokens is None or self.tokens is None else self.tokens / max(tokens.mean(), 1)
        most = max(POOL_ROWS, math.ceil(SHARE * (expected or 0)))
        if len(rows) <= most:
            return rows
        return np.sort(np.random.default_rng([seed, len(rows)]).choice(rows, most, replace=False, shuffle=False))


def _fill(tokens: np.ndarray, keys: np.ndarray, budget: int) -> np.ndarray:
    """The rows in descending order of their keys, the lower row first where they are equal, as far as the budget goes.

    Only as many rows are put into order as are needed: a pool is much larger than a subset.
    """
    wanted = int(1.5 * budget / max(tokens.mean(), 1)) + 64
    while True:
        few = wanted < len(keys)
        rows = np.flatnonzero(keys >= np.partition(keys, -wanted)[-wanted]) if few else np.arange(len(keys))
        order = rows[np.argsort(-keys[rows], kind="stable")]
        total = np.cumsum(tokens[order])
        if total[-1] > budget or len(order) == len(keys):
            return order[: np.searchsorted(total, budget, side="right")]
        wanted *= 4


def _longest_that_fit(pool: "ScoredPool", keys: np.ndarray, taken: np.ndarray, budget: int) -> np.ndarray:
    """Rows that are not taken: again and again the longest that still fits, the one of highest key where many do."""
    added: list[int] = []
    free, limit = np.ones(len(keys), dtype=bool), budget
    free[taken] = False
    while True:
        end = int(np.searchsorted(pool.ascending_tokens, limit, side="right"))
        length = int(pool.ascending_tokens[end - 1]) if end else 0
        if length < 1:  # rows without tokens would fit for ever
            return np.array(added, dtype=int)
        alike = pool.by_tokens[np.searchsorted(pool.ascending_tokens, length) : end]
        alike = alike[free[alike]]
        limit = length - 1
        if len(alike):
            best = alike[keys[alike].argmax()]
            free[best] = False
            added.append(int(best))
            budget -= length
            limit = min(length, budget)


@dataclass
class ScoredPool:
    """The usable rows of a scored pool as arrays, or many of them; a subset is an array of positions among them."""

    rows: np.ndarray  # (usable,) rows of the dataset
    columns: list[str]  # indicator columns
    values: np.ndarray  # (usable, columns)
    z: np.ndarray  # (usable, columns), float32: standardised, skewed columns as logarithms, clipped
    whitening: np.ndarray  # (columns, rank): takes the correlations out of z, so that tilts reach all directions
    sources: list[str]
    source: np.ndarray  # (usable,) position in `sources`
    tokens: np.ndarray | None  # (usable,) response tokens
    embeddings: np.ndarray | None  # (usable, dimensions) unit rows
    excluded: int  # rows left out for a NaN indicator
    whole: int  # usable rows of the dataset, of which `rows` may be a random part
    seed: int = 0  # of that part

    @classmethod
    def load(
        cls,
        scored: Dataset,
        source_column: str | None,
        sources: Sequence[str] | None,
        indicators: Sequence[str] | None,
        embeddings: np.ndarray | None,
        size: SubsetSize,
        seed: int = 0,
    ) -> "ScoredPool":
        """Reads and checks the pool; raises [`InstructMineError`] where the request cannot be met.

        Of more than `POOL_ROWS` usable rows so many are taken at random, by `seed`, and stand in for all.
        """
        columns = _columns(scored, indicators)
        known = np.ones(len(scored), dtype=bool)
        for name in columns:  # one at a time: a pool may be larger than what is drawn from
            known &= np.isfinite(numeric_column(scored, name))
        if size.tokens is not None and TOKENS not in scored.column_names:
            raise InstructMineError(f"subset_tokens needs the column '{TOKENS}': score the pool with OutputLength")
        tokens = None
        if TOKENS in scored.column_names:
            tokens = numeric_column(scored, TOKENS)
            known &= np.isfinite(tokens)
        codes, names = _sources(scored, source_column)
        usable = _usable(known, codes, names, sources)
        counted = None if tokens is None else tokens[usable].astype(np.int64)
        every = [names[code] for code in np.flatnonzero(np.bincount(codes[usable]))]
        size.check(len(usable), counted, every)
        rows = size.stands_in(usable, counted, seed)
        present = np.flatnonzero(np.bincount(codes[rows]))
        places = np.zeros(len(names), np.int32)
        places[present] = np.arange(len(present))
        source, labels = places[codes[rows]], [names[code] for code in present]
        if rare := [name for name in every if name not in labels]:
            warnings.warn(f"source '{rare[0]}' is so rare that none of its rows can be drawn", stacklevel=3)

        values = np.empty((len(rows), len(columns)))
        for k, name in enumerate(columns):
            values[:, k] = numeric_column(scored, name)[rows]
        tokens = None if tokens is None else tokens[rows].astype(whole_numbers(tokens[rows].max()))
        if (constant := np.ptp(values, axis=0) == 0).any():
            name = columns[int(constant.argmax())]
            raise InstructMineError(f"indicator {name!r} is the same in every row: leave it out with indicators=[...]")
        unit = None if embeddings is None else _unit_rows(embeddings, len(scored), rows)
        z = _standardise(values)
        excluded = int((~known).sum())
        whole = len(usable)
        return cls(rows, columns, values, z, _whitening(z), labels, source, tokens, unit, excluded, whole, seed)

    @property
    def drawn_from(self) -> dict[str, int]:
        """How many rows stand in for how many, and by which seed; empty where they are all."""
        if len(self.rows) == self.whole:
            return {}
        return {"rows": len(self.rows), "of": self.whole, "seed": self.seed}

    @cached_property
    def by_tokens(self) -> np.ndarray:
        """Positions by ascending tokens, the lower position first where they are equal."""
        assert self.tokens is not None  # a size in tokens is refused without them
        return np.argsort(self.tokens, kind="stable").astype(whole_numbers(len(self.tokens)))

    @cached_property
    def ascending_tokens(self) -> np.ndarray:
        """The tokens of the rows, ascending."""
        assert self.tokens is not None
        return self.tokens[self.by_tokens]

    @property
    def neighbor_columns(self) -> list[str]:
        """The columns that are measured inside a set, `knn_<i>`."""
        return [name for name in self.columns if NEIGHBOR_COLUMN.fullmatch(name)]

    @property
    def design_columns(self) -> list[str]:
        """The mean indicators' column names: without embeddings `knn_<i>` is only known of the pool."""
        pooled = self.neighbor_columns if self.embeddings is None else []
        return [f"pool_{name}" if name in pooled else name for name in self.columns]

    def mean_indicators(self, subset: np.ndarray, rng: np.random.Generator | None = None) -> np.ndarray:
        """The subset's mean of each of `design_columns`; with `rng`, set-level ones are estimated on 512 rows."""
        means = self.values[subset].mean(axis=0)
        if self.embeddings is not None and self.neighbor_columns:
            neighbors = [int(match[1]) for name in self.columns if (match := NEIGHBOR_COLUMN.fullmatch(name))]
            if max(neighbors) >= len(subset):
                raise InstructMineError(
                    f"a subset of {len(subset)} rows has no {max(neighbors)}-th neighbour: make the subsets larger"
                )
            vectors, asked = self.embeddings[subset], None
            if rng is not None and len(subset) > SET_QUERIES:
                asked = vectors[rng.choice(len(subset), SET_QUERIES, replace=False)]
            # A row that is asked for as a vector has itself for its nearest.
            distances = [neighbor_distances(vectors, i + (asked is not None), asked).mean() for i in neighbors]
            means[[self.columns.index(name) for name in self.neighbor_columns]] = distances
        return means


def _columns(scored: Dataset, indicators: Sequence[str] | None) -> list[str]:
    if len(scored) == 0:
        raise InstructMineError("the pool is empty: there is nothing to draw subsets from")
    columns = list(indicators) if indicators is not None else _independent(scored, indicator_names(scored))
    if missing := [name for name in columns if name not in scored.column_names]:
        raise InstructMineError(f"the pool has no column {missing[0]!r}: its columns are {scored.column_names}")
    if not columns:
        raise InstructMineError(f"the pool has no indicator column among {scored.column_names}: score it first")
    return columns


def _independent(scored: Dataset, columns: list[str]) -> list[str]:
    """Without a column that says the same as another: perplexity is exp(nll), and a design cannot tell them apart."""
    made = get_provenance(scored)
    if not {"perplexity", "nll"} <= {*columns} or made.get("perplexity") != made.get("nll"):
        return columns
    warnings.warn(
        "perplexity is left out of the design, as it is exp(nll) of the same model; indicators=['perplexity', …] "
        "designs for it",
        stacklevel=4,
    )
    return [name for name in columns if name != "perplexity"]


def _sources(scored: Dataset, column: str | None) -> tuple[np.ndarray, list[str]]:
    """The number of each row's source, `(n,)`, and the names by number, in order."""
    if column is None:
        return np.zeros(len(scored), np.int64), ["pool"]
    if column not in scored.column_names:
        raise InstructMineError(
            f"the pool has no source column {column!r} among {scored.column_names}: name it with source_column=, or "
            "pass source_column=None to take the pool as one source"
        )
    codes, values = read_codes(scored, column)
    if None in values:
        row = int((codes == values.index(None)).argmax())
        raise InstructMineError(f"row {row} has no source: fill the column {column!r}")
    names, numbers = np.unique([str(value) for value in values], return_inverse=True)
    return numbers[codes], names.tolist()


def _usable(known: np.ndarray, codes: np.ndarray, names: Sequence[str], sources: Sequence[str] | None) -> np.ndarray:
    """The rows whose indicators are known, of the sources that are asked for, ascending."""
    if not known.any():
        raise InstructMineError(f"all {len(known)} rows have a NaN indicator: none can be drawn")
    if sources is None:
        return np.flatnonzero(known)
    if not len(sources):
        raise InstructMineError("sources is an empty list: name the sources to draw from, or leave it out")
    there = np.bincount(codes[known], minlength=len(names)) > 0
    for name in sources:
        if name not in names or not there[names.index(name)]:
            raise InstructMineError(f"no usable row has source '{name}': the sources are {list(names)}")
    return np.flatnonzero(known & np.isin(codes, [names.index(name) for name in sources]))


def _unit_rows(embeddings: np.ndarray, count: int, rows: np.ndarray) -> np.ndarray:
    """The embeddings of `rows` out of `count`, float32, at length 1."""
    if embeddings.ndim != 2 or len(embeddings) != count:
        raise InstructMineError(f"embeddings have shape {embeddings.shape}: give one row for each of {count}")
    vectors = np.asarray(embeddings[rows], dtype=np.float32)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    sound = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    if not sound.all():
        raise InstructMineError(
            f"the embedding of row {rows[sound.argmin()]} is zero or NaN: its distances are undefined"
        )
    return vectors / norms


def _standardise(values: np.ndarray) -> np.ndarray:
    def scaled(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / x.std()

    z = np.empty(values.shape, np.float32)
    for k, column in enumerate(values.T):  # one at a time: all at once would take several times the pool's room
        skewed = column.min() >= 0 and (scaled(column) ** 3).mean() > SKEWED
        z[:, k] = scaled(np.log1p(column) if skewed else column).clip(-CLIP, CLIP)
    return z


def _whitening(z: np.ndarray) -> np.ndarray:
    means = z.mean(axis=0, dtype=np.float64)
    products = np.zeros((z.shape[1], z.shape[1]))
    for start in range(0, len(z), _BLOCK):
        block = z[start : start + _BLOCK] - means
        products += block.T @ block
    variances, axes = np.linalg.eigh(products)
    kept = variances > 1e-6 * variances.max()
    return axes[:, kept] / np.sqrt(variances[kept])
