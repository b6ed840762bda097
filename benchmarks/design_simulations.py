"""How many random runs equal 24 designed ones, on responses with known coefficients.

    python benchmarks/design_simulations.py [--pool FOLDER_OF_JSONL]

Prints Markdown tables. Without `--pool` (or INSTRUCTMINE_SHARED_DATA/pool) only the simulated pool is used. The real
rows are described by cheap measures of their words, computed here: a design needs indicators, whichever they are.
"""

import argparse
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
from datasets import Dataset, disable_progress_bars
from scipy.stats import spearmanr

from hf_instructmine import design_mixtures


RUNS = 24
RANDOM_RUNS = (24, 48, 96, 192, 384, 768, 1536, 3072, 6144)
PRINTED = (24, 96, 192, 768, 6144)
DESIGNS = 10  # seeds of each design
RESPONSES = 200  # simulated sweeps per design
NOISE = 1.0  # SD of a run's log loss; standard errors are in its units
EFFECT = 3.0  # SD of the true coefficients, per SD of the pool, where predictions are judged


def simulated_pool(rows: int = 28_000, indicators: int = 6, sources: int = 7, seed: int = 0) -> Dataset:
    """Correlated indicators, half of their variance in common factors, and sources that differ by about half an SD."""
    rng = np.random.default_rng(seed)
    source = rng.integers(sources, size=rows)
    factors = rng.normal(size=(rows, indicators // 2)) @ rng.normal(size=(indicators // 2, indicators))
    x = factors + rng.normal(size=(rows, indicators)) * factors.std(axis=0)
    x += 0.5 * x.std(axis=0) * rng.normal(size=(sources, indicators))[source]
    return Dataset.from_dict({"source": source.astype(str)} | {f"x{k}": x[:, k] for k in range(indicators)})


def real_pool(folder: Path) -> Dataset:
    """Word counts and type-token measures of real instruction rows."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            if "messages" in row:
                prompt, response = (message["content"] for message in row["messages"][-2:])
            else:
                prompt, response = f"{row['instruction']}\n{row['input']}", row["output"]
            asked, words = (re.findall(r"\w+", text.lower()) for text in (prompt, response))
            if not words:
                continue
            types = set(words)
            rows.append(
                {
                    "source": row["source"],
                    "prompt_words": len(asked),
                    "response_words": len(words),
                    "type_token_ratio": len(types) / len(words),
                    "root_type_token_ratio": len(types) / len(words) ** 0.5,
                    "word_length": sum(map(len, words)) / len(words),
                    "repeated_from_prompt": len(types & set(asked)) / len(types),
                }
            )
    return Dataset.from_list(rows)


class Simulation:
    """One pool and one subset size: means in SDs of the pool, responses with known coefficients, OLS."""

    def __init__(self, pool: Dataset, subset_size: int) -> None:
        self.pool, self.size = pool, subset_size
        self.columns = [name for name in pool.column_names if name != "source"]
        values = np.column_stack([pool[name] for name in self.columns])
        self.mean, self.scale = values.mean(axis=0), values.std(axis=0)
        self.rows = (values - self.mean) / self.scale
        rng = np.random.default_rng(0)
        rules = rng.normal(size=(200, len(self.columns)))
        self.selections = np.array(
            [self.rows[np.argpartition(-(self.rows @ rule), subset_size)[:subset_size]].mean(axis=0) for rule in rules]
        )

    def design(self, method: str, runs: int, seed: int) -> np.ndarray:
        mixtures = design_mixtures(
            self.pool,
            runs,
            subset_size=self.size,
            method=method,
            indicators=self.columns,
            replicates=0,
            seed=seed,
        )
        return (np.column_stack([mixtures[name] for name in self.columns]) - self.mean) / self.scale

    def standard_errors(self, x: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Of each coefficient: what (X'X)⁻¹ promises, and the root mean square error over simulated sweeps."""
        a = _with_intercept(x)
        promised = NOISE * np.sqrt(np.diag(np.linalg.inv(a.T @ a)))[1:]
        truth = rng.normal(scale=EFFECT, size=a.shape[1])
        losses = (a @ truth)[:, None] + rng.normal(scale=NOISE, size=(len(a), RESPONSES))
        fitted = np.linalg.lstsq(a, losses, rcond=None)[0]
        return promised, np.sqrt(((fitted - truth[:, None]) ** 2).mean(axis=1))[1:]

    def prediction(self, x: np.ndarray, saturating: bool, rng: np.random.Generator) -> tuple[float, float]:
        """RMSE and Spearman correlation of predicted against true log loss of 200 rules' selections."""
        shape = (lambda means: 2 * np.tanh(means / 2)) if saturating else (lambda means: means)
        errors, ranks = [], []
        for _ in range(RESPONSES // DESIGNS):
            truth = rng.normal(scale=EFFECT, size=x.shape[1])
            losses = shape(x) @ truth + rng.normal(scale=NOISE, size=len(x))
            fitted = np.linalg.lstsq(_with_intercept(x), losses, rcond=None)[0]
            predicted, true = _with_intercept(self.selections) @ fitted, shape(self.selections) @ truth
            errors.append(np.sqrt(np.mean((predicted - true) ** 2)))
            ranks.append(spearmanr(predicted, true).statistic)
        return float(np.mean(errors)), float(np.mean(ranks))

    def table(self) -> str:
        rng = np.random.default_rng(1)
        designs = {"d-optimal": [self.design("d-optimal", RUNS, seed) for seed in range(DESIGNS)]}
        for method in ("tilted", "dirichlet"):
            designs[method] = [self.design(method, RANDOM_RUNS[-1], 1000 + seed) for seed in range(2)]
        lines = [
            "| design | runs | SE | SE, simulated | SE, largest | RMSE, linear | rank | RMSE, curved | rank |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        errors = {}
        for method, drawn in designs.items():
            for runs in (RUNS,) if method == "d-optimal" else RANDOM_RUNS:
                # Disjoint stretches of one long random design are independent designs.
                x = [part for d in drawn for part in np.split(d, len(d) // runs)][:DESIGNS]
                promised, simulated = np.mean([self.standard_errors(each, rng) for each in x], axis=0)
                errors[method, runs] = promised
                if runs not in PRINTED:
                    continue
                fits = [
                    np.mean([self.prediction(each, curved, rng) for each in x], axis=0) for curved in (False, True)
                ]
                lines.append(
                    f"| {method} | {runs} | {promised.mean():.3f} | {simulated.mean():.3f} | {promised.max():.3f} | "
                    + " | ".join(f"{rmse:.2f} | {rank:.3f}" for rmse, rank in fits)
                    + " |"
                )
        designed = errors["d-optimal", RUNS]
        equal = {method: _equal_runs(designed, errors, method) for method in ("dirichlet", "tilted")}
        lines += [
            "",
            f"24 designed runs equal {equal['dirichlet']} Dirichlet runs and {equal['tilted']} random tilted ones. "
            f"Each standard error is {(designed / errors['dirichlet', 96]).min():.2f} to "
            f"{(designed / errors['dirichlet', 96]).max():.2f} times that of 96 Dirichlet runs.",
        ]
        return "\n".join(lines)


def _equal_runs(designed: np.ndarray, errors: dict, method: str) -> str:
    """The number of random runs whose mean standard error is the designed one, log-linear between the sizes tried."""
    means = [errors[method, runs].mean() for runs in RANDOM_RUNS]
    if designed.mean() < means[-1]:
        return f"more than {RANDOM_RUNS[-1]}"
    runs = np.interp(-np.log(designed.mean()), -np.log(means), np.log(RANDOM_RUNS))
    return f"{np.exp(runs):.0f}"


def _with_intercept(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def main() -> None:
    shared = os.environ.get("INSTRUCTMINE_SHARED_DATA")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pool", type=Path, default=Path(shared) / "pool" if shared else None)
    args = parser.parse_args()
    disable_progress_bars()
    warnings.simplefilter("ignore")
    pools = {"simulated pool": simulated_pool()}
    if args.pool is not None:
        pools["real pool"] = real_pool(args.pool)
    for name, pool in pools.items():
        for size in (128, 1000):
            print(f"### {name}, {len(pool)} rows, {len(set(pool['source']))} sources, subsets of {size} rows\n")
            print(Simulation(pool, size).table(), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
