"""`instructmine fit`: fits a rule to a sweep's runs, and writes it with its card."""

import argparse
from pathlib import Path

from ..data.inputs import load_pool
from ..errors import InstructMineError
from ..estimator.estimator import LossEstimator
from ..sweep.runs import load_runs


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    runs = load_runs(args.runs) if Path(args.runs, "sweep.json").is_file() else load_pool([args.runs])
    targets = args.target or [name for name in runs.column_names if name.startswith("loss_")][:1]
    if not targets:
        raise InstructMineError("the runs have no column loss_<evaluation set>: name one with --target")
    rule = LossEstimator.fit(
        runs,
        target=targets[0] if len(targets) == 1 else targets,
        indicators=args.indicators,
        select=args.select,
        model=args.model,
        logged=args.logged,
        squared=args.squared,
        covariates=args.covariates,
        max_vif=args.max_vif,
        seed=args.seed,
        name=args.name,
    )
    rule.save_pretrained(args.output_dir)
    print(rule.summary())
    print(f"\nWrote {args.output_dir}: estimator.json, and README.md with the figures")
