"""A few rows that were kept and a few that were not, with the indicators that decided: what a card shows."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..data.columns import Numbers
from ..data.conversation import read_conversations
from ..data.fields import read_columns
from ..estimator.rule import contributions_of
from .decisions import BEYOND, SELECTED, Decisions
from .order import lowest, rows_where


if TYPE_CHECKING:
    from ..estimator.rule import Rule


EACH, AT_BORDER = 5, 2  # rows of either kind; of these, how many have predictions nearest to the other kind's
SEED = 0  # of the others, which are drawn
MOST = 300  # characters of a text
# Where an example is from.
INSIDE, OUTSIDE, DRAWN = "highest prediction kept", "lowest prediction left", "drawn at random"
LAST, FIRST = "last one kept", "first one left"  # the same where no rule predicts


def choose_examples(
    pool: Dataset,
    decisions: Decisions,
    log_loss: np.ndarray,
    rule: "Rule | None",
    values: Mapping[str, Numbers],
    columns: Mapping[str, Any] | None,
    sources: tuple[np.ndarray, Sequence[str]] | None,
) -> list[dict[str, Any]]:
    """Rows on either side of the border, and others drawn from all that were kept and all that were not.

    The choice reads predictions and decisions, no text, so no row is there because it reads well.

    Args:
        pool (`Dataset`): All rows.
        decisions ([`Decisions`]): What became of them.
        log_loss (`np.ndarray` of shape `(n,)`): What the rule predicts of them.
        rule ([`Rule`], *optional*): The rule; None where a strategy chose.
        values (`Mapping[str, Numbers]`): Its indicators.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
        sources (`tuple`, *optional*): Each row's source and the sources' names, where there are any.

    Returns:
        `list[dict]`: Plain data, the kept ones first: `row` in the pool, `fate`, `how` it was chosen, `source`,
        `log_loss`, `prompt` and `response` (cut; None for a pool without text), and by term of the rule the `values`
        of its indicator and its `contributions` (in nats of log loss, against the mean of the pool).
    """
    kept = decisions.of(SELECTED)
    inside = kept[np.argsort(log_loss[kept], kind="stable")][::-1][:AT_BORDER]
    outside = lowest(log_loss, rows_where(decisions.codes == decisions.names.index(BEYOND)), AT_BORDER)
    at_border = (INSIDE, OUTSIDE) if rule is not None else (LAST, FIRST)
    chosen = [
        *((row, at_border[0]) for row in inside.tolist()),
        *((row, DRAWN) for row in _drawn(kept, inside)),
        *((row, at_border[1]) for row in outside.tolist()),
        *((row, DRAWN) for row in _drawn(rows_where(decisions.codes != 0), outside)),
    ]
    rows = [row for row, _ in chosen]
    parts = {} if rule is None or rule.regressor is not None else contributions_of(rule, values, rows)
    terms = values if rule is None else {term.name: values[term.column] for term in rule.terms}
    told = {name: column[rows] for name, column in terms.items()}
    texts = _texts(pool, rows, columns)
    return [
        {
            "row": row,
            "fate": decisions.names[decisions.codes[row]],
            "how": how,
            "source": None if sources is None else str(sources[1][sources[0][row]])[:MOST],
            "log_loss": _plain(log_loss[row]),
            **text,
            "values": {name: _plain(column[place]) for name, column in told.items()},
            "contributions": {name: _plain(part[place]) for name, part in parts.items()},
        }
        for place, ((row, how), text) in enumerate(zip(chosen, texts))
    ]


def _drawn(rows: np.ndarray, taken: np.ndarray) -> list[int]:
    left = len(rows) - len(taken)
    places = np.sort(np.random.default_rng(SEED).choice(left, min(EACH - len(taken), left), replace=False))
    for taken_place in np.sort(np.searchsorted(rows, taken)):  # places among those left become places among all
        places += places >= taken_place
    return rows[places].tolist()


def _texts(pool: Dataset, rows: Sequence[int], columns: Mapping[str, Any] | None) -> list[dict[str, str | None]]:
    """The beginnings of each row's prompt and response; None where the pool has no text."""
    try:
        names = read_columns(pool.column_names, columns)
        batch = pool.with_format(None).select_columns(names)[rows]
        read = read_conversations(batch, columns)
    except (ValueError, OSError):  # numbers alone, a layout that nothing had to read, a picture that is not there
        return [{"prompt": None, "response": None} for _ in rows]
    return [{"prompt": _cut(turn.prompt_text), "response": _cut(turn.written)} for turn in read]


def _cut(text: str) -> str:
    text = " ".join(text[: 10 * MOST].split())
    return text if len(text) <= MOST else text[: MOST - 1] + "…"


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
