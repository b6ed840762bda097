"""The figure of README: the recorded comparison on MT-Bench, legible on a phone.

python benchmarks/readme_figure.py docs/results/comparison-in-parts.jsonl docs/pictures/against-random.png
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure
from report_comparison import read


SHOWN = {
    "rule": "our rule",
    "longest": "longest responses",
    "untrained": "no finetuning",
    "balanced-random": "random, balanced\nover sources",
}
COLORS = {"better": "#1a7f37", "worse": "#b3342d", "no different": "#8a8a8a"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("figure", type=Path)
    args = parser.parse_args()
    comparison = read(args.runs)
    outcomes = {o.strategy: o for o in comparison.outcomes("tokens=8000", "mt_bench")}
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(reversed(SHOWN)):
        found = outcomes[name].difference
        color = COLORS[outcomes[name].verdict]
        axes.plot([found.low, found.high], [row, row], color=color, linewidth=5)
        axes.plot(found.estimate, row, "o", color=color, markersize=13)
        print(f"{name}: {found.estimate:+.4f} ({found.low:+.4f} to {found.high:+.4f}), {outcomes[name].verdict}")
    axes.axvline(0, color="black")
    axes.set_yticks(range(len(SHOWN)), list(SHOWN.values())[::-1], fontsize=15)
    axes.set_ylim(-0.6, len(SHOWN) - 0.4)
    axes.set_title("Loss on MT-Bench, less that of random rows", fontsize=16, loc="right")
    axes.set_xlabel("← better      nats per token, 95 % interval      worse →", fontsize=14, loc="right")
    axes.tick_params(axis="x", labelsize=14)
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(args.figure, dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
