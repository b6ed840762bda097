"""The demo's comparison again, for ten seeds of the pool's cut into parts, of the random rows and of the finetunes.

    python benchmarks/demo_seeds.py --output-dir demo-seeds

Killed and started again, it goes on where it stopped. All seeds share one sweep, so that the frozen layers run once
per text. It writes docs/results/demo-seeds.jsonl, one seed a line, and prints the table of docs/demo.md.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

import hf_instructmine as him
from hf_instructmine.cli import demo
from hf_instructmine.comparison.parts import Choices, Protocol
from hf_instructmine.comparison.statistics import PairedDifference, compare_parts
from hf_instructmine.comparison.strategies import RANDOM, Strategy


EVAL_SET = "evaluation"


def main() -> None:
    args = parse()
    output, size = Path(args.output_dir), demo.FULL
    scored = demo.score_demo_pool(demo.demo_pool(), output / "scored")
    rule = demo.fit_demo_rule(demo.recorded_runs())
    strategies: dict[str, Strategy] = {demo.RULE: rule, RANDOM: RANDOM}
    mixtures = concatenate_datasets([designed(scored, strategies, size, seed) for seed in args.seeds])
    folder = output / "seeds"
    him.run_sweep(scored, mixtures, demo._recipe(size.steps), demo._evaluation(), folder)
    runs = him.load_runs(folder, examples=True)
    found = [outcome(runs, scored, seed) for seed in args.seeds]
    Path(args.results).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    print(table(found))


def designed(scored: Dataset, strategies: dict[str, Strategy], size: demo.Size, seed: int) -> Dataset:
    """The finetunes that `compare_strategies(…, seed=seed)` makes, under names that tell the seed."""
    protocol = Protocol(size.parts, random_at=(), whole_pool=False, seed=seed)
    choices = Choices(scored, protocol)
    made = choices.finetunes(choices.choose(strategies, [{"tokens": size.tokens}]), lambda rows: size.steps)
    return made.map(lambda row: {"mixture_id": f"seed{seed}-{row['mixture_id']}", "comparison": seed})


def outcome(runs: Dataset, scored: Dataset, seed: int) -> dict[str, float | int | str]:
    """What the comparison of one seed found."""
    mine = [row for row in runs if row["comparison"] == seed]
    by_part = {(row["strategy"], row["part"]): row for row in mine}
    parts = sorted({row["part"] for row in mine})
    nll = {name: np.array([by_part[name, part][f"example_nll_{EVAL_SET}"] for part in parts])
           for name in (demo.RULE, RANDOM)}  # fmt: skip
    tokens = np.array(mine[0][f"example_tokens_{EVAL_SET}"])
    found = compare_parts(nll[demo.RULE], nll[RANDOM], tokens)
    damage = np.array(scored[demo.DAMAGE][:]) != demo.NONE
    losses = {name: float(values.sum() / len(parts) / tokens.sum()) for name, values in nll.items()}
    damaged = {name: float(np.mean([damage[by_part[name, part]["indices"]].mean() for part in parts]))
               for name in (demo.RULE, RANDOM)}  # fmt: skip
    return {
        "seed": seed, "loss_rule": losses[demo.RULE], "loss_random": losses[RANDOM],
        "untrained": mine[0][f"base_loss_{EVAL_SET}"], "estimate": found.estimate, "low": found.low,
        "high": found.high, "p": found.p, "parts_sd": found.parts_sd, "verdict": verdict(found),
        "damaged_rule": damaged[demo.RULE], "damaged_random": damaged[RANDOM],
        "by_part": [float(difference / tokens.sum()) for difference in (nll[demo.RULE] - nll[RANDOM]).sum(axis=1)],
    }  # fmt: skip


def verdict(found: PairedDifference) -> str:
    if found.p >= 0.05:
        return "not shown to differ"
    return "better" if found.estimate < 0 else "worse"


def table(found: list[dict]) -> str:
    """The seeds as the table of docs/demo.md."""
    lines = [
        "| seed | random | rule | difference | 95 % | p | verdict | damaged rows chosen: random | rule |",
        "|---:|---:|---:|---:|---|---:|---|---:|---:|",
    ]
    for row in found:
        lines.append(
            f"| {row['seed']} | {row['loss_random']:.4f} | {row['loss_rule']:.4f} | {row['estimate']:+.4f} | "
            f"{row['low']:+.4f} … {row['high']:+.4f} | {row['p']:.3g} | {row['verdict']} | "
            f"{row['damaged_random']:.0%} | {row['damaged_rule']:.0%} |"
        )
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="demo-seeds", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", default="docs/results/demo-seeds.jsonl", help="the records")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    return parser.parse_args()


if __name__ == "__main__":
    main()
