"""What a recorded comparison says: its tables, its figure and the verdict on each rule against each baseline.

python benchmarks/report_comparison.py docs/results/comparison.jsonl --figure docs/results/comparison.png > report.md
"""

import argparse
import json
from pathlib import Path

from datasets import Dataset

from hf_instructmine import StrategyComparison


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument(
        "--baseline", nargs="*", default=["random", "longest", "untrained"], help="compared with, one after another"
    )
    args = parser.parse_args()
    comparison = read(args.runs)
    for eval_set in comparison.eval_sets:
        for amount in comparison.amounts:
            print(f"**{eval_set}, {amount}**\n\n{comparison.table(amount, eval_set)}\n")
    if comparison.failed:
        print("\n".join(["Failed:", *comparison.failed]))
    known = {*comparison.strategies, *(["untrained"] if comparison.untrained else [])}
    for baseline in [
        b for b in args.baseline if b in known
    ]:  # of all but random it is asked whether the rules beat it, and no more
        among = None if baseline == "random" else list(comparison.fitted_on)
        for rule in comparison.fitted_on:
            print("\n".join(f"- {line}" for line in comparison.verdict(rule, baseline, among)))
        print()
    hours = sum(seconds or 0 for seconds in comparison.runs["seconds"]) / 3600
    print(f"{len(comparison.runs)} finetunes, {hours:.1f} hours of finetuning and evaluation.")
    if args.figure:
        comparison.plot(args.figure)


def read(path: Path) -> StrategyComparison:
    """The comparison that `compare_seven_sources.py` recorded."""
    request, *rows = (json.loads(line) for line in path.read_text().splitlines())
    names = list(dict.fromkeys(name for row in rows for name in row))
    return StrategyComparison(Dataset.from_dict({n: [row.get(n) for row in rows] for n in names}), **request)


if __name__ == "__main__":
    main()
