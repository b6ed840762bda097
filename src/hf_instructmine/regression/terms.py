"""What a rule is made of: terms over indicator columns, and how a table's columns become their values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InstructMineError


_TERM = re.compile(r"(?:log\((?P<logged>[^()]+)\)|(?P<plain>[^()^]+))(?:\^(?P<power>2))?")


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
        """What [`~Term.parse`] reads."""
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
        """The regressor, from the column's values; NaN where there is no logarithm."""
        if self.log:
            values = np.log(values, where=values > 0, out=np.full_like(values, np.nan))
        return ((values - self.center) / self.scale) ** self.power


def design(terms: Sequence[Term], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The regressors, shape (n, number of terms), of columns given by name."""
    rows = len(next(iter(values.values()))) if values else 0
    matrix = np.empty((rows, len(terms)))
    for k, term in enumerate(terms):
        matrix[:, k] = term(values[term.column])
    return matrix
