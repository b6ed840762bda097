"""How a strategy did in a comparison."""

from dataclasses import dataclass

from ..outputs.markdown import printable
from ..outputs.shown import Shown
from .statistics import LEVEL, Difference, OneSet, PairedDifference
from .worth import Worth


@dataclass(repr=False)
class Outcome(Shown):
    """How one strategy did on one evaluation set with one budget.

    Attributes:
        amount (`str`): The budget: `"tokens=8000"` or `"size=128"`.
        eval_set (`str`): The evaluation set.
        strategy (`str`): Its name.
        runs (`int`): Finetunes that it was measured on.
        rows (`float`): Rows trained on, the mean of the finetunes.
        tokens (`float`): Their response tokens, the mean.
        steps (`float`): Optimiser steps, the mean.
        loss (`float`): Mean loss (Σ NLL / Σ tokens, nats).
        sd (`float`, *optional*): Its spread between finetunes.
        difference ([`Difference`] or [`PairedDifference`], *optional*): To the baseline; None for the baseline itself.
        p (`float`, *optional*): Of the difference, by Holm's correction over the strategies of this table.
        as_set ([`OneSet`], *optional*): The same with the chosen set as the unit, where the strategy chose once.
        comparisons (`int`): How many Holm's correction is for.
        epochs (`float`, *optional*): Epochs trained, the mean.
        bits_per_byte (`float`, *optional*): The loss, by bytes of the responses.
        whole (`float`, *optional*): Loss after training on what it chooses of the whole pool, nats.
        worth ([`Worth`], *optional*): How many random tokens its choice is worth.
    """

    amount: str
    eval_set: str
    strategy: str
    runs: int
    rows: float
    tokens: float
    steps: float
    loss: float
    sd: float | None
    difference: Difference | PairedDifference | None = None
    p: float | None = None
    as_set: OneSet | None = None
    comparisons: int = 1
    epochs: float | None = None
    bits_per_byte: float | None = None
    whole: float | None = None
    worth: Worth | None = None

    def _line(self) -> str:
        found = "" if self.difference is None else f", {self.verdict} by {self.difference.estimate:+.4f} nats"
        where = f"{printable(self.eval_set, 40)}, {printable(self.amount, 40)}"
        return f"{printable(self.strategy, 40)} on {where}: loss {self.loss:.4f}{found}"

    @property
    def verdict(self) -> str:
        """`"better"`, `"worse"` or `"no different"`: different needs p < 0.05 and an interval that leaves out 0."""
        if self.difference is None or self.p is None or self.p >= LEVEL:
            return "no different"
        return "better" if self.difference.high < 0 else "worse" if self.difference.low > 0 else "no different"
