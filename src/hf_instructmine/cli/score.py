"""`instructmine score`: scores a pool with indicators, and tells what each found."""

import argparse
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..data.inputs import load_pool, parse_mapping
from ..indicators.scoring import describe_counts, score
from .values import build_indicator


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    indicators = [build_indicator(text, parse_mapping(args.columns)) for text in args.indicator]
    pool = load_pool(args.input, args.split, args.sample, args.seed)
    with _silenced("hf_instructmine.scoring"):  # the summary below says the same
        scored = score(pool, indicators, args.output_dir, num_proc=args.num_proc, overwrite=args.overwrite)
    report = json.loads(Path(args.output_dir, "report.json").read_text())
    print(f"\nScored {len(scored)} rows into {args.output_dir}")
    for name, counts in report.items():
        print(f"  {describe_counts(name, counts)}{_quartiles(scored[name])}")
    print(f"Next: instructmine select {args.output_dir} --rule RULE --size N --output-dir DIR")


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _quartiles(values: Sequence[float]) -> str:
    finite = np.asarray(values)[np.isfinite(values)]
    if not len(finite):
        return ""
    low, middle, high = np.percentile(finite, [25, 50, 75])
    return f"; quartiles {low:.4g}, {middle:.4g}, {high:.4g}"
