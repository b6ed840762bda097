"""How a budget is shared out: among sources (quotas), or among responses of different length (bins)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import InstructMineError


_EXACT = 1e-9  # 0.1 * 30 is 3.0000000000000004, and no row more than 3


@dataclass(frozen=True)
class Shares:
    """The least and the most of a budget that groups of rows may have, in its unit.

    Attributes:
        option (`str`): The selector's option that asks for them: `"quotas"` or `"length_bins"`.
        codes (`np.ndarray` of shape `(n,)`): Each row's group.
        names (`list[str]`): The groups' names.
        least (`np.ndarray`): The least that each group has to get.
        most (`np.ndarray`): The most that each group may get.
    """

    option: str
    codes: np.ndarray
    names: list[str]
    least: np.ndarray
    most: np.ndarray

    def shortest(self, spent: np.ndarray) -> str | None:
        """Says which group a selection that could not be filled would have needed more of."""
        if self.option == "quotas":
            full = [f"'{name}' {most:,.0f}" for name, most, has in zip(self.names, self.most, spent) if has >= most]
            return f"at their most are {', '.join(full[:5])}" if full else None
        group = int((self.most - spent).argmax())
        return f"of responses of {self.names[group]}, {spent[group]:,.0f} of {self.most[group]:,.0f} can be selected"


def check_quotas(quotas: Mapping[str, tuple[float | None, float | None]]) -> dict[str, tuple]:
    """Refuses shares that cannot be; returns them as plain numbers.

    Raises:
        [`InstructMineError`]: Names the source.
    """
    checked = {}
    for source, bounds in quotas.items():
        try:
            least, most = (None if bound is None else float(bound) for bound in bounds)
        except (TypeError, ValueError):
            raise InstructMineError(
                f"the quota of '{source}' is {bounds!r}: give (least, most), shares from 0 to 1 or None"
            ) from None
        for bound in (least, most):
            if bound is not None and not 0 <= bound <= 1:
                raise InstructMineError(f"the quota of '{source}' has the share {bound}: it has to be from 0 to 1")
        if least is not None and most is not None and least > most:
            raise InstructMineError(f"the quota of '{source}' asks for at least {least} and at most {most}")
        checked[str(source)] = (least, most)
    total = sum(least or 0 for least, _ in checked.values())
    if total > 1 + _EXACT:
        raise InstructMineError(f"the quotas' least shares sum to {total:.6g}, above 1: lower them")
    return checked


def quota_shares(
    quotas: Mapping[str, tuple[float | None, float | None]], codes: np.ndarray, names: list[str], limit: float
) -> Shares:
    """The quotas in units of the budget.

    Units are whole: a least share is rounded up and a greatest one down; where that leaves nothing to choose from
    (a third of 100 rows for each of three sources), the other way.

    Raises:
        [`InstructMineError`]: Where a source is unknown, or the greatest shares leave a part of the budget to no one.
    """
    if unknown := [source for source in quotas if source not in names]:
        listed = ", ".join(f"'{name}'" for name in names[:20])
        raise InstructMineError(f"no row has the source '{unknown[0]}' of the quotas: the sources are {listed}")
    bounds = [quotas.get(name, (None, None)) for name in names]
    least = np.array([(least or 0) * limit for least, _ in bounds])
    most = np.array([limit if most is None else most * limit for _, most in bounds])
    if most.sum() < limit - _EXACT:
        raise InstructMineError(
            f"the quotas' greatest shares sum to {most.sum() / limit:.6g}, below 1, and name every source of the "
            "pool: raise them"
        )
    up, down = np.ceil(least - _EXACT), np.floor(most + _EXACT)
    if (up > down).any() or up.sum() > limit or down.sum() < limit:
        up, down = np.floor(least + _EXACT), np.ceil(most - _EXACT)
    return Shares("quotas", codes, names, up, down)


def bin_shares(lengths: np.ndarray, rows: np.ndarray, bins: int, costs: np.ndarray, limit: float) -> Shares:
    """Cuts `rows` into bins of about equal count by length; each gets the share of the budget that it has of `rows`.

    Rows of the same length are in the same bin, so the order of the pool does not matter.

    Args:
        lengths (`np.ndarray` of shape `(n,)`): Response tokens.
        rows (`np.ndarray`): The rows that can be selected.
        bins (`int`): How many; fewer where fewer lengths differ.
        costs (`np.ndarray` of shape `(n,)`): What each row takes of the budget.
        limit (`float`): The budget.
    """
    ordered = np.sort(lengths[rows])
    edges = np.unique(ordered[[len(ordered) * k // bins for k in range(1, bins)]])
    edges = edges[edges > ordered[0]]
    codes = np.searchsorted(edges, lengths, side="right")
    spans = [ordered[np.searchsorted(edges, ordered, side="right") == group] for group in range(len(edges) + 1)]
    names = [f"{span[0]:.0f} to {span[-1]:.0f} tokens" for span in spans]
    held = np.bincount(codes[rows], weights=costs[rows], minlength=len(names))
    most = held / held.sum() * limit
    if (costs[rows] == 1).all():  # rows are whole: the largest remainders get those that rounding down leaves
        whole = np.floor(most + _EXACT)
        late = np.argsort(whole - most, kind="stable")[: round(limit - whole.sum())]
        whole[late] += 1
        most = whole
    return Shares("length_bins", codes, names, np.zeros(len(names)), most)
