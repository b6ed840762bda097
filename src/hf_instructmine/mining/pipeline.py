"""The whole path, as plain calls that can be copied into a notebook."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..data.containers import as_dataset
from ..data.evaluation_sets import load_eval_sets
from ..data.texts import pool_digest
from ..finetuning.recipe import Recipe
from ..outputs.folder import resolved
from ..outputs.records import Records
from ..sweep.design import design_once
from .plan import DESIGNED, LOGGED, REPLICATES, Plan, clean_pool, indicators, make_plan, measure, recipe_for


if TYPE_CHECKING:
    from ..selection.curated import Selection

REQUEST, PLAN = "mine.json", "plan.json"


def mine(
    pool: Any,
    model: str,
    eval_sets: Any,
    size: int,
    output_dir: str | Path,
    *,
    recipe: "Recipe | Mapping[str, Any] | str | Path | None" = None,
    num_runs: int = 24,
    parts: int = 8,
    executor: str = "inline",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    confirm: Callable[[Plan], bool] | None = None,
) -> "Selection | None":
    """Goes the whole way: scores a pool, learns a rule from finetunes, selects by it, and compares that with random.

    Every stage writes a folder of its own in `output_dir`, which the functions and verbs for it open too: `scored`,
    `sweep`, `rule`, `comparison`, `curated`; and `report.html` shows them all. Killed anywhere, the same call goes on.

    Args:
        pool (`Dataset`, or what else [`as_dataset`] takes): The raw rows. Copies, rows without a response, and rows
            that hold a prompt of an evaluation set, are left out.
        model (`str`): Language model to score and to finetune: Hub id or folder.
        eval_sets: As for [`run_sweep`]; the rule is fitted to the first. At least 20 examples each.
        size (`int`): Rows to keep, at most half of the usable ones.
        output_dir (`str` or `Path`): For all that is made.
        recipe ([`Recipe`], mapping or path, *optional*): How to finetune; chosen for the machine if not given.
        num_runs (`int`, defaults to 24): Subsets that the sweep trains on; four of them are trained twice.
        parts (`int`, defaults to 8): Parts of the pool that the comparison is replicated over.
        executor (`str`, defaults to `"inline"`): As for [`run_sweep`].
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        seed (`int`, defaults to 0): Of everything that is drawn.
        confirm (`Callable[[Plan], bool]`, *optional*): Is shown the plan before the costly part, and says whether to
            go on. It is asked once: what is begun goes on without.

    Returns:
        [`Selection`]: With the comparison in its card; None where `confirm` says no.

    Raises:
        [`InstructMineError`]: Before the costly part, where the pool, the model, an evaluation set or the folder is
            not fit for it.

    Example:

    ```python
    him.mine("chats.jsonl", "HuggingFaceTB/SmolLM2-135M-Instruct", {"mine": "eval.jsonl"}, 2000, "mined")
    ```
    """
    folder = resolved(output_dir)
    rows, eval_sets = as_dataset(pool, "pool", columns=columns), load_eval_sets(eval_sets)
    clean, overlapping = clean_pool(rows, eval_sets, columns)
    plan = make_plan(len(rows), clean, overlapping, model, eval_sets, size, num_runs, parts, columns, seed)
    own = recipe_for(model, round(plan.subset_tokens / plan.tokens_a_row)) if recipe is None else _read(recipe, model)
    records = Records(folder)
    records.claim(
        REQUEST, {"pool": pool_digest(clean), "plan": asdict(plan), "recipe": own.comparable, "seed": seed}, "path"
    )
    if not _agreed(records, confirm, lambda: measure(plan, clean, model, own, eval_sets, columns, seed)):
        return None

    scored = him.score(clean, indicators(model, columns), folder / "scored")
    mixtures, _ = design_once(
        scored, folder / "sweep", num_runs=num_runs, subset_tokens=plan.subset_tokens, method="tilted",
        indicators=DESIGNED, replicates=min(REPLICATES, num_runs), seed=seed,
    )  # fmt: skip
    runs = him.run_sweep(scored, mixtures, own, eval_sets, folder / "sweep", executor, columns=columns)
    target = f"loss_{next(iter(eval_sets))}"
    rule = him.LossEstimator.fit(runs, target=target, indicators=DESIGNED, logged=LOGGED, seed=seed, name="mined")
    rule.save_pretrained(folder / "rule")
    selection = him.Selector(rule).select(scored, size=size, columns=columns)
    comparison = him.compare_strategies(
        scored, {"rule": rule}, own, eval_sets, folder / "comparison", tokens=[plan.part_tokens], parts=parts,
        random_at=(), whole_pool=False, executor=executor, columns=columns, seed=seed,
    )  # fmt: skip
    selection.attach_evidence(comparison)
    selection.save_to_disk(folder / "curated", overwrite=True)
    him.report(folder, columns=columns)
    return selection


def _read(recipe: Any, model: str) -> Recipe:
    settings = recipe.settings if isinstance(recipe, Recipe) else Recipe.load(recipe).settings
    own = Recipe({**settings, "model_name_or_path": model})
    own.arguments()
    return own


def _agreed(records: Records, confirm: Callable[[Plan], bool] | None, measured: Callable[[], Plan]) -> bool:
    """Whether to go on: asked once, and shown what it takes."""
    if confirm is None:
        return True
    path = records.folder / PLAN
    known = records.read(path) if path.exists() else None
    if known is not None and known["agreed"]:
        return True
    plan = Plan(**known["plan"]) if known is not None else measured()
    records.write(path, {"plan": asdict(plan), "agreed": False})
    if not confirm(plan):
        return False
    records.write(path, {"plan": asdict(plan), "agreed": True})
    return True
