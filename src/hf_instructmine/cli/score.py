"""`instructmine score`: scores a pool with indicators, and tells what each found."""

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hf_instructmine as him

from ..errors import InstructMineError, not_one_of
from ..indicators import INDICATORS
from .options import add_inputs, add_verb, beside, pick, say_next
from .values import build_indicators


if TYPE_CHECKING:
    import numpy as np

# Parameters of `score` that are not the option of that name.
OTHERWISE = {"pool": "from input", "indicators": "from --indicator"}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "score",
        "Score every row of a pool with indicators. Finished work is kept: the same command goes on after a kill.",
        run,
        required=("input", "output_dir", "indicator"),
    )
    add_inputs(verb)
    verb.add_argument(
        "--indicator",
        nargs="+",
        metavar="NAME[,KEY=VALUE…]",
        help=f"one of {', '.join(INDICATORS)} with its arguments, e.g. MTLD or "
        "Perplexity,model=HuggingFaceTB/SmolLM2-135M-Instruct,dtype=bfloat16; several may be given",
    )
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the scored pool")
    verb.add_argument(
        "--num-proc",
        type=int,
        default=1,
        help="processes, this one among them; each loads its own copy of a model, on a GPU of its own "
        "where there are several. The same command may also be started several times, on one machine or more",
    )
    verb.add_argument(
        "--executor",
        default="local",
        help="local; ray: actors on the nodes of a Ray cluster; jobs: a Hugging Face Job, from and to the Hub",
    )
    verb.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster (RAY_ADDRESS, or one started here)")
    verb.add_argument(
        "--resources",
        nargs="+",
        metavar="[NAME.]KEY=N",
        help="what an actor of Ray takes, e.g. num_gpus=0.5, or Perplexity.num_gpus=1 for one indicator",
    )
    verb.add_argument("--flavor", help="hardware of the job, e.g. a10g-small (the Hub's default has no GPU)")
    verb.add_argument("--push-to", metavar="REPO", help="dataset that the job pushes the scored folder to")
    verb.add_argument("--package", metavar="SPEC", help="what the job installs by pip (this release if not given)")
    verb.add_argument("--overwrite", action="store_true", help="replace columns, or another run, of the same name")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool, parse_mapping
    from ..data.unread import describe_unread
    from ..indicators import scoring
    from ..indicators.score_work import is_main_process

    if args.executor == "jobs":
        _submit(args)
        return
    _refuse_of_jobs(args)
    columns = parse_mapping(args.columns)
    indicators = build_indicators(args.indicator, columns)
    pool = load_pool(args.input, **pick(args, load_pool, columns=columns))
    with _silenced(scoring.logger):  # the summary below says the same
        scored = him.score(pool, indicators, **pick(args, him.score, resources=_resources(args.resources)))
    if not is_main_process():  # of those that were launched together: they all return the same
        return
    report = json.loads(Path(args.output_dir, "report.json").read_text())
    numbers = scored.select_columns(list(report.keys() - {scoring.UNREAD})).with_format("arrow")[:]
    print(f"\nScored {len(scored)} rows into {args.output_dir}")
    unread = report.pop(scoring.UNREAD, None)
    if unread:
        print(f"  {describe_unread(unread)}", file=sys.stderr)
    for name, counts in report.items():
        print(f"  {scoring.describe_counts(name, counts)}{_quartiles(numbers[name].to_numpy())}")
    strategy = "longest" if "output_length" in scored.column_names else "random"
    training = ["--recipe", "smollm2-135m-cpu-last-layers", "--eval-set", "NAME=SOURCE"]
    subset = ["--subset-size", max(len(scored) // 10, 1), "--output-dir", beside(args.output_dir, "sweep")]
    say_next(
        "select", args.output_dir, "--strategy", strategy, "--fraction", "0.1",
        "--output-dir", beside(args.output_dir, strategy),
        instead=["sweep", args.output_dir, *training, *subset],
    )  # fmt: skip


def _submit(args: argparse.Namespace) -> None:
    from ..indicators.hub_job import score_in_job

    for name in ("address", "resources"):
        if getattr(args, name) is not None:
            raise InstructMineError(f"--{name} is of a Ray cluster: leave it out, or pass --executor ray")
    options = ["--indicator", *args.indicator, "--num-proc", str(args.num_proc)]
    for name in ("split", "sample", "seed", "columns"):
        value = getattr(args, name)
        options += [] if value is None else [f"--{name}", str(value)]
    job = score_in_job(args.input, options, args.push_to, flavor=args.flavor, package=args.package)
    print(f"Submitted {job.url}")
    print(f"It pushes to {args.push_to} when it is done. Watch it: hf jobs logs {job.id}")


def _refuse_of_jobs(args: argparse.Namespace) -> None:
    if args.executor not in ("local", "ray"):
        raise InstructMineError(f"--executor must be {not_one_of(args.executor, ('local', 'ray', 'jobs'))}")
    for name in ("flavor", "push_to", "package"):
        if getattr(args, name) is not None:
            raise InstructMineError(f"--{name.replace('_', '-')} is of a job: pass --executor jobs too")


def _resources(given: Sequence[str] | None) -> dict[str, Any] | None:
    """What `him.score` takes, from `num_gpus=0.5` or `Perplexity.num_gpus=1`."""
    found: dict[str, Any] = {}
    for text in given or ():
        key, _, amount = text.partition("=")
        name, _, resource = key.rpartition(".")
        try:
            (found.setdefault(name, {}) if name else found)[resource] = float(amount)
        except ValueError as error:
            raise InstructMineError(
                f"--resources {text!r} is no amount: write num_gpus=0.5, or Perplexity.num_gpus=1"
            ) from error
    return found or None


@contextmanager
def _silenced(logger: logging.Logger) -> Iterator[None]:
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _quartiles(values: "np.ndarray") -> str:
    import numpy as np

    finite = values[np.isfinite(values)]
    if not len(finite):
        return ""
    low, middle, high = np.percentile(finite, [25, 50, 75])
    return f"; quartiles {low:.4g}, {middle:.4g}, {high:.4g}"
