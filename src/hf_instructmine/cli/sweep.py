"""`instructmine sweep`: designs the mixtures once, keeps the design beside the runs, and sweeps."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from .options import add_finetuning, add_inputs, add_retry_failed, add_verb, beside, pick, say_next
from .values import embed, read_finetuning


if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from ..data.evaluation_sets import EvaluationSet
    from ..finetuning.recipe import Recipe

# Parameters of `design_mixtures` and `run_sweep` that are not the option of that name.
OTHERWISE = {
    "scored": "from input",
    "pool": "from input",
    "source_column": "`source`, where the pool has it: inputs are named by it",
    "embeddings": "from --encoder",
    "mixtures": "designed from the other options",
    "eval_sets": "from --eval-set",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "sweep",
        "Finetune on many designed subsets of a scored pool, and record the loss of each on evaluation sets. Finished "
        "runs are kept: the same command goes on after a kill.",
        run,
        required=("input", "recipe", "eval_set", "output_dir"),
    )
    add_inputs(verb, "seed of the sample, the design and, counting up, the runs")
    add_finetuning(verb)
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the design and the runs")
    verb.add_argument("--num-runs", type=int, default=24, metavar="N", help="distinct subsets")
    verb.add_argument("--subset-size", type=int, metavar="N", help="rows in each subset")
    verb.add_argument("--subset-tokens", type=int, metavar="N", help="response tokens in each subset, instead of rows")
    verb.add_argument("--method", default="d-optimal", help="d-optimal, tilted, or dirichlet (the paper's way)")
    verb.add_argument("--replicates", type=int, metavar="N", help="subsets trained twice (4 if not given)")
    verb.add_argument("--sources", nargs="+", metavar="SOURCE", help="mix these alone (all if not given)")
    verb.add_argument(
        "--indicators", nargs="+", metavar="COLUMN", help="design for these (all but copies if not given)"
    )
    verb.add_argument("--num-candidates", type=int, metavar="N", help="subsets that the design chooses from")
    verb.add_argument("--encoder", metavar="MODEL", help="sentence encoder, for knn_<i> inside each subset")
    add_retry_failed(verb)
    verb.add_argument("--keep-models", action="store_true", help="keep the final model of each run, with a card")
    verb.add_argument(
        "--dry-run", action="store_true", help="show the design, time a short finetune, and write nothing"
    )
    verb.add_argument("--status", metavar="DIR", help="tell how far the sweep in DIR is, and do nothing else")


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns its exit code: 1 where every run failed."""
    from ..data.inputs import load_pool, parse_mapping
    from ..sweep.design import design_once
    from ..sweep.runs import pure_error

    if args.status is not None:
        print(him.sweep_status(args.status))
        return 0
    columns = parse_mapping(args.columns)
    recipe, eval_sets = read_finetuning(args)
    scored = load_pool(args.input, **pick(args, load_pool, columns=columns))
    embedding = None if args.encoder is None else partial(embed, args.encoder, scored, columns)
    if args.dry_run:
        _dry_run(args, scored, recipe, eval_sets, columns, embedding)
        return 0
    request = pick(args, him.design_mixtures)
    mixtures, report = design_once(scored, args.output_dir, args.encoder, embedding, **request)
    if report is not None:
        print(f"{report}\n")
    given = pick(args, him.run_sweep, recipe=recipe, eval_sets=eval_sets, columns=columns)
    runs = him.run_sweep(scored, mixtures, **given)

    # What came of it, and whether the subsets differ by more than chance.
    print(him.sweep_status(args.output_dir))
    done = runs.select([i for i, status in enumerate(runs["status"]) if status == "done"])
    for name in eval_sets if len(done) else ():
        between, within = pure_error(done, f"loss_{name}")
        spreads = ("between mixtures", between), ("of replicates", within)
        told = ", ".join(f"{spread:.5f} {what}" for what, spread in spreads if spread is not None)
        print(f"SD of log loss on {name}: {told or 'one run has none'}")
    if not len(done):
        return 1
    say_next("fit", args.output_dir, "--output-dir", beside(args.output_dir, "rule"))
    return 0


def _dry_run(
    args: argparse.Namespace,
    scored: "Dataset",
    recipe: "Recipe",
    eval_sets: "dict[str, EvaluationSet]",
    columns: dict[str, str] | None,
    embed: "Callable[[], np.ndarray] | None",
) -> None:
    """Shows the design, and what its finetunes take here; a design that the folder holds is looked at, not changed."""
    from ..sweep.design import design_once
    from ..sweep.manifest import DESIGN
    from ..sweep.timing import foresee

    with TemporaryDirectory() as empty:
        kept = Path(args.output_dir, DESIGN).exists()
        folder = args.output_dir if kept else empty
        mixtures, report = design_once(scored, folder, args.encoder, embed, **pick(args, him.design_mixtures))
    print(f"{report or 'The design is that of ' + str(args.output_dir)}\n")
    print(f"Would train {foresee(scored, mixtures, recipe, eval_sets, columns)}. Nothing was written.")
    print("Next: the same command without --dry-run")
