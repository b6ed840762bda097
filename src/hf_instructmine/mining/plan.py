"""What the whole path will do and cost, measured before the costly part."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from ..comparison.power import check_examples, check_parts, power
from ..data.decontamination import find_contaminated
from ..data.texts import usable_rows
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..indicators.lengths import OutputLength
from ..indicators.mtld import MTLD
from ..indicators.perplexity import Perplexity
from ..indicators.scoring import score
from ..outputs.markdown import count, printable
from ..outputs.shown import Cells, Shown
from ..sweep.timing import duration, time_finetunes


if TYPE_CHECKING:
    from ..data.evaluation_sets import EvaluationSet
    from ..indicators.base import Indicator

REPLICATES = 4
# What a sweep designs for and a rule may read; lengths enter by their logarithm.
DESIGNED, LOGGED = ("nll", "ifd", "end_of_turn", "mtld"), ("end_of_turn", "mtld")
STEPS = 16  # optimiser steps of a finetune, where the machine's recipe is taken
_MOST_TOKENS = 8000  # of a subset on a CPU: what docs/results.md was measured at
_SAMPLE, SCORED = 256, 12
BYTES_A_ROW = 4096  # of a scored pool, with its texts
_MARGIN = 2.0  # a part has so many times what is chosen of it at least
# The last layers of a model over a trunk that is run once per text: what a CPU trains in seconds.
_ON_CPU: dict[str, Any] = {
    "dtype": "float32", "train_last_layers": 4, "cached_trunk": True, "budget": "steps", "max_steps": STEPS,
    "learning_rate": 5e-4, "lr_scheduler_type": "cosine", "max_length": 512, "eval_max_length": 512,
    "eval_token_budget": 2048, "bf16": True, "activation_checkpointing": False, "use_cpu": True,
    "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "logging_steps": 4,
}  # fmt: skip
_ON_GPU = "smollm2-1.7b-lora"
# Of a search for the size: a grid of five sizes with three seeds, selected and random, and trials after it.
GRID_SIZES, GRID_SEEDS, TRIALS = 5, 3, 6


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """What is going to be done, and what it takes. Made by [`make_plan`].

    Attributes:
        rows (`int`): Of the pool.
        usable (`int`): With a response, no copies of others, and without a prompt of an evaluation set.
        overlapping (`dict[str, int]`): Rows that hold a prompt of each evaluation set, and are left out.
        size (`int`): Rows to keep.
        tokens_a_row (`float`): Mean response tokens of a row, by a sample.
        subset_tokens (`int`): Response tokens of each finetune of the sweep.
        part_tokens (`int`): Response tokens chosen in each part of the comparison.
        num_runs (`int`): Subsets of the sweep; replicates come on top.
        parts (`int`): Of the comparison.
        examples (`dict[str, int]`): Of each evaluation set.
        seconds_scoring (`float`): Of scoring the pool, by a few rows, measured here.
        seconds_sweep (`float`): Of its finetunes, by a few steps, measured here.
        seconds_comparison (`float`): Of its finetunes, in the same way.
        tokens_per_second (`float`): That were scored.
        disk (`int`): Bytes, about; models that are kept are among them.
        sizes (`tuple[int, int]`, *optional*): Within which the number of rows is searched for; `size` is the larger.
        seconds_search (`float`): Of that search.
    """

    rows: int
    usable: int
    overlapping: dict[str, int]
    size: int
    tokens_a_row: float
    subset_tokens: int
    part_tokens: int
    num_runs: int
    parts: int
    examples: dict[str, int]
    seconds_scoring: float = 0.0
    seconds_sweep: float = 0.0
    seconds_comparison: float = 0.0
    tokens_per_second: float = 0.0
    disk: int = 0
    sizes: tuple[int, int] | None = None
    seconds_search: float = 0.0

    def tokens_in_part(self, rows: int) -> int:
        """Response tokens chosen in each part, where so many rows are kept of the pool."""
        return max(int(self.tokens_a_row * rows / self.parts), 1)

    @property
    def searched(self) -> int:
        """Finetunes of the search for the size."""
        return 0 if self.sizes is None else 2 * GRID_SIZES * GRID_SEEDS + TRIALS

    @property
    def request(self) -> dict[str, Any]:
        """What is asked for, without what depends on the machine or has no say."""
        plain = {**asdict(self), "disk": 0}
        del plain["seconds_search"]
        if self.sizes is None:  # as earlier versions wrote it
            del plain["sizes"]
        return plain

    @property
    def finetunes(self) -> tuple[int, int]:
        """Of the sweep, and of the comparison."""
        return self.num_runs + min(REPLICATES, self.num_runs), 2 * self.parts

    def _line(self) -> str:
        return f"{count(self.size, 'row')} of {self.rows:,}, by {sum(self.finetunes)} finetunes"

    def _tables(self) -> list[Cells]:
        steps = [line.partition(":")[::2] for line in str(self).split("\n")]
        return [Cells("What is going to be done, and what it takes", ["stage", "what"], steps, 2)]

    def __str__(self) -> str:
        sweep, comparison = self.finetunes
        left = _left_out(self.overlapping)
        smallest = min(self.examples.values())
        return "\n".join(
            [
                f"Pool:       {count(self.rows, 'row')}, {self.usable:,} of them usable{left}; about "
                f"{self.tokens_a_row:.0f} response tokens a row",
                f"Score:      {', '.join(DESIGNED)}; {duration(self.seconds_scoring)} at "
                f"{self.tokens_per_second:,.0f} tokens a second",
                f"Sweep:      {sweep} finetunes on {self.subset_tokens:,} response tokens each; "
                f"{duration(self.seconds_sweep)}",
                *self._told_of_size(),
                f"Compare:    with random rows: {comparison} finetunes on {self.part_tokens:,} response tokens in "
                f"each of {self.parts} parts of the pool; {duration(self.seconds_comparison)}",
                f"It can see: {power(self.parts, smallest, len(self.examples))}",
                f"Disk:       about {self.disk / 2**20:,.0f} MiB",
            ]
        )

    def _told_of_size(self) -> list[str]:
        if self.sizes is None:
            return [f"Select:     {count(self.size, 'row')} by the rule fitted to them"]
        least, most = self.sizes
        return [
            f"Size:       from {least:,} to {count(most, 'row')}, searched for with {self.searched} finetunes; "
            f"{duration(self.seconds_search)}",
            "Select:     as many rows as the search finds best, by the rule fitted to the sweep",
        ]


@dataclass(frozen=True)
class ShortPlan:
    """What is going to be done without finetunes, and what it takes.

    Attributes:
        rows, usable, overlapping, size: As of a [`Plan`].
        chooser (`str`): The rule or the strategy, in words.
        scores (`list[str]`): Columns that are made.
        disk (`int`): Bytes, about.
        seconds_scoring (`float`): By a few rows, measured here.
    """

    rows: int
    usable: int
    overlapping: dict[str, int]
    size: int
    chooser: str
    scores: list[str]
    disk: int = 0
    seconds_scoring: float = 0.0

    def __str__(self) -> str:
        scores = f"{', '.join(self.scores)}; {duration(self.seconds_scoring)}" if self.scores else "nothing"
        return "\n".join(
            [
                f"Pool:       {count(self.rows, 'row')}, {self.usable:,} of them usable{_left_out(self.overlapping)}",
                f"Score:      {scores}",
                f"Select:     {count(self.size, 'row')} by {printable(self.chooser)}",
                "Finetunes:  none, so whether the choice beats a random one will not be known",
                f"Disk:       about {self.disk / 2**20:,.0f} MiB",
            ]
        )


def _left_out(overlapping: Mapping[str, int]) -> str:
    return "".join(
        f", {count(rows, 'row')} left out that hold a prompt of {printable(name)}"
        for name, rows in overlapping.items()
        if rows
    )


def indicators(model: str, columns: Mapping[str, str] | None = None) -> "list[Indicator]":
    """What the pool is scored with."""
    return [
        OutputLength(tokenizer=model, columns=columns),
        MTLD(columns=columns),
        Perplexity(model=model, also=("nll", "ifd", "end_of_turn"), dtype="bfloat16", columns=columns),
    ]


def clean_pool(
    pool: Dataset, eval_sets: "Mapping[str, EvaluationSet]", columns: Mapping[str, str] | None
) -> tuple[Dataset, dict[str, int]]:
    """The usable rows that hold no prompt of an evaluation set, and how many rows hold one of each.

    Raises:
        [`InstructMineError`]: Where no row is left.
    """
    overlaps = find_contaminated(pool, eval_sets, columns)
    kept = np.setdiff1d(usable_rows(pool, columns, copies=False), overlaps.rows)
    if not len(kept):
        raise InstructMineError(
            "every row of the pool holds a prompt of an evaluation set: there is nothing to train on"
        )
    return pool.select(kept), dict(overlaps.counts)


def executor_for() -> str:
    """How to run finetunes on this machine: one on each GPU where there are several."""
    import torch

    return "local" if torch.cuda.is_available() and torch.cuda.device_count() > 1 else "inline"


def recipe_for(model: str, rows: int) -> Recipe:
    """How to finetune on this machine: on so many rows, in 16 steps on a CPU; LoRA where there is a GPU."""
    import torch

    if torch.cuda.is_available():
        return Recipe({**Recipe.load(_ON_GPU).settings, "model_name_or_path": model})
    batch = min(max(round(2 * rows / STEPS), 2), 16)  # two epochs
    pieces = max(round(batch / 4), 1)
    return Recipe(
        {
            **_ON_CPU,
            "model_name_or_path": model,
            "per_device_train_batch_size": -(-batch // pieces),
            "gradient_accumulation_steps": pieces,
        }
    )


def own_recipe(recipe: Any, model: str, plan: Plan) -> Recipe:
    """The recipe that was given, or the machine's, with this model.

    Raises:
        [`InstructMineError`]: Where it is not valid.
    """
    if recipe is None:
        return recipe_for(model, round(plan.subset_tokens / plan.tokens_a_row))
    settings = recipe.settings if isinstance(recipe, Recipe) else Recipe.load(recipe).settings
    own = Recipe({**settings, "model_name_or_path": model})
    own.arguments()
    return own


def make_plan(
    rows: int,
    pool: Dataset,
    overlapping: dict[str, int],
    model: str,
    eval_sets: "Mapping[str, EvaluationSet]",
    size: int,
    num_runs: int,
    parts: int,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    sizes: tuple[int, int] | None = None,
) -> Plan:
    """Says what will be done, without its costs.

    Raises:
        [`InstructMineError`]: Where the pool cannot give what is asked, or a verdict is not possible.
    """
    check_parts(parts)
    for name, examples in eval_sets.items():
        check_examples(len(examples.rows), name)
    if not 1 <= size <= len(pool) / _MARGIN:
        raise InstructMineError(
            f"size={size} is not from 1 to {int(len(pool) / _MARGIN):,}, half of the {len(pool):,} usable rows: a "
            "choice of more is hardly one"
        )
    if size < 2 * parts:
        raise InstructMineError(
            f"size={size} is {size / parts:.1f} rows in each of {parts} parts: ask for at least {2 * parts}, or fewer "
            "parts"
        )
    if sizes is not None and not 2 * parts <= sizes[0] < sizes[1]:
        raise InstructMineError(
            f"the sizes {sizes[0]} to {sizes[1]} are no range of at least {2 * parts} (two rows in each of {parts} "
            "parts): raise the first, or ask for fewer parts"
        )
    sample = np.random.default_rng(seed).permutation(len(pool))[:_SAMPLE]
    lengths = np.array(score(pool.select(sample), OutputLength(tokenizer=model, columns=columns))["output_length"])
    mean = float(lengths[lengths > 0].mean())
    kept, all_tokens = mean * size, mean * len(pool)
    return Plan(
        rows=rows, usable=len(pool), overlapping=overlapping, size=size, tokens_a_row=mean,
        subset_tokens=max(int(min(kept, all_tokens / 8, _MOST_TOKENS)), 1), part_tokens=max(int(kept / parts), 1),
        num_runs=num_runs, parts=parts, examples={name: len(e.rows) for name, e in eval_sets.items()}, sizes=sizes,
    )  # fmt: skip


def measure(
    plan: Plan,
    pool: Dataset,
    model: str,
    recipe: Recipe,
    eval_sets: "Mapping[str, EvaluationSet]",
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Plan:
    """The plan with what it takes, by scoring a few rows and two short finetunes."""
    some = np.random.default_rng(seed).permutation(len(pool))
    rows = pool.select(some[:SCORED])
    made = indicators(model, columns)
    score(rows.select(range(min(2, len(rows)))), made)  # loads the model
    started = time.perf_counter()
    tokens = np.nansum(score(rows, made)["output_length"])
    scoring = time.perf_counter() - started
    subset_rows = min(max(round(plan.subset_tokens / plan.tokens_a_row), 1), len(pool))
    timing = time_finetunes(pool, some[:subset_rows].tolist(), recipe, eval_sets, columns)
    run = timing.step * _steps(recipe, subset_rows) + timing.evaluating
    sweep, comparison = plan.finetunes
    trunk = timing.once * (len(pool) / max(subset_rows, 1) if recipe.settings.get("cached_trunk") else 1)
    return Plan(
        **{
            **asdict(plan),
            "seconds_scoring": scoring * len(pool) / len(rows),
            "seconds_sweep": trunk + run * sweep,
            "seconds_comparison": trunk + run * comparison,
            "seconds_search": trunk + run * plan.searched if plan.sizes is not None else 0.0,
            "tokens_per_second": float(tokens / scoring),
            "sizes": plan.sizes,
        }
    )


def disk_bytes(plan: Plan, recipe: Recipe, keep_models: bool = False) -> int:
    """Bytes that are taken at most: the scored pool twice, the records, and a trunk in bfloat16 while one is used.

    Of models that are kept, whole ones count with their parameters as float32; adapters are small and do not count.
    """
    from transformers import AutoConfig

    models = (sum(plan.finetunes) + plan.searched) if keep_models and not recipe.settings.get("use_peft") else 0
    kept = models * _model_bytes(recipe.settings["model_name_or_path"]) if models else 0
    kept += plan.usable * 2 * BYTES_A_ROW + sum(plan.finetunes) * 2**16
    if not recipe.settings.get("cached_trunk"):
        return kept
    width = AutoConfig.from_pretrained(recipe.settings["model_name_or_path"]).get_text_config().hidden_size
    # Prompts are taken for as long as responses.
    return kept + int(plan.usable * plan.tokens_a_row * 2 * width * 2)


def _model_bytes(model: str) -> int:
    """Bytes of all parameters as float32, from the configuration alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return 4 * AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).num_parameters()


def _steps(recipe: Recipe, rows: int) -> int:
    from ..sweep.outlook import count_steps

    return count_steps(recipe.arguments(), rows, 1) or STEPS
