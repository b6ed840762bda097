"""From a raw pool to a curated set without finetunes: by a rule that there is, or by a strategy."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hf_instructmine as him

from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..data.texts import pool_digest
from ..errors import InstructMineError
from ..estimator.estimator import PUBLISHED
from ..estimator.file import rule_digest
from ..outputs.folder import resolved
from ..selection.budget import Budget
from .begin import agreed, check_described
from .needs import needed
from .plan import BYTES_A_ROW, SCORED, ShortPlan, clean_pool


if TYPE_CHECKING:
    from datasets import Dataset

    from ..estimator.rule import Rule
    from ..indicators.base import Indicator
    from ..selection.curated import Selection
    from ..selection.selector import Selector


def mine_directly(
    pool: Any,
    chooser: "Rule | str",
    size: Any,
    output_dir: str | Path,
    *,
    model: str | None = None,
    indicators: "Sequence[Indicator]" = (),
    eval_sets: Any = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    confirm: Callable[[Any], bool] | None = None,
    dry_run: bool = False,
    allow_mismatch: bool = False,
    described: Mapping[str, Any] | None = None,
) -> "Selection | None":
    """Scores what a rule or a strategy reads, selects, and writes card and report. The arguments are [`mine`]'s."""
    folder, rows = resolved(output_dir), as_dataset(pool, "pool", columns=columns)
    described = check_described(rows, described)
    clean, overlapping = clean_pool(rows, {} if eval_sets is None else load_eval_sets(eval_sets), columns)
    Budget.of(size=size).check_pool(clean)
    selector = him.Selector(chooser, seed=seed)
    made = _indicators(selector, indicators, model, columns)
    plan = ShortPlan(
        len(rows), len(clean), overlapping, size, chooser_name(selector), _names(made), _disk(clean, made)
    )
    request = {
        "pool": pool_digest(clean), "size": size, "seed": seed, "scores": {n: _made(made, n) for n in plan.scores},
        "chosen_by": selector.chooses_by if isinstance(chooser, str) else rule_digest(chooser),
    }  # fmt: skip
    probe = partial(_probe, clean, made, selector, allow_mismatch, plan)
    if not agreed(folder, request, confirm, dry_run, probe, plan.disk):
        return None

    probe()  # before hours of scoring
    scored = him.score(clean, made, folder / "scored") if made else clean
    asked = {"allow_mismatch": True} if allow_mismatch and selector.rule is not None else {}
    selection = selector.select(scored, size=size, columns=columns, **asked)
    selection.describe(**described)
    selection.save_to_disk(folder / "curated", overwrite=True)
    him.report(folder, columns=columns)
    return selection


def open_rule(rule: "Rule | str | None") -> "Rule":
    """A published rule by its name, one by its folder or Hub id, or the rule itself."""
    assert rule is not None  # a strategy would choose
    if not isinstance(rule, str):
        return rule
    return him.LossEstimator.from_published(rule) if rule in PUBLISHED else him.LossEstimator.from_pretrained(rule)


def chooser_name(selector: "Selector") -> str:
    """The rule or the strategy, in words."""
    if selector.rule is not None:
        return f"the rule {selector.rule.name}"
    assert selector.strategy is not None  # one of the two chooses
    return f"the strategy {selector.strategy.called}, without a rule"


def _indicators(
    selector: "Selector", given: "Sequence[Indicator]", model: str | None, columns: Mapping[str, str] | None
) -> "list[Indicator]":
    """What has to be scored; each indicator's model is looked for.

    Raises:
        [`InstructMineError`]: Where one cannot be had.
    """
    if selector.rule is not None:
        made = needed(selector.rule.indicators, selector.rule.provenance, given, model, columns)
    else:
        assert selector.strategy is not None  # one of the two chooses
        column = selector.strategy.column
        if selector.strategy.name == "knn-diversity":
            column = next((n for i in given for n in i.names if n.startswith("knn_")), "knn_6")
        made = needed([column] if column else [], {}, given, model, columns)
    for indicator in made:
        try:
            indicator.check_available()
        except InstructMineError as error:
            raise InstructMineError(
                f"{', '.join(indicator.names)} cannot be scored: {error}; --model or --indicator names another place"
            ) from error
    return made


def _names(made: "Sequence[Indicator]") -> list[str]:
    return [name for indicator in made for name in indicator.names]


def _made(made: "Sequence[Indicator]", name: str) -> dict[str, Any]:
    return next(indicator.provenance() for indicator in made if name in indicator.names)


def _disk(pool: "Dataset", made: "Sequence[Indicator]") -> int:
    return len(pool) * (2 if made else 1) * BYTES_A_ROW


def _probe(
    pool: "Dataset", made: "Sequence[Indicator]", selector: "Selector", allow_mismatch: bool, plan: ShortPlan
) -> ShortPlan:
    """Scores a dozen rows: whether the rule takes what is made, and how long all will take."""
    if not made:
        return plan
    some = np.random.default_rng(0).permutation(len(pool))[:SCORED]
    few, more = pool.select(some[: len(some) // 2 + 1]), pool.select(some)
    him.score(few, made)  # loads the models
    (_, short), (scored, long) = _timed(few, made), _timed(more, made)
    if selector.rule is not None:
        selector.rule.read(scored, allow_mismatch)
    # What each row adds; the rest is the same for any number of rows.
    slope = max(long - short, 0.0) / max(len(more) - len(few), 1)
    return replace(plan, seconds_scoring=long + slope * (len(pool) - len(more)))


def _timed(rows: "Dataset", made: "Sequence[Indicator]") -> "tuple[Dataset, float]":
    started = time.perf_counter()
    return him.score(rows, made), time.perf_counter() - started
