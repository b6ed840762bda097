"""What a size search finds where the best size is known: `python benchmarks/size_search_simulations.py`.

Prints the tables of docs/size-search.md (some three minutes on one core at the default number of searches). Nothing is
trained: a finetune is a known curve plus noise. Everything is drawn from seeds, so the tables come out the same again.
"""

import argparse
from collections.abc import Callable

import numpy as np
from datasets import Dataset
from scipy.stats import t

from hf_instructmine import size_report
from hf_instructmine.search.blend_search import TrialOutcome, blend_search
from hf_instructmine.search.report import against_random


LOW, HIGH = 512, 10_000  # the paper's
GRID_SIZE, GRID_SEEDS, TRIALS = 5, 3, 20
NEAR = 0.1  # a size within 10 % of the best one counts as found
RANDOM_GAP = 0.1  # nats by which random rows are worse than selected ones

_HEAD = """\
| curve | best size | noise SD | ranges hold it | part of the log range | ranges | place | curve's best within 10 % \
| best trial within 10 % |
|---|---:|---:|---:|---:|---:|---|---:|---:|"""
_START_HEAD = """
| curve | best size | trials | found with the low-cost start | within 10 % | found without it | within 10 % |
|---|---:|---:|---:|---:|---:|---:|"""

NOISES = ((0.0, 0.005), (0.0025, 0.005), (0.005, 0.005), (0.01, 0.005), (0.01, 0.0005))
_UNIT_HEAD = (
    "\n| pool | "
    + " | ".join(f"sets {sets:g}, seeds {seeds:g}" for sets, seeds in NOISES)
    + " |\n|---"
    + "|---:" * len(NOISES)
    + "|"
)

Curve = Callable[[np.ndarray], np.ndarray]


def basins(first: tuple[float, float, float], second: tuple[float, float, float]) -> Curve:
    """Two dips, each with its size, its depth in nats and its width in log size."""

    def curve(sizes: np.ndarray) -> np.ndarray:
        dips = [d * np.exp(-((np.log(sizes) - np.log(n)) ** 2) / (2 * w**2)) for n, d, w in (first, second)]
        return 1.0 - sum(dips)

    return curve


# The first is the paper's best size with a rival; in the second the rival is nearly as good; in the third it is the
# better one, and the search meets the other first.
CURVES: dict[str, Curve] = {
    "two basins": basins((2532, 0.045, 0.35), (7000, 0.032, 0.30)),
    "two basins, nearly equal": basins((2532, 0.045, 0.35), (7000, 0.041, 0.30)),
    "two basins, the larger better": basins((6000, 0.045, 0.30), (1200, 0.032, 0.35)),
    "two narrow basins": basins((2532, 0.045, 0.20), (7000, 0.032, 0.20)),
    "one wide basin": lambda sizes: 0.95 + 0.02 * (np.log(sizes) - 7.6) ** 2,
    "falling": lambda sizes: 1.0 - 0.02 * np.log(sizes / LOW),
    "flat": lambda sizes: np.full(np.shape(sizes), 1.0),
}


def optimum(curve: Curve) -> int:
    sizes = np.arange(LOW, HIGH + 1)
    return int(sizes[curve(sizes).argmin()])


def noise_of(curve: Curve, share: float) -> float:
    """SD between runs: a share of how much better the best size is than the median one; of a flat curve 0.01 nats."""
    losses = curve(np.geomspace(LOW, HIGH, 1001))
    depth = np.median(losses) - losses.min()
    return share * depth if depth else 0.01


def simulated_trials(curve: Curve, noise: float, seed: int, num_trials: int = TRIALS) -> Dataset:
    """A search as `search_size` runs it: grid, selected and random, then BlendSearch, which is told the grid."""
    rng = np.random.default_rng([seed, 1])
    rows: list[dict] = []

    def add(kind: str, strategy: str, size: int) -> float:
        loss = float(curve(np.array(size)) + noise * rng.normal() + RANDOM_GAP * (strategy == "random"))
        row = {
            "trial": len(rows),
            "kind": kind,
            "strategy": strategy,
            "size": size,
            "mixture_id": f"{strategy}-{size}",
        }
        row |= {"loss_simulated": loss, "train_tokens": 100 * size, "steps": size, "seconds": 1.0}
        rows.append({**row, "status": "done", "reason": None})
        return loss

    sizes = [int(n) for n in np.rint(np.geomspace(LOW, HIGH, GRID_SIZE))]
    known = []
    for size in sizes:
        losses = [add("grid", "selected", size) for _ in range(GRID_SEEDS)]
        for _ in range(GRID_SEEDS):
            add("grid", "random", size)
        known.append(({"size": size}, TrialOutcome(float(np.mean(losses)), float(size))))
    blend_search(
        lambda configs: [TrialOutcome(add("search", "selected", c["size"]), float(c["size"])) for c in configs],
        {"size": (LOW, HIGH)},
        num_trials,
        known=known,
        seed=seed,
    )
    return Dataset.from_list(rows)


def incumbent(curve: Curve, noise: float, seed: int, num_trials: int, low_cost_start: bool) -> int:
    """The size of lowest loss that BlendSearch alone meets."""
    rng = np.random.default_rng([seed, 2])
    trials = blend_search(
        lambda configs: [
            TrialOutcome(float(curve(np.array(c["size"])) + noise * rng.normal()), float(c["size"])) for c in configs
        ],
        {"size": (LOW, HIGH)},
        num_trials,
        low_cost={"size": LOW} if low_cost_start else None,
        seed=seed,
    )
    return min(trials, key=lambda trial: trial[1].loss)[0]["size"]


def describe(name: str, share: float, searches: int) -> str:
    """What the reports say, as a line of a table."""
    curve = CURVES[name]
    best, noise = optimum(curve), noise_of(curve, share)
    reports = [size_report(simulated_trials(curve, noise, seed)) for seed in range(searches)]
    held = np.mean([any(low <= best <= high for low, high in r.ranges) for r in reports])
    near = [
        np.mean([abs(size / best - 1) <= NEAR for size in sizes])
        for sizes in ([r.best_size for r in reports], [r.incumbent["size"] for r in reports])
    ]
    places = [r.place for r in reports]
    common = max(sorted(set(places)), key=places.count)
    # Of a flat curve any size is the best one.
    of_best = ("", "", "", "any") if name == "flat" else (f"{held:.0%}", *(f"{n:.0%}" for n in near), f"{best:,}")
    return (
        f"| {name} | {of_best[3]} | {noise:.4f} | {of_best[0]} | {np.mean([r.curve.share for r in reports]):.0%} | "
        f"{np.mean([len(r.ranges) for r in reports]):.1f} | {common} ({places.count(common) / searches:.0%}) | "
        f"{of_best[1]} | {of_best[2]} |"
    )


def describe_start(name: str, trials: int, searches: int, share: float = 0.25) -> str:
    """Where BlendSearch alone ends with and without the low-cost start, as a line of a table."""
    curve = CURVES[name]
    best, noise = optimum(curve), noise_of(curve, share)
    told = []
    for low in (True, False):
        found = np.array([incumbent(curve, noise, seed, trials, low) for seed in range(searches)])
        low_end, middle, high_end = np.quantile(found, [0.1, 0.5, 0.9])
        near = np.mean(np.abs(found / best - 1) <= NEAR)
        told.append(f"{middle:,.0f} ({low_end:,.0f} to {high_end:,.0f}) | {near:.0%}")
    return f"| {name} | {best:,} | {trials} | {told[0]} | {told[1]} |"


def false_verdicts(sets: float, seeds: float, pool: int | None, searches: int) -> tuple[float, float]:
    """How many searches tell selected rows from random ones at any size, where the selection is a random draw itself.

    Args:
        sets (`float`): SD between random sets of the middle size; each random draw is a permutation cut at the size.
        seeds (`float`): SD between seeds.
        pool (`int`, *optional*): Rows of the pool, as the run on all of it tells; without that run, of 10,000.
        searches (`int`): How many.

    Returns:
        `tuple[float, float]`: With the finetunes as the unit, as it was before, and with the set.
    """
    rng, sizes = np.random.default_rng(0), np.rint(np.geomspace(LOW, HIGH, GRID_SIZE)).astype(int)
    found = np.zeros(2)
    for _ in range(searches):
        steps = np.diff(np.concatenate([[0], sizes, [max(pool or HIGH, HIGH + 1)]]))
        sums = (rng.normal(size=(1 + GRID_SEEDS, len(steps))) * np.sqrt(steps)).cumsum(axis=1)
        means = (sums - sums[:, -1:] * np.cumsum(steps) / steps.sum())[:, :-1] / sizes * np.sqrt(sizes[2]) * sets
        losses = {
            "selected": means[:1] + seeds * rng.normal(size=(GRID_SEEDS, len(sizes))),
            "random": means[1:] + seeds * rng.normal(size=(GRID_SEEDS, len(sizes))),
        }
        rows = [
            {"kind": "grid", "strategy": strategy, "size": int(size), "loss": float(loss)}
            for strategy, values in losses.items()
            for run in values
            for size, loss in zip(sizes, run)
        ]
        rows += [{"kind": "full", "strategy": "full", "size": pool, "loss": 0.0}] if pool else []
        found += _told_before(losses), any(c.told_apart for c in against_random(rows, "grid", "loss", 0.95))
    return float(found[0] / searches), float(found[1] / searches)


def _told_before(losses: dict[str, np.ndarray]) -> bool:
    """Welch's t with the spread of finetunes pooled over the sizes."""
    a, b = (side.var(axis=0, ddof=1).mean() / GRID_SEEDS for side in losses.values())
    freedom = (a + b) ** 2 / (a**2 + b**2) * GRID_SIZE * (GRID_SEEDS - 1)
    differences = losses["selected"].mean(axis=0) - losses["random"].mean(axis=0)
    return bool((abs(differences) > t.isf(0.025 / GRID_SIZE, freedom) * np.sqrt(a + b)).any())


def describe_unit(pool: int | None, searches: int) -> str:
    """False verdicts, as a line of a table."""
    shares = [false_verdicts(sets, seeds, pool, searches) for sets, seeds in NOISES]
    told = f"{pool:,} rows" if pool else "not known"
    return f"| {told} | " + " | ".join(f"{before:.1%} → {after:.1%}" for before, after in shares) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--searches", type=int, default=100, help="of each curve, by seed")
    parser.add_argument("--unit", action="store_true", help="only how often selected is told from random in vain")
    args = parser.parse_args()
    print(_UNIT_HEAD)
    for pool in (10_000, 20_000, 1_000_000, None):
        print(describe_unit(pool, 20 * args.searches), flush=True)
    if args.unit:
        return
    print(_HEAD)
    for share in (0.25, 0.5, 1.0):
        for name in CURVES if share == 0.25 else [name for name in CURVES if name != "flat"]:
            print(describe(name, share, args.searches), flush=True)
    print(_START_HEAD)
    for name in ("falling", "two basins", "two basins, the larger better"):
        for trials in (10, 20, 40):
            print(describe_start(name, trials, args.searches), flush=True)


if __name__ == "__main__":
    main()
