"""Several rules side by side on the same runs: published ones, one's own, and the mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.columns import column_in_pool, column_names
from ..data.containers import as_table
from ..errors import InstructMineError
from ..outputs.markdown import count, printable
from ..outputs.shown import Cells, Shown
from ..regression.choice import r_squared
from ..regression.held_out import spearman
from ..regression.runs import read_runs, run_ids


if TYPE_CHECKING:
    from ..estimator.estimator import LossEstimator


@dataclass
class ComparedRule:
    """One rule's standing.

    Attributes:
        name (`str`): Of the rule.
        r2 (`float` or `None`): Of its predictions as they are. `None` where it cannot predict these runs.
        shifted_r2 (`float` or `None`): Of its predictions shifted to the runs' mean, since another base model or
            evaluation set has another level.
        scaled_r2 (`float` or `None`): The squared correlation, with sign: of its predictions shifted and scaled.
        spearman (`float` or `None`): Rank correlation, which is all that matters to a ranking.
        seen (`int`): How many of the runs the rule was fitted on; for those its held-out predictions count.
        why_not (`str`): Why it cannot predict these runs, where it cannot.
    """

    name: str
    r2: float | None = None
    shifted_r2: float | None = None
    scaled_r2: float | None = None
    spearman: float | None = None
    seen: int = 0
    why_not: str = ""


@dataclass(repr=False)
class Comparison(Shown):
    """What [`compare`] finds; prints as a table.

    Attributes:
        target (`str`): The column of the loss.
        n (`int`): Runs that the rules are compared on.
        rules (`list[ComparedRule]`): The mean of the other runs first, then each rule.
    """

    target: str
    n: int
    rules: list[ComparedRule]

    def _line(self) -> str:
        names = ", ".join(printable(rule.name, 40) for rule in self.rules[1:])
        return f"{names} on {count(self.n, 'run')}, by log {printable(self.target, 40)}"

    def _tables(self) -> list[Cells]:
        numbers = ("r2", "shifted_r2", "scaled_r2", "spearman")
        rows = []
        for rule in self.rules:
            cells = [getattr(rule, name) for name in numbers]
            note = rule.why_not or (f"cross-validated on {count(rule.seen, 'run')}" if rule.seen else "")
            rows.append([rule.name, note, *("–" if cell is None else f"{cell:.3f}" for cell in cells)])
        header = ["rule", "", "R²", "shifted", "r² signed", "Spearman"]
        return [Cells("Every rule's predictions are of runs it was not fitted on", header, rows, 2)]

    def __str__(self) -> str:
        width = max(len(rule.name) for rule in self.rules) + 2
        lines = [
            f"log {self.target} of {count(self.n, 'run')}; every rule's predictions are of runs it was not fitted on",
            f"{'':<{width}}{'R²':>9}{'shifted':>9}{'r² signed':>11}{'Spearman':>10}",
        ]
        for rule in self.rules:
            if rule.why_not:
                lines.append(f"{rule.name:<{width}}{rule.why_not}")
                continue
            cells = [rule.r2, rule.shifted_r2, rule.scaled_r2, rule.spearman]
            shown = ["–" if cell is None else f"{cell:.3f}" for cell in cells]
            held = f"   cross-validated on {count(rule.seen, 'run')} it was fitted on" if rule.seen else ""
            lines.append(f"{rule.name:<{width}}{shown[0]:>9}{shown[1]:>9}{shown[2]:>11}{shown[3]:>10}{held}")
        return "\n".join(lines)


def compare(
    rules: "Sequence[LossEstimator]", runs: Any, target: str = "loss_self_instruct", group: str | None = None
) -> Comparison:
    """Compares rules, and the mean, on runs.

    A rule's predictions of runs it was fitted on are replaced by its cross-validated ones, so that one's own rule can
    be compared on its own runs. The mean is the mean of the other runs, which is worse than 0 by a little.

    Args:
        rules (`Sequence[LossEstimator]`): For log loss.
        runs (`Dataset`, or what else [`as_dataset`] takes): As for [`LossEstimator.fit`].
        target (`str`, *optional*, defaults to `"loss_self_instruct"`): The loss to compare on.
        group (`str`, *optional*): As for [`LossEstimator.fit`], where base models or recipes are mixed.

    Returns:
        [`Comparison`]

    Raises:
        [`InstructMineError`]: Where the runs have no usable target, or a rule predicts loss rather than log loss.

    Example:

    ```python
    print(him.compare([him.LossEstimator.from_published("instructmining-v1"), rule], runs))
    ```
    """
    runs = as_table(runs, "runs")
    names = column_names(runs)
    wanted = dict.fromkeys(c for rule in rules for c in rule.indicators if column_in_pool(c, names) in names)
    table = read_runs(runs, [target], [column_in_pool(c, names) for c in wanted], group=group, constant=True)
    if (table.losses <= 0).any():
        raise InstructMineError(f"'{target}' is not above 0 in every run: it has no logarithm")
    y = np.log(table.losses[:, 0])
    others = (y.sum() - y) / (len(y) - 1)
    compared = [ComparedRule("mean of the other runs", r2=_r2(y, others), shifted_r2=0.0, scaled_r2=0.0)]
    for rule in rules:
        if not rule.log_target:
            raise InstructMineError(f"the rule '{rule.name}' predicts loss, not log loss: it cannot be compared here")
        missing = [c for c in rule.indicators if column_in_pool(c, names) not in names]
        if missing:
            compared.append(ComparedRule(rule.name, why_not=f"the runs have no {', '.join(missing)}"))
            continue
        columns = {c: table.columns[column_in_pool(c, names)] for c in rule.indicators}
        predicted = rule.apply(columns, len(y)) if rule.terms else np.full(len(y), rule.intercept)
        predicted, seen = _unseen(rule, runs, names, table.rows, predicted)
        correlation = np.corrcoef(predicted, y)[0, 1] if np.ptp(predicted) > 0 else 0.0
        compared.append(
            ComparedRule(
                rule.name,
                r2=_r2(y, predicted),
                shifted_r2=_r2(y, predicted + (y - predicted).mean()),
                scaled_r2=float(correlation * abs(correlation)),
                spearman=spearman(predicted, y),
                seen=seen,
            )
        )
    return Comparison(target, len(y), compared)


def _unseen(
    rule: "LossEstimator", runs: Any, names: list[str], rows: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, int]:
    """Puts a rule's cross-validated predictions in the place of those of runs it was fitted on."""
    if rule.fitted is None:
        return predicted, 0
    targets, record = rule.target.split(" + "), rule.fitted.runs
    if not all(name in names for name in (*targets, *record["columns"])):
        return predicted, 0
    assert rule.diagnostics is not None  # as the fit is there
    known = dict(zip(record["ids"], rule.diagnostics.held_out))
    ids = run_ids(runs, rows, targets, record["columns"])
    return np.array([known.get(i, p) for i, p in zip(ids, predicted)]), sum(i in known for i in ids)


def _r2(y: np.ndarray, predicted: np.ndarray) -> float:
    return float(r_squared(y[:, None], predicted[:, None], np.ones(len(y)))[0])
