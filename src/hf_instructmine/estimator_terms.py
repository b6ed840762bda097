"""What a rule is made of: terms over indicator columns, and how a table's columns become their values."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import InstructMineError


# Which indicator makes which column, to tell a user what to run where a column is missing.
INDICATOR_OF_COLUMN = {
    "input_length": "InputLength",
    "output_length": "OutputLength",
    "reward": "Reward",
    "perplexity": "Perplexity",
    "nll": "Perplexity(also=['nll'])",
    "ifd": "Perplexity(also=['ifd'])",
    "end_of_turn": "Perplexity(also=['end_of_turn'])",
    "mtld": "MTLD",
    "naturalness": "UniEval",
    "coherence": "UniEval",
    "understandability": "UniEval",
}
NEIGHBOR_COLUMN = re.compile(r"(?:pool_)?knn_(\d+)")
_TERM = re.compile(r"(?:log\((?P<logged>[^()]+)\)|(?P<plain>[^()^]+))(?:\^(?P<power>2))?")


def indicator_of(column: str) -> str | None:
    """Returns the indicator that makes `column`, such as `"NeighborDistance(i=6)"`, or `None` where no one does."""
    if match := NEIGHBOR_COLUMN.fullmatch(column):
        return f"NeighborDistance(i={match[1]})"
    return INDICATOR_OF_COLUMN.get(column)


@dataclass(frozen=True)
class Term:
    """One regressor: `((f(x) − center) / scale) ** power`, where f is the identity or the natural logarithm.

    For a set of examples x is the indicator's **mean over the set** and the transformation comes after the mean, as
    in the fit; for a single example x is its own value.

    Args:
        column (`str`): The indicator's column.
        log (`bool`, *optional*, defaults to `False`): Whether the logarithm enters. A value ≤ 0 then has no value.
        power (`int`, *optional*, defaults to 1): 2 for a quadratic term.
        center (`float`, *optional*, defaults to 0.0): Subtracted after the logarithm.
        scale (`float`, *optional*, defaults to 1.0): Divided by after centring.
    """

    column: str
    log: bool = False
    power: int = 1
    center: float = 0.0
    scale: float = 1.0

    @property
    def name(self) -> str:
        name = f"log({self.column})" if self.log else self.column
        return name if self.power == 1 else f"{name}^{self.power}"

    @classmethod
    def parse(cls, name: str) -> "Term":
        """Reads a term from its name: `mtld`, `log(perplexity)`, `mtld^2`, `log(perplexity)^2`."""
        match = _TERM.fullmatch(name)
        if match is None:
            raise InstructMineError(
                f"'{name}' is not a term: write a column (mtld), its log (log(perplexity)) or a square (mtld^2)"
            )
        return cls(match["logged"] or match["plain"], log=match["logged"] is not None, power=int(match["power"] or 1))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        if self.log:
            values = np.log(values, where=values > 0, out=np.full_like(values, np.nan))
        return ((values - self.center) / self.scale) ** self.power


def column_names(table: Any) -> list[str]:
    """The columns of a `Dataset`, a pandas `DataFrame` or a mapping of sequences."""
    if hasattr(table, "column_names"):
        return list(table.column_names)
    return list(table.keys())


def row_count(table: Any) -> int:
    """The rows of a `Dataset`, a pandas `DataFrame` or a mapping of sequences."""
    names = column_names(table)
    return len(table) if hasattr(table, "column_names") else len(table[names[0]]) if names else 0


def numeric_column(table: Any, name: str) -> np.ndarray:
    """Reads one column as `float64`, shape (n,); a missing value (None, null, NaN) is NaN.

    Raises:
        [`InstructMineError`]: Where the column does not hold numbers.
    """
    import pyarrow as pa

    if hasattr(table, "column_names"):  # a Dataset: through Arrow, which respects a selection of rows and its order
        values = table.select_columns([name]).with_format("arrow")[:].column(name)
    else:
        try:
            values = pa.array(np.asarray(table[name]) if hasattr(table, "dtypes") else list(table[name]))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            values = pa.nulls(1, pa.string())
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_null(values.type)):
        raise InstructMineError(f"column '{name}' holds {values.type}, not numbers: an indicator is one number a row")
    array = values.cast(pa.float64()).to_numpy(zero_copy_only=False) if len(values) else np.empty(0)
    return np.asarray(array, dtype=np.float64)


def indicator_columns(table: Any, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads the columns that a rule needs.

    Raises:
        [`InstructMineError`]: Where columns are missing; the message names them and the indicators that make them.
    """
    present = set(column_names(table))
    sources = {name: column_in_pool(name, present) for name in columns}
    missing = [name for name, source in sources.items() if source not in present]
    if missing:
        makers = list(dict.fromkeys(filter(None, map(indicator_of, missing))))
        mend = f"; score the data with {', '.join(makers)} first" if makers else ""
        raise InstructMineError(f"the data has no column {', '.join(map(repr, missing))}, which the rule needs{mend}")
    return {name: numeric_column(table, source) for name, source in sources.items()}


def column_in_pool(name: str, present: Collection[str]) -> str:
    """A table of runs has `knn_6` measured inside each subset and `pool_knn_6` as its rows have it in the pool; in a
    scored pool the latter is simply `knn_6`."""
    return name.removeprefix("pool_") if name not in present else name


def check_made_alike(
    expected: Mapping[str, dict[str, Any]], columns: Sequence[str], table: Any, partial: bool
) -> list[str]:
    """Refuses columns that were made by another configuration than a rule expects.

    Args:
        expected (`Mapping[str, dict]`): The rule's provenance.
        columns (`Sequence[str]`): The columns it reads.
        table (`Dataset` or another table): What is to be predicted.
        partial (`bool`): Compare only what the rule states. A published rule states less than an indicator records.

    Returns:
        The columns whose making is recorded in the rule but not in the table.
    """
    from .provenance import check_provenance, get_provenance

    recorded = get_provenance(table) if hasattr(table, "features") else {}
    expected = {name: expected[name] for name in columns if name in expected}
    found = {name: recorded[source] for name in expected if (source := column_in_pool(name, recorded)) in recorded}
    if partial:
        found = {name: {key: made.get(key) for key in expected[name]} for name, made in found.items()}
    return check_provenance(expected, found, list(expected))


def design(terms: Sequence[Term], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The regressors, shape (n, number of terms), of columns given by name."""
    rows = len(next(iter(values.values()))) if values else 0
    matrix = np.empty((rows, len(terms)))
    for k, term in enumerate(terms):
        matrix[:, k] = term(values[term.column])
    return matrix
