"""`instructmine fit`: fits a rule to a sweep's runs, and writes it with its card."""

import argparse
from pathlib import Path
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.folder import check_output_folder, refuse_foreign
from .options import add_verb, beside, pick, say_next


# Parameters of `LossEstimator.fit` and `save_pretrained` that are not the option of that name.
OTHERWISE = {
    "target": "the first loss of the runs, where --target is not given",
    "log_target": "from --no-log-target",
    "save_directory": "from --output-dir",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "fit",
        "Fit a rule to the runs of a sweep, and say how far it can be trusted.",
        run,
        required=("runs", "output_dir"),
    )
    verb.add_argument("runs", nargs="?", help="a sweep's folder, or a table of runs (.jsonl, .parquet, .csv, Hub id)")
    verb.add_argument("--target", nargs="+", metavar="COLUMN", help="loss column; several give a joint rule")
    verb.add_argument("--no-log-target", action="store_true", help="predict the loss itself, not its logarithm")
    verb.add_argument(
        "--indicators", nargs="+", metavar="COLUMN", help="candidates; all indicator columns if not given"
    )
    verb.add_argument("--select", default="cv", help="cv, bic, aic, aicc, none, or p-value (the paper's way)")
    verb.add_argument("--model", default="ols", help="ols, ridge, elastic-net, pls, or automl")
    verb.add_argument(
        "--logged", nargs="+", default=[], metavar="COLUMN", help="columns that enter by their logarithm"
    )
    verb.add_argument("--squared", nargs="+", default=[], metavar="COLUMN", help="columns that may have a square too")
    verb.add_argument(
        "--covariates", nargs="+", default=[], metavar="COLUMN", help="adjusted for in every rule, e.g. subset_tokens"
    )
    verb.add_argument("--standardize", action="store_true", help="give coefficients per standard deviation")
    verb.add_argument("--weights", metavar="COLUMN", help="weights of the runs, inverse to their variances")
    verb.add_argument("--group", metavar="COLUMN", help="give the runs of each value a level of their own")
    verb.add_argument("--max-vif", type=float, metavar="X", help="consider only subsets with VIFs below X")
    verb.add_argument(
        "--without-sources", nargs="+", default=[], metavar="SOURCE", help="leave out the runs with rows of these"
    )
    verb.add_argument("--permutations", type=int, metavar="N", help="for the p-value (1,000 for ols if not given)")
    verb.add_argument("--bootstraps", type=int, metavar="N", help="resamples (2,000 for ols if not given)")
    verb.add_argument("--seed", type=int, default=0, help="of folds, permutations and bootstrap")
    verb.add_argument("--name", help="what to call the rule")
    verb.add_argument("--license", metavar="ID", help="licence of the rule, for its card, as on the Hub")
    verb.add_argument("--datasets", nargs="+", default=[], metavar="ID", help="what was finetuned on, for its card")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the rule, its card and its figures")
    verb.add_argument("--overwrite", action="store_true", help="replace a rule in that folder")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import load_pool
    from ..estimator.file import FILE_NAME
    from ..estimator.verdict import advises_against
    from ..outputs.metadata import check_license, check_repository

    if args.license is not None:
        check_license(args.license)
    for name in args.datasets:
        check_repository(name)
    check_output_folder(args.output_dir, overwrite=True)
    refuse_foreign(args.output_dir, FILE_NAME, "rule")
    if Path(args.output_dir, FILE_NAME).exists() and not args.overwrite:
        raise InstructMineError(
            f"'{args.output_dir}' holds a rule: name another folder, or replace it with --overwrite"
        )
    runs = him.load_runs(args.runs) if Path(args.runs, "sweep.json").is_file() else load_pool([args.runs])
    targets = args.target or [name for name in runs.column_names if name.startswith("loss_")][:1]
    if not targets:
        raise InstructMineError("the runs have no column loss_<evaluation set>: name one with --target")
    target = targets[0] if len(targets) == 1 else targets
    fit = him.LossEstimator.fit
    rule = fit(**pick(args, fit, runs=runs, target=target, log_target=not args.no_log_target))
    rule.save_pretrained(args.output_dir, **pick(args, rule.save_pretrained))
    print(rule.summary())
    print(f"\nWrote {args.output_dir}: estimator.json, and README.md with the figures")
    chosen = ["--fraction", "0.1", "--output-dir", beside(args.output_dir, "curated")]
    if advises_against(rule):
        print("More or larger subsets may tell more: sweep with --num-runs or --subset-size into another folder")
        say_next("select", "SCORED", "--strategy", "random", *chosen)
    else:
        say_next("select", "SCORED", "--rule", args.output_dir, *chosen)
