"""How short and how small may the demo's finetunes be? Undamaged rows against random ones, in several regimes.

    python benchmarks/demo_oracle.py --output-dir demo-oracle

The pool is cut into disjoint parts. In each, one finetune is on undamaged rows drawn at random (an oracle, that no
rule enters), and one on rows drawn at random, at equal response tokens, steps and seed. Killed and started again, it
goes on where it stopped. It writes docs/results/demo-oracle.jsonl, one finetune a line, and prints a table.
"""

import argparse
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_instructmine.cli import demo
from hf_instructmine.comparison.statistics import compare_parts
from hf_instructmine.data.evaluation_sets import load_eval_sets
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep.inline import Inline
from hf_instructmine.sweep.request import read_rows


@dataclass(frozen=True)
class Regime:
    """What a finetune trains on and how; `batch` in rows, one row or two at a time."""

    parts: int
    tokens: int
    steps: int
    batch: int
    learning_rate: float
    seed: int = 0  # of the parts and draws
    training_seed: int = 0
    alike: bool = False  # whether the oracle keeps to the pool's shares of the kinds of task
    warmup: int = 0  # steps


REGIMES = [
    Regime(4, 1500, 12, 4, 1e-3),
    Regime(4, 4000, 12, 4, 5e-4),
    Regime(4, 4000, 12, 4, 3e-4),
    Regime(4, 4000, 24, 2, 5e-4),
    Regime(4, 4000, 24, 2, 5e-4, seed=1, alike=True),
    Regime(8, 2000, 16, 2, 5e-4, seed=3, alike=True),
    Regime(8, 2000, 8, 4, 5e-4, seed=3, alike=True),
    Regime(8, 2000, 16, 2, 5e-4, seed=3, alike=True, warmup=4),
    Regime(8, 2000, 24, 2, 5e-4, seed=3, alike=True),
    Regime(10, 1600, 16, 2, 5e-4, seed=4, alike=True),
    Regime(8, 1400, 16, 2, 5e-4, seed=5, alike=True),
]


def main() -> None:
    args = parse()
    output, path = Path(args.output_dir), Path(args.results)
    scored = demo.score_demo_pool(demo.demo_pool(), output / "scored")
    done = {key(row): row for row in map(json.loads, path.read_text().splitlines())} if path.exists() else {}
    due = [(regime, part, name, rows) for regime in REGIMES for part, name, rows in drawn(scored, regime)]
    due = [what for what in due if key({**asdict(what[0]), "part": what[1], "rows_of": what[2]}) not in done]
    if due:
        engine = Inline(
            Recipe.load(demo._recipe()), load_eval_sets(demo._evaluation()),
            read_rows(scored, range(len(scored)), None), output,
        )  # fmt: skip
        for regime, part, name, rows in due:
            row = finetuned(engine, scored, regime, part, name, rows, output / "run")
            done[key(row)] = row
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
    print(table(list(done.values())))


def drawn(scored: Dataset, regime: Regime) -> list[tuple[int, str, list[int]]]:
    """For each part, the undamaged rows and the random ones."""
    lengths, kinds, damage = (np.array(scored[name][:]) for name in ("output_length", "source", demo.DAMAGE))
    rng = np.random.default_rng(regime.seed)
    found = []
    for part, rows in enumerate(np.array_split(rng.permutation(len(scored)), regime.parts)):
        good = rows[damage[rows] == demo.NONE]
        shares = task_shares(scored) if regime.alike else {}
        oracle = [row for kind in sorted(shares) for row in
                  take(good[kinds[good] == kind], lengths, regime.tokens * shares[kind], rng)]  # fmt: skip
        found.append((part, "undamaged", oracle or take(good, lengths, regime.tokens, rng)))
        found.append((part, "random", take(rows, lengths, regime.tokens, rng)))
    return found


def take(rows: np.ndarray, lengths: np.ndarray, tokens: float, rng: np.random.Generator) -> list[int]:
    """Rows at random, as many as come nearest to so many response tokens."""
    rows = rng.permutation(rows)
    total = lengths[rows].cumsum()
    count = int(np.searchsorted(total, tokens)) + 1
    if count > 1 and abs(total[count - 2] - tokens) <= abs(total[min(count, len(total)) - 1] - tokens):
        count -= 1
    return rows[:count].tolist()


def task_shares(scored: Dataset) -> dict[str, float]:
    """The share of the pool's response tokens that each kind of task has, damaged rows included."""
    tokens: Counter[str] = Counter()
    for kind, count in zip(scored["source"], scored["output_length"]):
        tokens[kind] += count
    return {kind: count / tokens.total() for kind, count in tokens.items()}


def finetuned(
    engine: Inline, scored: Dataset, regime: Regime, part: int, name: str, rows: list[int], folder: Path
) -> dict:
    lengths, damage = np.array(scored["output_length"][:])[rows], np.array(scored[demo.DAMAGE][:])[rows]
    each = min(regime.batch, 2)
    engine.recipe = Recipe.load(
        demo._recipe(regime.steps)
        | {
            "learning_rate": regime.learning_rate,
            "per_device_train_batch_size": each,
            "gradient_accumulation_steps": regime.batch // each,
            "warmup_steps": regime.warmup,
        }
    )
    result = engine.run(rows, regime.training_seed + part, folder)
    examples = result["examples"]["evaluation"]
    return {
        **asdict(regime), "part": part, "rows_of": name, "rows": len(rows), "subset_tokens": int(lengths.sum()),
        "damaged_tokens": float(lengths[damage != demo.NONE].sum() / lengths.sum()),
        "loss": result["losses"]["evaluation"], "nll": examples["nll"], "example_tokens": examples["tokens"],
    }  # fmt: skip


def key(row: dict) -> str:
    names = [*Regime.__dataclass_fields__, "part", "rows_of"]
    return json.dumps([row.get(name, 0) for name in names])


def table(runs: list[dict]) -> str:
    """One line a regime: the paired difference over its parts."""
    lines = [
        "| parts | tokens | steps × rows | learning rate | oracle | undamaged | random | difference | SD | 95 % | p |",
        "|---:|---:|---:|---:|---|---:|---:|---:|---:|---|---:|",
    ]
    for regime in REGIMES:
        mine = {(r["part"], r["rows_of"]): r for r in runs if all(r.get(k, 0) == v for k, v in asdict(regime).items())}
        both = [k for k in range(regime.parts) if {(k, "undamaged"), (k, "random")} <= mine.keys()]
        if len(both) < 2:
            continue
        nll = {name: np.array([mine[k, name]["nll"] for k in both]) for name in ("undamaged", "random")}
        tokens = np.array(mine[both[0], "random"]["example_tokens"])
        found = compare_parts(nll["undamaged"], nll["random"], tokens)
        loss = {name: values.sum() / len(both) / tokens.sum() for name, values in nll.items()}
        lines.append(
            f"| {len(both)} | {regime.tokens:,} | {regime.steps} × {regime.batch} | {regime.learning_rate:g} | "
            f"{kind(regime)} | {loss['undamaged']:.4f} | {loss['random']:.4f} | "
            f"{found.estimate:+.4f} | {found.parts_sd:.4f} | {found.low:+.4f} … {found.high:+.4f} | {found.p:.2g} |"
        )
    return "\n".join(lines)


def kind(regime: Regime) -> str:
    """What the oracle keeps to, and how training begins where that is not at once."""
    told = "same kinds of task" if regime.alike else "any"
    return f"{told}; {regime.warmup} steps of warm-up" if regime.warmup else told


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", default="demo-oracle", help="keeps what is costly; not for the repository")
    parser.add_argument("--results", default="docs/results/demo-oracle.jsonl", help="the records")
    return parser.parse_args()


if __name__ == "__main__":
    main()
