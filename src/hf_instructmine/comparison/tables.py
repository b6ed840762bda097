"""A comparison's outcomes as a table and as sentences."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..outputs.markdown import printable
from ..outputs.shown import Cells
from .outcomes import Outcome
from .statistics import LEVEL, PairedDifference


_FOUND = {
    "better": "better than {baseline} by {gain:.4f} ± {reach:.4f}",
    "worse": "worse than {baseline} by {loss:.4f} ± {reach:.4f}",
    "no different": "not shown to differ from {baseline}: {loss:+.4f}, interval {low:+.4f} to {high:+.4f}",
}


def sentence(mine: Outcome, baseline: str, fitted: Sequence[str] | None) -> str:
    """Whether a strategy is better than the baseline, by how much, and what that is about.

    Args:
        mine ([`Outcome`]): Of the strategy, with a difference.
        baseline (`str`): What it is compared with.
        fitted (`Sequence[str]`, *optional*): The evaluation sets that its rule was fitted to, where it has a rule.
    """
    d, baseline = mine.difference, printable(baseline)
    assert d is not None  # the baseline itself gets no sentence
    seen = "" if fitted is None else f" ({'fitted to' if mine.eval_set in fitted else 'never seen'})"
    found = _FOUND[mine.verdict].format(
        baseline=baseline, gain=-d.estimate, loss=d.estimate, reach=(d.high - d.low) / 2, low=d.low, high=d.high
    )
    corrected = f" after Holm's correction for {mine.comparisons} comparisons" if mine.comparisons > 1 else ""
    where, who = f"{printable(mine.eval_set)}{seen}, {printable(mine.amount)}", printable(mine.strategy)
    told = f"{where}: {who} is {found} nats (p = {mine.p:.3g}{corrected})"
    if isinstance(d, PairedDifference):
        told += f", over {d.parts} parts of the pool and {d.examples:,} evaluation examples"
    if mine.verdict == "no different":
        if d.low == d.high == 0:
            return f"{told}: it chose what {baseline} chose."
        return f"{told}; a difference below {_detectable(mine):.4f} would not have been seen."
    if mine.worth is not None and mine.worth.times is not None:
        told += f"; {mine.worth}"
    if mine.as_set is None:
        return f"{told}."
    one, beyond = mine.as_set, "" if mine.as_set.p < LEVEL else ", which shows nothing of other choices"
    sets = f"as one set against {one.random_sets} random ones p = {one.p:.2g}{beyond}"
    return f"{told}, over finetunes on the one set that it chose; {sets}."


def unfinished(strategy: str, baseline: str, amount: str, eval_set: str) -> str:
    """Why there is no verdict where fewer than three parts have a finished finetune of both."""
    return (
        f"{printable(eval_set)}, {printable(amount)}: not known how {printable(strategy)} compares with "
        f"{printable(baseline)}: fewer than three parts have finished finetunes of both."
    )


def _detectable(mine: Outcome) -> float:
    d = mine.difference
    assert d is not None
    return d.detectable_among(mine.comparisons) if isinstance(d, PairedDifference) else d.detectable


def table(outcomes: Sequence[Outcome], baseline: str, show: Callable[[Any], str]) -> str:
    """The outcomes as a Markdown table; for the arguments see [`columns`]."""
    shown = columns(outcomes, baseline, show)
    lines = [f"| {' | '.join(shown)} |", f"|---{'|---:' * (len(shown) - 1)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in zip(*shown.values()))])


def as_cells(outcomes: Sequence[Outcome], baseline: str) -> Cells:
    """The outcomes on one evaluation set at one amount as a table for a notebook."""
    shown = columns(outcomes, baseline, printable)
    return Cells(f"{outcomes[0].eval_set}, {outcomes[0].amount}", list(shown), list(zip(*shown.values())))


def columns(outcomes: Sequence[Outcome], baseline: str, show: Callable[[Any], str]) -> dict[str, list[str]]:
    """The outcomes as the columns of a table, in which names are as `show` makes them. A column that nothing is known
    for is left out."""
    found = {
        "strategy": [show(o.strategy) for o in outcomes],
        "finetunes": [str(o.runs) for o in outcomes],
        "rows": [f"{o.rows:.0f}" for o in outcomes],
        "tokens": [f"{o.tokens:.0f}" for o in outcomes],
        "steps": [f"{o.steps:.0f}" for o in outcomes],
        "epochs": [_number(o.epochs, ".1f") for o in outcomes],
        "loss": [f"{o.loss:.4f}" for o in outcomes],
        "bits/byte": [_number(o.bits_per_byte, ".4f") for o in outcomes],
        "sd": [_number(o.sd, ".4f") for o in outcomes],
        f"to {show(baseline)}": [f"{o.difference.estimate:+.4f}" if o.difference else "" for o in outcomes],
        "95 %": [f"{o.difference.low:+.4f} … {o.difference.high:+.4f}" if o.difference else "" for o in outcomes],
        "p": [f"{o.difference.p:.3g}" if o.difference else "" for o in outcomes],
        "Holm": [_number(o.p, ".3g") for o in outcomes],
        "random tokens": [_worth(o) for o in outcomes],
        "of the whole pool": [_number(o.whole, ".4f") for o in outcomes],
    }
    optional = ("epochs", "bits/byte", "random tokens", "of the whole pool")
    return {name: cells for name, cells in found.items() if name not in optional or any(cells)}


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)


def _worth(outcome: Outcome) -> str:
    return "" if outcome.worth is None else outcome.worth.short
