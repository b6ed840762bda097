"""What became of every row of the pool, and what each term of the rule says of it."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.columns import indicator_names
from ..data.texts import TextKeys, has_text
from ..errors import InstructMineError
from ..estimator.rule import Rule, contributions_of
from ..outputs.markdown import count
from ..outputs.privacy import without_paths
from ..selection.decisions import SELECTED
from .contents import Contents


UNPREDICTED, NOT_KNOWN = "no prediction", "not selected: why is not known"
UNSELECTED, UNFOUND = "no selection was made", "which rows were selected is not known"
_CHUNK = 4096
WITHOUT_COMPARING = "; or do not compare texts, with drop_duplicates=False"  # an advice to who selects


@dataclass
class Judged:
    """The rows that a report shows, and what is known of each.

    Attributes:
        rows (`Dataset`): The scored pool; the selected rows alone where there is no pool.
        whole (`bool`): Whether it is the pool.
        codes (`np.ndarray` of shape `(n,)`): What became of each row, a number of `names`.
        names (`list[str]`): The decisions.
        log_loss (`np.ndarray` of shape `(n,)`, *optional*): What the rule predicts of each row.
        contributions (`dict[str, np.ndarray]`): By term, what it adds to each row's prediction, less its mean.
        has_text (`bool`): Whether the rows have texts that can be read.
        notes (`list[str]`): What cannot be known, a line each.
    """

    rows: Dataset
    whole: bool
    codes: np.ndarray
    names: list[str]
    log_loss: np.ndarray | None = None
    contributions: dict[str, np.ndarray] = field(default_factory=dict)
    has_text: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def selected(self) -> np.ndarray | None:
        """Which rows were selected, shape `(n,)`; None where no selection was made."""
        return self.codes == self.names.index(SELECTED) if SELECTED in self.names else None

    def indicators(self, rule: Rule | None) -> list[str]:
        """The columns of numbers to show, those of the rule first."""
        first = [] if rule is None else [name for name in rule.indicators if name in self.rows.column_names]
        return list(dict.fromkeys([*first, *indicator_names(self.rows)]))


def judge_rows(contents: Contents, columns: Mapping[str, Any] | None) -> Judged | None:
    """Tells what became of the rows of the pool; None where there is neither a pool nor a selection.

    Args:
        contents ([`Contents`]): What there is.
        columns (`Mapping[str, Any]`, *optional*): Which column is which, where the layout is not detected.
    """
    if contents.scored is None:
        if contents.curated is None or not len(contents.curated):
            return None
        kept = contents.curated
        judged = Judged(kept, False, np.zeros(len(kept), dtype=np.uint8), [SELECTED])
        judged.notes.append("the pool is not here: the selected rows alone are shown; name its folder with --pool")
    else:
        pool = contents.scored
        judged = Judged(pool, True, np.zeros(len(pool), dtype=np.uint8), [UNSELECTED])
    judged.has_text = _has_text(judged.rows, columns, judged.notes)
    _predict(judged, contents)
    if judged.whole and contents.curated is not None:
        _decide(judged, contents, columns)
    return judged


def _has_text(rows: Dataset, columns: Mapping[str, Any] | None, notes: list[str]) -> bool:
    """Whether the rows have texts in a known layout; a note says why not."""
    try:
        if has_text(rows, columns):
            return True
        notes.append("the rows have no texts")
    except InstructMineError as error:
        told = without_paths(str(error)).removesuffix(WITHOUT_COMPARING)
        notes.append(f"the texts of the rows are not shown: {told}")
    return False


def _predict(judged: Judged, contents: Contents) -> None:
    """Predicts every row by the rule, where the pool has what the rule reads."""
    rule, selection = contents.rule, contents.selection
    if rule is None:
        return
    asked = {} if selection is None else selection.asked
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it cannot be checked what made a column was said when selecting
            values = rule.read(judged.rows, bool(asked.get("allow_mismatch")))
            judged.log_loss = rule.apply(values, len(judged.rows))
            judged.contributions = contributions_of(rule, values)
    except InstructMineError as error:
        judged.notes.append(f"the rule cannot be applied to these rows: {without_paths(str(error))}")


def _decide(judged: Judged, contents: Contents, columns: Mapping[str, Any] | None) -> None:
    """Finds what became of each row: as it is recorded where the selection was made of this very pool, else which
    rows are in the selection by their texts."""
    selection, pool, kept = contents.selection, judged.rows, contents.curated
    assert kept is not None  # as its caller has looked
    if selection is not None and selection.decisions is not None and selection.decisions.is_of(pool):
        judged.codes, judged.names = selection.decisions.codes, list(selection.decisions.names)
        return
    judged.names = [SELECTED, NOT_KNOWN, UNPREDICTED]
    judged.codes[:] = 1
    if judged.log_loss is not None:
        judged.codes[~np.isfinite(judged.log_loss)] = 2
    if selection is not None and _is_pool(selection.pool_log_loss, judged.log_loss):
        judged.codes[selection.indices] = 0
        judged.notes.append("why the others were not selected is not known: an earlier version made the selection")
        return
    if not judged.has_text or not _has_text(kept, columns, []):
        judged.codes[:], judged.names = 0, [UNFOUND]
        return
    found = _matches(pool, kept, columns)
    judged.codes[found] = 0
    if len(found) < len(kept):
        judged.notes.append(
            f"{count(len(kept) - len(found), 'selected row is', 'selected rows are')} not in this pool: it is another "
            "one, or was changed"
        )


def _is_pool(recorded: np.ndarray, predicted: np.ndarray | None) -> bool:
    """Whether a selection was made of these rows: each has the prediction that was recorded."""
    return (
        predicted is not None
        and recorded.shape == predicted.shape
        and np.allclose(recorded, predicted, rtol=1e-9, atol=1e-12, equal_nan=True)
    )


def _matches(pool: Dataset, kept: Dataset, columns: Mapping[str, Any] | None) -> np.ndarray:
    """Numbers of the rows of the pool that hold the texts of the selected ones; of exact copies the first ones."""
    wanted: dict[bytes | None, int] = {}
    keys = TextKeys(kept, columns)
    for start in range(0, len(kept), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(kept)))
        keys.load(rows)
        for row in rows.tolist():
            wanted[keys[row]] = wanted.get(keys[row], 0) + 1
    found, keys = [], TextKeys(pool, columns)
    with tqdm(total=len(pool), desc="Finding the selected rows", unit="row", delay=3) as bar:
        for start in range(0, len(pool), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(pool)))
            keys.load(rows)
            for row in rows.tolist():
                key = keys[row]
                if key is not None and wanted.get(key, 0):
                    wanted[key] -= 1
                    found.append(row)
            bar.update(len(rows))
    return np.array(found, dtype=np.int64)
