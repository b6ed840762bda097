"""How often protocols of comparing strategies give a false verdict: `python benchmarks/comparison_simulations.py`.

Prints the tables of docs/comparison.md, in about 15 minutes on one core; `--quick` takes one. Nothing is trained: rows
have effects on the loss, and a finetune is the mean effect of its rows plus the noise of its seed. Everything is drawn
from seeds, so the tables come out the same again. `--records docs/results/comparison.jsonl` puts recorded random draws
in the place of strategies instead.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

from hf_instructmine.comparison.power import Noise, power
from hf_instructmine.comparison.statistics import LEVEL, compare_losses, compare_parts, holm, one_against_random
from hf_instructmine.comparison.worth import worth


ROWS, CHOSEN = 1600, 64  # of the pool, and of a set
SET_SD = 0.01  # nats, between random sets; all that follows is in the same unit
PARTS = (3, 4, 5, 6, 8, 10)
EXAMPLES = (20, 40, 252)
PAIRS, PAIRINGS = (3, 4, 5), 2000  # of recorded random draws
HALVES = 10  # halves of the pool, of five splits or drawn anew: 20 finetunes, as ten parts have


@dataclass(frozen=True)
class World:
    """What differs between sets, seeds and evaluation examples; SDs in nats.

    Attributes:
        sets (`float`): Between random sets of rows, on all examples alike.
        rows_by_example (`float`): Between random sets, on one example and not on another.
        seeds (`float`): Between seeds, on all examples alike.
        seeds_by_example (`float`): Between seeds on one example.
        examples (`float`): Between examples of what a strategy does to them, which is nothing on the whole.
        skill (`float`): Correlation of the strategy's score with what a row does to the loss.
        effect (`float`): What a strategy adds to the loss wherever it chooses.
    """

    sets: float = 0.0
    rows_by_example: float = 0.0
    seeds: float = 0.0005
    seeds_by_example: float = 0.001
    examples: float = 0.0
    skill: float = 0.0
    effect: float = 0.0


WORLDS = {
    "no noise between sets": World(seeds=0.005, seeds_by_example=0.01, examples=0.06),
    "between sets": World(sets=SET_SD, rows_by_example=0.02),
    "between seeds": World(seeds=0.005, seeds_by_example=0.01),
    "between examples": World(examples=0.06),
    "all at once": World(SET_SD, 0.02, 0.005, 0.01, 0.06),
}


class Pool:
    """Rows drawn from a population, with one score, and evaluation examples drawn from another."""

    def __init__(self, world: World, examples: int, rng: np.random.Generator, strategies: int = 1) -> None:
        self.world, self.rng = world, rng
        self.scores = rng.normal(size=(ROWS, strategies))
        effects = rng.standard_t(5, (ROWS, 3)) / np.sqrt(5 / 3)
        # A choice that lowers the loss prefers rows whose effect is below the mean.
        effects[:, 0] = np.sqrt(1 - world.skill**2) * effects[:, 0] - world.skill * self.scores[:, 0]
        self.rows = np.column_stack([effects * np.sqrt(CHOSEN), self.scores])
        self.tokens = np.clip(np.round(rng.lognormal(3.9, 0.9, examples)), 1, None)
        skewed = (rng.gamma(1.0, size=(strategies, examples)) - 1) * rng.choice([-1, 1], (strategies, 1))
        loads = [
            np.full((1, examples), world.sets),
            rng.standard_t(5, (2, examples)) * world.rows_by_example / np.sqrt(2 * 5 / 3),
            skewed * world.examples,  # of a set whose mean score is one SD above that of the pool
        ]
        self.loads = np.concatenate(loads)

    def best(self, rows: np.ndarray, strategy: int = 0) -> np.ndarray:
        """The rows of highest score."""
        return rows[np.argpartition(-self.scores[rows, strategy], CHOSEN - 1)[:CHOSEN]]

    def losses(self, sets: list[np.ndarray]) -> np.ndarray:
        """Σ NLL of each example after a finetune on each set, less that of an average set."""
        means = np.stack([self.rows[rows].mean(axis=0) for rows in sets])
        seeds = self.rng.normal(size=(len(sets), 1)) * self.world.seeds
        apart = self.rng.normal(size=(len(sets), len(self.tokens))) * self.world.seeds_by_example
        return (means @ self.loads + seeds + apart) * self.tokens

    def paired(self, blocks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Σ NLL of the strategy and of random on each block of rows, which are in random order."""
        mine = self.losses([self.best(rows) for rows in blocks]) + self.world.effect * self.tokens
        return mine, self.losses([rows[:CHOSEN] for rows in blocks])


def parts(pool: Pool, count: int) -> float:
    """Both choose anew in each of several disjoint parts; `compare_parts`."""
    blocks = np.array_split(pool.rng.permutation(ROWS), count)
    return compare_parts(*pool.paired(blocks), pool.tokens).p


def old(pool: Pool) -> float:
    """One chosen set with five seeds against ten random sets; `compare_losses`."""
    rows = np.arange(ROWS)
    mine = pool.losses([pool.best(rows)] * 5) + pool.world.effect * pool.tokens
    others = pool.losses([pool.rng.choice(rows, CHOSEN, replace=False) for _ in range(10)])
    found = compare_losses(mine, others, pool.tokens, resamples=400, seed=int(pool.rng.integers(2**31)))
    return found.p if found.low > 0 or found.high < 0 else 1.0


def _halves(pool: Pool, split: bool) -> tuple[np.ndarray, float]:
    """Differences on ten halves of the pool, and p of the mean over the examples."""
    blocks: list[np.ndarray] = []
    while len(blocks) < HALVES:
        halves = np.array_split(pool.rng.permutation(ROWS), 2)
        blocks += halves if split else halves[:1]
    mine, other = pool.paired(blocks)
    mean = (mine - other).mean(axis=0)
    by_examples = compare_parts(np.tile(mean, (2, 1)), np.zeros((2, len(mean))), pool.tokens).p
    return (mine - other).sum(axis=1) / pool.tokens.sum(), by_examples


def dietterich(pool: Pool) -> float:
    """Five splits into halves, t of the first half with 5 degrees of freedom (1998), and p over the examples."""
    d, by_examples = _halves(pool, split=True)
    variances = d.reshape(5, 2).var(axis=1, ddof=1)
    return max(2 * float(stats.t.sf(abs(d[0]) / np.sqrt(variances.mean()), 5)), by_examples)


def alpaydin(pool: Pool) -> float:
    """Five splits into halves, F of all ten with 10 and 5 degrees of freedom (1999), and p over the examples."""
    d, by_examples = _halves(pool, split=True)
    variances = d.reshape(5, 2).var(axis=1, ddof=1)
    return max(float(stats.f.sf((d**2).sum() / (2 * variances.sum()), 10, 5)), by_examples)


def naive(pool: Pool) -> float:
    """Ten random halves taken to be independent, and p over the examples."""
    d, by_examples = _halves(pool, split=False)
    return max(float(stats.ttest_1samp(d, 0).pvalue), by_examples)


def nadeau_bengio(pool: Pool) -> float:
    """Ten random halves with the variance of 1/10 + (rows left out) / (rows used) (2003), and p over the examples."""
    d, by_examples = _halves(pool, split=False)
    t = abs(d.mean()) / np.sqrt(d.var(ddof=1) * (1 / HALVES + 1))
    return max(2 * float(stats.t.sf(t, HALVES - 1)), by_examples)


Protocol = Callable[[Pool], float]
RIVALS: dict[str, Protocol] = {
    "one set, 5 seeds against 10 random sets (before)": old,
    "5 × 2 halves, Dietterich": dietterich,
    "5 × 2 halves, Alpaydin": alpaydin,
    "10 random halves, t": naive,
    "10 random halves, Nadeau & Bengio": nadeau_bengio,
}


def _parts(count: int) -> Protocol:
    return lambda pool: parts(pool, count)


PROTOCOLS = {**RIVALS, **{f"{count} disjoint parts": _parts(count) for count in PARTS}}


def called(names: Sequence[str], world: World, examples: int, trials: int) -> dict[str, float]:
    """The share of trials that each protocol calls, all on the same pools; of one in four by the slow one."""
    rng, hits = np.random.default_rng(0), dict.fromkeys(names, 0.0)
    for trial in range(trials):
        pool = Pool(world, examples, rng)
        for name in names:
            if PROTOCOLS[name] is not old:
                hits[name] += (PROTOCOLS[name](pool) < LEVEL) / trials
            elif trial % 4 == 0:
                hits[name] += (old(pool) < LEVEL) / len(range(0, trials, 4))
    return hits


def table(head: list[str], lines: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |\n|---" + "|---:" * (len(head) - 1) + "|")
    for line in lines:
        print("| " + " | ".join(line) + " |")
    print(flush=True)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def false_verdicts(trials: int) -> None:
    for examples in EXAMPLES:
        print(f"False verdicts in % of {trials:,} (before: of {trials // 4:,}), {examples} evaluation examples\n")
        shares = [called(list(PROTOCOLS), world, examples, trials) for world in WORLDS.values()]
        table(["protocol", *WORLDS], [[name, *(percent(share[name]) for share in shares)] for name in PROTOCOLS])


def few_examples(trials: int) -> None:
    print(f"False verdicts in % of {trials:,}, eight parts, by the number of evaluation examples\n")
    counts, eight = (5, 10, 15, 20, 30, 40, 100, 252), "8 disjoint parts"
    names = ("between examples", "no noise between sets", "all at once")
    lines = [[name, *(percent(called([eight], WORLDS[name], n, trials)[eight]) for n in counts)] for name in names]
    table(["noise", *map(str, counts)], lines)


def family(trials: int) -> None:
    print(f"Any false verdict among four strategies after Holm's correction, in % of {trials:,}\n")
    lines = []
    for count in (4, 5, 8):
        line = [f"{count} disjoint parts"]
        for examples in EXAMPLES:
            rng, hits = np.random.default_rng(0), 0
            for _ in range(trials):
                pool = Pool(WORLDS["all at once"], examples, rng, strategies=4)
                blocks = np.array_split(rng.permutation(ROWS), count)
                other = pool.losses([rows[:CHOSEN] for rows in blocks])
                chosen = [pool.losses([pool.best(rows, k) for rows in blocks]) for k in range(4)]
                hits += min(holm([compare_parts(mine, other, pool.tokens).p for mine in chosen])) < 0.05
            line.append(percent(hits / trials))
        lines.append(line)
    table(["protocol", *(f"{examples} examples" for examples in EXAMPLES)], lines)


COMPARED = ("5 × 2 halves, Dietterich", "5 × 2 halves, Alpaydin", "10 random halves, Nadeau & Bengio")
COMPARED += tuple(f"{count} disjoint parts" for count in (10, 8, 6, 5, 4))


def power_curves(trials: int) -> None:
    trials //= 2
    effects, skills = (0.5, 1, 1.5, 2, 3, 4), (0.05, 0.1, 0.2, 0.3, 0.4)
    quiet = World(SET_SD, 0.02, 0.0005, 0.001, 0.03)  # seeds and examples as recorded
    print(f"Share of comparisons that are called, in % of {trials:,}, by the difference in SDs between random sets\n")
    _curves([replace(quiet, effect=-effect * SET_SD) for effect in effects], effects, trials)
    print("The same by the correlation of the score with what a row does: from more rows, more is gained\n")
    _curves([replace(quiet, skill=skill) for skill in skills], skills, trials)


def _curves(worlds: list[World], head: tuple[float, ...], trials: int) -> None:
    shares = [called(COMPARED, world, 252, trials) for world in worlds]
    lines = []
    for name in COMPARED:
        finetunes = 20 if "halves" in name else 2 * int(name.split()[0])
        lines.append([name, str(finetunes), *(percent(share[name]) for share in shares)])
    table(["protocol", "finetunes", *map(str, head)], lines)


def promised(trials: int) -> None:
    """Is what `power` promises what is seen?"""
    trials //= 2
    print(f"Comparisons that see the difference which `power` says is seen in 80 %, in % of {trials:,}\n")
    lines = []
    for count in (4, 5, 8, 10):
        name, noise = f"{count} disjoint parts", _noise(count)
        line = [name]
        for examples in EXAMPLES:
            world = replace(WORLDS["all at once"], effect=power(count, examples, noise=noise).detectable)
            line.append(percent(called([name], world, examples, trials)[name]))
        lines.append(line)
    table(["protocol", *(f"{examples} examples" for examples in EXAMPLES)], lines)


def _noise(count: int) -> Noise:
    """That of the world with all noise, as 300 comparisons of 252 examples measure it."""
    rng, found = np.random.default_rng(1), []
    for _ in range(300):
        pool = Pool(WORLDS["all at once"], 252, rng)
        blocks = np.array_split(rng.permutation(ROWS), count)
        found.append(compare_parts(*pool.paired(blocks), pool.tokens))
    sds = [np.sqrt(np.mean([getattr(f, name) ** 2 for f in found])) for name in ("parts_sd", "examples_sd")]
    return Noise(float(sds[0]), float(sds[1]), "simulated")


def worths(trials: int) -> None:
    trials //= 8
    print(f"Worth in random tokens, eight parts, 100 examples, {trials:,} each\n")
    curves = {
        "0.01 nats less for each doubling": lambda m: -0.01 * np.log2(m),
        "0.02 nats less for each doubling": lambda m: -0.02 * np.log2(m),
        "0.1 / √tokens": lambda m: 0.1 / np.sqrt(m),
        "flat": lambda m: 0.0 * m,
    }
    lines = []
    for name, curve in curves.items():
        for true in (0.7, 1.0, 1.5, 3.0, 6.0):
            if name == "flat" and true != 1.0:
                continue
            found = [_worth(curve, true, np.random.default_rng([i, 3])) for i in range(trials)]
            known = [w for w in found if w.times is not None]
            # Beyond what was measured, the interval has no end.
            held = [min(w.low, w.most) <= true <= max(w.high, w.least) for w in known]
            middle = float(np.median([w.times for w in known])) if known else np.nan
            told = "more than 4" if middle == np.inf else f"{middle:.2f}"
            lines.append([name, f"{true:g}", percent(1 - len(known) / trials), percent(float(np.mean(held))), told])
    table(["random's loss", "worth", "not known, %", "interval holds it, %", "median"], lines)


def _worth(curve: Callable, true: float, rng: np.random.Generator):
    tokens = np.clip(np.round(rng.lognormal(3.9, 0.9, 100)), 1, None)
    own = 0.02 * (rng.gamma(1.0, size=100) - 1)  # of the strategy, on each example
    steep = 1 + 0.5 * rng.normal(size=100)  # more tokens help one example more than another

    def side(multiple: float, extra: np.ndarray) -> np.ndarray:
        noise = SET_SD / np.sqrt(multiple) * rng.normal(size=(8, 1)) + 0.01 * rng.normal(size=(8, 100))
        return (curve(np.array(multiple)) * steep + extra + noise) * tokens

    # Beyond four times nothing was measured; a choice may still be worth it.
    return worth(side(true, own), {m: side(m, 0 * own) for m in (0.5, 1.0, 2.0, 4.0)}, tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer simulations: figures within some 2 %%")
    parser.add_argument("--records", type=Path, help="a comparison's records: random draws against random draws")
    parser.add_argument("--only", help="one table: " + ", ".join(TABLES))
    args = parser.parse_args()
    if args.records:
        return frozen_draws(args.records)
    for name, made in TABLES.items():
        if args.only in (None, name):
            made(200 if args.quick else 2000)


TABLES = {
    "false": false_verdicts,
    "examples": few_examples,
    "holm": family,
    "power": power_curves,
    "promised": promised,
    "worth": worths,
}


def frozen_draws(path: Path) -> None:
    """Random draws in the place of a strategy, against other random draws; and the noise that they show."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = [row for row in rows if row.get("status") == "done"]
    names = sorted(name.removeprefix("example_nll_") for name in rows[0] if name.startswith("example_nll_"))
    lines, noises, sums = [], [], np.zeros(4 + 2 * len(PAIRS))
    for amount in sorted({row["amount"] for row in rows if row["strategy"] == "random"}):
        for name in names:
            tokens = np.array(rows[0][f"example_tokens_{name}"], dtype=float)
            nll: dict[str, list] = {}
            for row in rows:
                if row["amount"] == amount:
                    nll.setdefault(row["strategy"], []).append(row[f"example_nll_{name}"])
            draws = np.array(nll.pop("random"))
            hits = _frozen(draws, tokens)
            sums += hits
            lines.append([f"{amount}, {name}", *_shares(hits)])
            noises.append([f"{amount}, {name}", *_noise_of(draws, nll, tokens)])
    lines.append(["all", *_shares(sums)])
    lines.append(["ten normal draws", "", "", *map(_of_normal_draws, PAIRS)])
    head = ["random draws", "one against nine, `compare_losses` (before)", "one against nine, as one set"]
    table([*head, *(f"{pairs} pairs, `compare_parts`" for pairs in PAIRS)], lines)
    table(["noise", "SD of paired random draws", "SD between examples, the largest of the strategies"], noises)


def _noise_of(draws: np.ndarray, nll: dict[str, list], tokens: np.ndarray) -> list[str]:
    mean = draws.mean(axis=0)
    differences = [np.tile(np.mean(side, axis=0) - mean, (2, 1)) for side in nll.values()]
    examples = [compare_parts(d, np.zeros_like(d), tokens).examples_sd for d in differences]
    sets = np.sqrt(2) * (draws.sum(axis=1) / tokens.sum()).std(ddof=1)
    return [f"{sets:.4f}", f"{max(examples):.4f}"]


def _frozen(nll: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Called and tried, of each way."""
    losses, hits = nll.sum(axis=1) / tokens.sum(), np.zeros(2 + 2 + 2 * len(PAIRS))
    for k in range(len(nll)):
        others = np.delete(nll, k, axis=0)
        found = compare_losses(np.tile(nll[k], (5, 1)), others, tokens, resamples=2000)
        as_set = one_against_random([losses[k]], np.delete(losses, k).tolist())
        assert as_set is not None
        before = found.p < 0.05 and not found.low <= 0 <= found.high
        hits[:4] += before, 1, as_set.p < 0.05, 1
    for place, pairs in zip((4, 6, 8), PAIRS):
        hits[place : place + 2] = _pairings(nll, tokens, pairs), PAIRINGS
    return hits


def _pairings(nll: np.ndarray, tokens: np.ndarray, pairs: int) -> int:
    """How many random pairings of random draws are called different."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(PAIRINGS):
        order = rng.permutation(len(nll))
        hits += compare_parts(nll[order[:pairs]], nll[order[pairs : 2 * pairs]], tokens).p < 0.05
    return hits


def _of_normal_draws(pairs: int, times: int = 100) -> str:
    """The same of ten draws of a normal distribution on examples that are all alike: the paired t test."""
    rng, draws = np.random.default_rng(0), []
    for _ in range(times):
        shuffled = rng.permuted(np.tile(rng.normal(size=10), (PAIRINGS, 1)), axis=1)
        p = stats.ttest_rel(shuffled[:, :pairs], shuffled[:, pairs : 2 * pairs], axis=1).pvalue
        draws.append(100 * float(np.mean(p < LEVEL)))
    return f"{np.mean(draws):.1f} % ({np.quantile(draws, 0.05):.1f} to {np.quantile(draws, 0.95):.1f})"


def _shares(hits: np.ndarray) -> list[str]:
    return [
        f"{hits[k]:.0f} of {hits[k + 1]:,.0f} ({100 * hits[k] / hits[k + 1]:.1f} %)" for k in range(0, len(hits), 2)
    ]


if __name__ == "__main__":
    main()
