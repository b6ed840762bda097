"""The whole path, as plain calls that can be copied into a notebook."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..data.texts import pool_digest
from ..finetuning.recipe import Recipe
from ..outputs.folder import resolved
from ..sweep.design import design_once
from .begin import agreed, check_asked, check_described
from .direct import mine_directly, open_rule
from .plan import (
    DESIGNED,
    LOGGED,
    REPLICATES,
    Plan,
    ShortPlan,
    clean_pool,
    disk_bytes,
    executor_for,
    make_plan,
    measure,
    own_recipe,
)
from .plan import indicators as needed_by_sweep
from .size import find_size, read_sizes


if TYPE_CHECKING:
    from ..estimator.rule import Rule
    from ..indicators.base import Indicator
    from ..selection.curated import Selection


def mine(
    pool: Any,
    model: str | None = None,
    eval_sets: Any = None,
    size: int | str | None = None,
    output_dir: str | Path | None = None,
    *,
    recipe: "Recipe | Mapping[str, Any] | str | Path | None" = None,
    num_runs: int = 24,
    parts: int = 8,
    executor: str | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    confirm: "Callable[[Plan | ShortPlan], bool] | None" = None,
    dry_run: bool = False,
    search_size: Sequence[int] | None = None,
    keep_models: bool = False,
    described: Mapping[str, Any] | None = None,
    rule: "Rule | str | None" = None,
    strategy: str | None = None,
    indicators: "Sequence[Indicator]" = (),
    allow_mismatch: bool = False,
) -> "Selection | None":
    """Goes the whole way: scores a pool, learns a rule from finetunes, selects by it, and compares that with random.

    Every stage writes a folder of its own in `output_dir`, which the functions and verbs for it open too: `scored`,
    `sweep`, `rule`, `search`, `comparison`, `curated`; and `report.html` shows them all. Killed anywhere, the same
    call goes on. With a `rule` or a `strategy` nothing is finetuned: the pool is scored with what that reads.

    Args:
        pool (`Dataset`, or what else [`as_dataset`] takes): The raw rows. Copies, rows without a response, and rows
            that hold a prompt of an evaluation set, are left out.
        model (`str`): Language model to score and to finetune: Hub id or folder.
        eval_sets: As for [`run_sweep`]; the rule is fitted to the first. At least 20 examples each.
        size (`int` or `"auto"`): Rows to keep, at most half of the usable ones; `"auto"` searches for it.
        output_dir (`str` or `Path`): For all that is made.
        recipe ([`Recipe`], mapping or path, *optional*): How to finetune; chosen for the machine if not given.
        num_runs (`int`, defaults to 24): Subsets that the sweep trains on; four of them are trained twice.
        parts (`int`, defaults to 8): Parts of the pool that the comparison is replicated over.
        executor (`str`, *optional*): As for [`run_sweep`]; `"local"` where there are several GPUs, else `"inline"`.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        seed (`int`, defaults to 0): Of everything that is drawn.
        confirm (`Callable[[Plan], bool]`, *optional*): Is shown the plan before the costly part, and says whether to
            go on. It is asked once: what is begun goes on without. A no leaves nothing.
        dry_run (`bool`, defaults to `False`): Show `confirm` the plan, and stop.
        search_size (`Sequence[int]`, *optional*): The least and the most rows, to search for the size in between.
        keep_models (`bool`, defaults to `False`): Whether the final model of each finetune is kept.
        described (`Mapping[str, Any]`, *optional*): What [`Selection.describe`] is told: licence, language, name.
        rule ([`LossEstimator`] or `str`, *optional*): A rule that there is: select by it.
        strategy (`str`, *optional*): Select without a rule, as [`Selector`] does.
        indicators (`Sequence[Indicator]`): Models of a rule's columns, in place of those that it records.
        allow_mismatch (`bool`, defaults to `False`): As for [`Selector.select`].

    Returns:
        [`Selection`]: With the comparison in its card; None where `confirm` says no.

    Raises:
        [`InstructMineError`]: Before the costly part, where the pool, the model, an evaluation set, the folder or its
            disk is not fit for it.

    Example:

    ```python
    him.mine("chats.jsonl", "HuggingFaceTB/SmolLM2-135M-Instruct", {"mine": "eval.jsonl"}, 2000, "mined")
    ```
    """
    check_asked(model, eval_sets, size, output_dir, search_size, rule, strategy)
    folder = resolved(str(output_dir))
    if rule is not None or strategy is not None:
        return mine_directly(
            pool, strategy or open_rule(rule), size, folder, model=model, indicators=indicators, eval_sets=eval_sets,
            columns=columns, seed=seed, confirm=confirm, dry_run=dry_run, allow_mismatch=allow_mismatch,
            described=described,
        )  # fmt: skip
    assert model is not None  # as was checked
    rows, eval_sets = as_dataset(pool, "pool", columns=columns), load_eval_sets(eval_sets)
    described = check_described(rows, described)
    clean, overlapping = clean_pool(rows, eval_sets, columns)
    most, sizes = read_sizes(size, search_size, len(clean), parts)
    plan = make_plan(len(rows), clean, overlapping, model, eval_sets, most, num_runs, parts, columns, seed, sizes)
    own = own_recipe(recipe, model, plan)
    disk = disk_bytes(plan, own, keep_models)
    request = {"pool": pool_digest(clean), "plan": plan.request, "recipe": own.comparable, "seed": seed}
    measured = partial(measure, replace(plan, disk=disk), clean, model, own, eval_sets, columns, seed)
    if not agreed(folder, request, confirm, dry_run, measured, disk):
        return None

    training = {"executor": executor or executor_for(), "columns": columns, "keep_models": keep_models}
    scored = him.score(clean, needed_by_sweep(model, columns), folder / "scored")
    mixtures, _ = design_once(
        scored, folder / "sweep", num_runs=num_runs, subset_tokens=plan.subset_tokens, method="tilted",
        indicators=DESIGNED, replicates=min(REPLICATES, num_runs), seed=seed,
    )  # fmt: skip
    runs = him.run_sweep(scored, mixtures, own, eval_sets, folder / "sweep", **training)
    target = f"loss_{next(iter(eval_sets))}"
    fitted = him.LossEstimator.fit(runs, target=target, indicators=DESIGNED, logged=LOGGED, seed=seed, name="mined")
    fitted.save_pretrained(folder / "rule")
    kept, told = find_size(plan, scored, fitted, own, eval_sets, folder / "search", training, seed)
    selection = him.Selector(fitted).select(scored, size=kept, columns=columns)
    selection.describe(**described)
    selection.sections += told
    comparison = him.compare_strategies(
        scored, {"rule": fitted}, own, eval_sets, folder / "comparison", tokens=[plan.tokens_in_part(kept)],
        parts=parts, random_at=(), whole_pool=False, seed=seed, **training,
    )  # fmt: skip
    selection.attach_evidence(comparison)
    selection.save_to_disk(folder / "curated", overwrite=True)
    him.report(folder, columns=columns)
    return selection
