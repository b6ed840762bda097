"""One chosen set against the random ones: what a recorded comparison says of a strategy, and not of its finetunes.

    python benchmarks/report_sets.py docs/results/comparison.jsonl

A strategy that chose once has one set, however often it was trained on. Its mean loss is compared with those of
the random sets as one more draw would be: Student's t with one degree of freedom less than there are random sets, and
Holm's correction over the strategies of an amount and an evaluation set.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests


def main(path: str) -> None:
    _, *runs = [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]
    amounts = sorted({run["amount"] for run in runs} - {"full"})
    losses = sorted(name for name in runs[0] if name.startswith("loss_"))
    print("| set, amount | strategy | to random | t | p | Holm |\n|---|---|---:|---:|---:|---:|")
    for loss in losses:
        for amount in amounts:
            here = [run for run in runs if run["amount"] == amount]
            strategies = sorted({run["strategy"] for run in here} - {"random"})
            random = [run[loss] for run in here if run["strategy"] == "random"]
            chosen = [np.mean([run[loss] for run in here if run["strategy"] == name]) for name in strategies]
            difference = np.array(chosen) - np.mean(random)
            t = difference / (np.std(random, ddof=1) * np.sqrt(1 + 1 / len(random)))
            p = 2 * stats.t.sf(np.abs(t), len(random) - 1)
            corrected = multipletests(p, method="holm")[1]
            for k in np.argsort(difference):
                values = f"{difference[k]:+.4f} | {t[k]:.2f} | {p[k]:.3f} | {corrected[k]:.3f}"
                print(f"| {loss.removeprefix('loss_')}, {amount} | {strategies[k]} | {values} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
