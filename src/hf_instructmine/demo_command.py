"""`instructmine demo`: the whole way on the bundled pool."""

import argparse
from pathlib import Path

from .demo import run_demo


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    run_demo(Path(args.output_dir), args.rule, quick=args.quick)
