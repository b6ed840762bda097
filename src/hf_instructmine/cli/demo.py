"""The main job on the bundled sample pool with real small models, and with a truth that is known.

Raw rows are scored; a rule is fitted to a recorded sweep of finetunes on the pool, which comes with the package;
the rule selects; and finetunes on what it chooses are compared with finetunes on random rows. Half of the pool is
damaged on purpose, and no step reads which half: at the end it is counted what the selection kept out.
"""

import argparse
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill, indent, wrap
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..data.sample_pool import DAMAGES, load_sample_evaluation, load_sample_pool, load_sample_runs
from ..models.packaged import smollm2_135m
from ..outputs.files import written_whole
from .options import add_verb, pick


if TYPE_CHECKING:
    from datasets import Dataset

    from ..comparison.results import StrategyComparison
    from ..estimator.estimator import LossEstimator
    from ..selection.curated import Selection

# The last 4 of SmolLM2-135M's 30 layers, over a trunk that is run once per text. Steps, learning rate and tokens were
# chosen on undamaged against random rows alone (docs/demo.md).
RECIPE: dict[str, Any] = {
    "dtype": "float32",
    "train_last_layers": 4,
    "cached_trunk": True,
    "budget": "steps",
    "max_steps": 24,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
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
SWEPT_TOKENS = 3200  # response tokens in each subset of the recorded sweep, which takes the recipe's steps
TARGET = "loss_evaluation"
DAMAGE, NONE = "damage", "none"  # the truth about a row: read at the end alone
RULE = "rule"  # its name in the comparison
DESIGNED = ("nll", "ifd", "end_of_turn", "mtld")
CANDIDATES, LOGGED, SQUARED = ("end_of_turn", "mtld"), ("end_of_turn", "mtld"), ("mtld",)
WIDTH = 100
RUNS = "demo_sweep.jsonl"  # under data/
# What of a run is recorded: what a rule is fitted to, and what another machine can check.
_KEPT = ("mixture_id", "seed", "indices", "subset_size", "subset_tokens", *DESIGNED, "status", TARGET,
         f"base_{TARGET}", "steps", "epochs", "train_tokens", "recipe_hash", "base_model")  # fmt: skip


@dataclass(frozen=True)
class Size:
    """How much a demo does: the parts, the response tokens chosen in each, and the optimiser steps on them."""

    parts: int
    tokens: int
    steps: int
    minutes: str
    seconds: tuple[int, int, int]  # of steps 1, 2 and 4 on two quiet cores


FULL = Size(parts=8, tokens=1400, steps=16, minutes="4 minutes", seconds=(70, 3, 150))
QUICK = Size(parts=4, tokens=800, steps=6, minutes="2 minutes", seconds=(20, 3, 50))


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    about = "Curate the bundled sample pool with real small models, from raw rows to a dataset card with evidence."
    verb = add_verb(verbs, "demo", about, run)
    verb.add_argument("--output-dir", metavar="DIR", default="demo-output", help="folder for what it makes")
    verb.add_argument(
        "--rule", metavar="RULE", help="folder of a rule to select by, in place of one fitted to the recorded sweep"
    )
    verb.add_argument("--quick", action="store_true", help="every fourth row of the pool, and fewer finetunes")
    verb.add_argument(
        "--sweep", action="store_true", help="make the sweep anew that the demo's rule is fitted to, and nothing else"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    # Libraries read it when they are imported: a bar of each step of each would bury what the demo says.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if args.sweep:
        record_sweep(Path(args.output_dir))
    else:
        run_demo(**pick(args, run_demo))


def run_demo(output_dir: str | Path, rule: str | None = None, quick: bool = False) -> "Selection":
    """Scores the pool, fits a rule to the recorded sweep, selects by it, and compares it with random rows.

    Args:
        output_dir (`str` or `Path`): Gets `scored/`, `rule/`, `curated/` and `comparison/`. Run again, it reuses
            what is done.
        rule (`str`, *optional*): Folder of a rule to select by, in place of one fitted to the recorded sweep.
        quick (`bool`, defaults to `False`): Takes every fourth row of the pool, and trains less.

    Returns:
        [`Selection`]: By the rule, with the comparison in its card.

    Raises:
        [`InstructMineError`]: Where the model's package is not installed, or the folder cannot be written.
    """
    started, folder, size = time.perf_counter(), Path(output_dir, "quick" if quick else ""), QUICK if quick else FULL
    smollm2_135m()  # what is not installed is said before anything else
    pool = demo_pool(quick)
    damaged = sum(kind != NONE for kind in pool[DAMAGE])
    print(
        f"Which of {len(pool)} rows are worth finetuning on? {damaged} of them were damaged on purpose, and no step "
        f"reads which.\nThis takes about {size.minutes} on two quiet cores. Stopped and started again, it goes on.\n"
    )
    with step(f"1/4 Score every row with SmolLM2-135M ({size.seconds[0]} s)"):
        scored = score_demo_pool(pool, folder / "scored")
    runs = recorded_runs()
    with step(f"2/4 Fit a rule to the {len(runs)} recorded finetunes on this pool ({size.seconds[1]} s)"):
        fitted = fit_demo_rule(runs) if rule is None else him.LossEstimator.from_pretrained(rule)
        fitted.save_pretrained(folder / "rule")
    print(rule_in_words(fitted))
    with step("3/4 Select by the rule a quarter of the response tokens"):
        selection = him.Selector(fitted).select(scored, tokens=int(sum(scored["output_length"])) // 4)
    print(damage_report(scored[DAMAGE], selection.dataset[DAMAGE]))
    print(f"4/4 Does that beat random rows? The pool is cut into {size.parts} parts, and either chooses")
    with step(f"    {size.tokens:,} response tokens of each; {2 * size.parts} finetunes ({size.seconds[2]} s)"):
        comparison = compare_demo_rule(scored, fitted, folder / "comparison", size)
        selection.attach_evidence(comparison)
        selection.save_to_disk(folder / "curated", overwrite=True)
    print(losses_table(comparison))
    print(f"\nThe rule {kept_out(scored[DAMAGE], selection.dataset[DAMAGE])}")
    print(conclusion(comparison, quick))
    print(f"\nDone in {time.perf_counter() - started:.0f} s. The curated rows, with all of this in their card:")
    print(f"  {folder / 'curated'} (README.md; load_dataset opens it). The rule: {folder / 'rule'}")
    print(f"To see why each row was kept or not, in a browser: instructmine report {folder}")
    return selection


def record_sweep(folder: Path) -> Path:
    """Makes the sweep anew that the demo's rule is fitted to: designed subsets of the pool, one finetune each.

    Args:
        folder (`Path`): Gets `scored-for-sweep/`, `sweep/` and `demo_sweep.jsonl`. Run again, it goes on where it
            stopped.

    Returns:
        `Path`: Of the records.
    """
    print("Scores the pool and makes 32 finetunes: about 7 minutes on two quiet cores. Stopped and started again, it")
    print("goes on.\n")
    pool = demo_pool()
    with step("1/2 Score every row"):
        scored = score_demo_pool(pool, folder / "scored-for-sweep", ("nll", "ifd", "end_of_turn"))
    with step("2/2 Finetune on designed subsets, and measure the loss on the bundled evaluation rows"):
        # Tilts spread over all of indicator space. A D-optimal design sits in its corners, where no selection is.
        mixtures = him.design_mixtures(
            scored, 28, subset_tokens=SWEPT_TOKENS, replicates=4, method="tilted", source_column=None,
            indicators=DESIGNED, seed=0,
        )  # fmt: skip
        runs = him.run_sweep(scored, mixtures, _recipe(), _evaluation(), folder / "sweep")
    path = folder / RUNS
    write_runs(runs, path)
    options = f"--indicators {' '.join(CANDIDATES)} --logged {' '.join(LOGGED)} --squared {' '.join(SQUARED)}"
    print(f"\nWrote {path}: one finetune a line. To fit a rule to these runs, and to see the demo select by it:")
    print(f"  instructmine fit {folder}/sweep --target {TARGET} {options} --output-dir {folder}/own-rule")
    print(f"  instructmine demo --rule {folder}/own-rule --output-dir {folder}/by-own-rule")
    return path


def write_runs(runs: "Dataset", path: Path) -> None:
    """Writes the records of a sweep as they come with the package: one run a line, and beside them what made their
    indicators."""
    made = him.get_provenance(runs)
    with written_whole(path) as partial:
        partial.write_text("".join(json.dumps({k: row[k] for k in _KEPT}) + "\n" for row in runs), encoding="utf-8")
    with written_whole(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps({name: made[name] for name in DESIGNED}, indent=1) + "\n", encoding="utf-8")


def demo_pool(quick: bool = False) -> "Dataset":
    """The bundled pool as a user's would be: `source` is the kind of task that the prompt is, which a damaged row has
    too; the truth is in the column `damage`, `"none"` for a good row."""
    pool = load_sample_pool()
    asked = list(zip(pool["instruction"], pool["input"]))
    kinds = {prompt: kind for prompt, kind in zip(asked, pool["source"]) if kind not in DAMAGES}
    damage = [kind if kind in DAMAGES else NONE for kind in pool["source"]]
    pool = pool.remove_columns("source").add_column("source", [kinds[prompt] for prompt in asked])
    pool = pool.add_column(DAMAGE, damage)
    return pool.select(range(0, len(pool), 4)) if quick else pool


def recorded_runs() -> "Dataset":
    """The runs of the recorded sweep, with what made their indicators."""
    return load_sample_runs()


def score_demo_pool(pool: "Dataset", folder: Path, also: Sequence[str] = ("end_of_turn",)) -> "Dataset":
    """The scored pool, with what the rule reads of it; `also` as for [`Perplexity`]."""
    model = smollm2_135m()
    indicators = [
        him.OutputLength(tokenizer=model),
        him.MTLD(),
        him.Perplexity(model=model, also=also, dtype="bfloat16"),
    ]
    return him.score(pool, indicators, folder)


def fit_demo_rule(runs: "Dataset") -> "LossEstimator":
    """The rule that the demo selects by."""
    return him.LossEstimator.fit(
        runs, target=TARGET, indicators=CANDIDATES, logged=LOGGED, squared=SQUARED, name="fitted"
    )


def compare_demo_rule(
    scored: "Dataset", rule: "LossEstimator", folder: Path, size: Size = FULL, seed: int = 0
) -> "StrategyComparison":
    """Finetunes on what the rule chooses of each part of the pool, and on random rows of it: as many response tokens
    and optimiser steps."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            return him.compare_strategies(
                scored, {RULE: rule}, _recipe(size.steps), _evaluation(), folder,
                tokens=[size.tokens], parts=size.parts, random_at=(), whole_pool=False, seed=seed,
            )  # fmt: skip
    finally:
        # All but which difference could be seen, were the noise that of another pool.
        kept = [line for line in told.getvalue().splitlines(keepends=True) if "is seen in 80 % of" not in line]
        sys.stderr.write("".join(kept))


def _recipe(steps: int | None = None) -> dict[str, Any]:
    own = {} if steps is None else {"max_steps": steps}
    return {**RECIPE, **own, "model_name_or_path": smollm2_135m()}


def _evaluation() -> "dict[str, Dataset]":
    return {"evaluation": load_sample_evaluation()}


@contextmanager
def step(what: str) -> Iterator[None]:
    """Says what is done, and how long it took."""
    started = time.perf_counter()
    print(f"{what} …", end="", flush=True)
    yield
    print(f" {time.perf_counter() - started:.0f} s", flush=True)


def rule_in_words(rule: "LossEstimator") -> str:
    """The rule as a formula, and what it is worth."""
    from ..estimator.verdict import paragraph

    terms = " ".join(f"{weight:+.3g} {term.name}" for term, weight in zip(rule.terms, rule.weights))
    formula = f"log loss = {rule.intercept:.3g} {terms}"
    lines = [*wrap(formula, WIDTH - 4), *wrap(paragraph(rule), WIDTH - 4)]
    return indent("\n".join(lines), "    ")


def damage_report(pool: Sequence[str], selected: Sequence[str]) -> str:
    """What share of each kind of damaged row was kept out; a random choice of this size is the yardstick.

    Args:
        pool (`Sequence[str]`): The damage of each row of the pool, one of [`DAMAGES`] or `"none"`.
        selected (`Sequence[str]`): The damage of each selected row.
    """
    there, taken = Counter(pool), Counter(selected)
    kinds = [kind for kind in DAMAGES if there[kind]]
    lines = [f"    {kind:<12} {there[kind] - taken[kind]:>3} of {there[kind]:>3} kept out" for kind in kinds]
    return "\n".join(lines)


def kept_out(pool: Sequence[str], selected: Sequence[str]) -> str:
    """What share of all damaged rows was kept out, in words; for the arguments see [`damage_report`]."""
    damaged, taken = (sum(kind != NONE for kind in rows) for rows in (pool, selected))
    share, by_chance = 1 - taken / damaged, 1 - len(selected) / len(pool)
    return (
        f"keeps out {damaged - taken} of {damaged} damaged rows: {share:.0%}, where chance keeps out {by_chance:.0%}."
    )


def losses_table(comparison: "StrategyComparison") -> str:
    """The loss on what either strategy chose of each part."""
    from ..comparison.strategies import RANDOM

    losses = {(row["strategy"], row["part"]): row[TARGET] for row in comparison.runs if row["status"] == "done"}
    lines = [f"    {'part':<6} {'random':>8} {RULE:>8} {'difference':>11}"]
    for part in sorted({part for _, part in losses}):
        random, ruled = losses.get((RANDOM, part)), losses.get((RULE, part))
        if random is not None and ruled is not None:
            lines.append(f"    {part + 1:<6} {random:>8.4f} {ruled:>8.4f} {ruled - random:>+11.4f}")
    return "\n".join([*lines, *(f"    failed: {line}" for line in comparison.failed)])


def conclusion(comparison: "StrategyComparison", quick: bool = False) -> str:
    """The verdict."""
    lines = [fill(line, WIDTH) for line in comparison.verdict()]
    if quick:
        lines.append("That is of the quick form: a quarter of the rows and of the steps. `make demo` has the whole.")
    return "\n".join(lines)
