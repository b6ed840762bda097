"""What the estimator's figures are worth where the truth is known: `python benchmarks/estimator_simulations.py`.

Prints the tables of docs/estimator.md (about four minutes on one core at the default number of draws). Everything is
drawn from seeds, so the tables come out the same again.
"""

import argparse

import numpy as np
from scipy.stats import t

from hf_instructmine.regression.choice import (
    FOLDS,
    Problem,
    assign_folds,
    choose,
    chosen_sets,
    cross_fit,
    fold_errors,
    held_out,
    least_squares,
    permuted_targets,
    r_squared,
)
from hf_instructmine.regression.diagnostics import least_squares_statistics
from hf_instructmine.regression.replicates import noise_ceiling


INDICATORS = 9
TRUTH = np.array([0.5, 0.0, 0.0, -0.5, 0.0, 0.35, 0.0, 0.0, 0.0])
# Half of the variance of log loss is noise: a perfect rule has R² 0.5.
ATTAINABLE = 0.5
MANY = 40
CRITERIA = ("cv", "bic", "aic", "aicc", "p-value", "none")


def simulated_means(n: int, rng: np.random.Generator, collinear: bool) -> np.ndarray:
    """Mean indicators of n mixtures, shape (n, 9): independent, or as mixtures of five sources with a part of their
    own, two of them near copies of others (variance inflation about 3 to 20)."""
    own = rng.normal(size=(n, INDICATORS))
    if not collinear:
        return own
    sources = np.random.default_rng(7).normal(size=(5, INDICATORS))  # the sources are the same in every draw
    means = 2.5 * rng.dirichlet(np.ones(5), n) @ sources + 0.5 * own
    means[:, 1] = 0.95 * means[:, 0] + 0.2 * own[:, 1]
    means[:, 4] = 0.95 * means[:, 3] + 0.2 * own[:, 4]
    return means


def problem_of(means: np.ndarray, y: np.ndarray, select: str, mixtures: np.ndarray | None = None) -> Problem:
    x = np.column_stack([np.ones(len(means)), (means - means.mean(0)) / means.std(0)])
    codes = np.arange(len(y)) if mixtures is None else mixtures
    return Problem(x, y, np.ones(len(y)), codes, 1, [None] * means.shape[1], select=select)


def recovery(n: int, collinear: bool, draws: int) -> list[str]:
    """Which regressors each criterion takes, and what its R² say against the R² on 4,000 new mixtures."""
    population = simulated_means(4000, np.random.default_rng(99), collinear)
    scale = population.std(0)
    signal_variance = (population / scale @ TRUTH).var()
    noise = np.sqrt(signal_variance * (1 / ATTAINABLE - 1))
    signal = population / scale @ TRUTH
    rows = []
    for select in CRITERIA:
        found, false, exact, covered, naive, nested, true = [], [], [], [], [], [], []
        for draw in range(draws):
            rng = np.random.default_rng([n, draw])
            means = simulated_means(n, rng, collinear)
            y = means / scale @ TRUTH + noise * rng.normal(size=n)
            problem = problem_of(means, y, select)
            subset = problem.subsets[choose(problem, y[:, None], np.ones((1, n)), rng)[0, 0]]
            x = problem.x[:, problem.columns(subset)]
            result, covariance, in_sample = least_squares_statistics(x, problem)
            found.append(subset[TRUTH != 0].sum())
            false.append(subset[TRUTH == 0].sum())
            exact.append((subset == (TRUTH != 0)).all())
            error = np.sqrt(np.diag(covariance))[1:] * t.ppf(0.975, n - x.shape[1])
            target = (TRUTH / scale * means.std(0))[subset]
            covered += (np.abs(result.params[1:] - target) <= error).tolist()
            naive.append(in_sample.r2)
            folds = assign_folds(problem.mixtures, FOLDS, rng)
            predicted = cross_fit(held_out, problem, y[:, None], [folds], rng)[0]
            nested.append(r_squared(y[:, None], predicted, problem.weights)[0])
            new = np.column_stack([np.ones(4000), (population - means.mean(0)) / means.std(0)])
            guess = new[:, problem.columns(subset)] @ result.params
            true.append(1 - (((signal - guess) ** 2).mean() + noise**2) / (signal_variance + noise**2))
        rows.append(
            f"| {select} | {np.mean(found):.2f} | {np.mean(false):.2f} | {np.mean(exact):.0%} "
            f"| {np.mean(covered):.1%} | {np.mean(naive):.3f} | {np.mean(nested):.3f} | {np.mean(true):.3f} |"
        )
    return rows


def pure_noise(draws: int, n: int = 30, permutations: int = 199) -> list[str]:
    """What each R² says of a target that has nothing to do with the indicators, and the permutation p-values."""
    rows = []
    for select in ("cv", "bic", "p-value"):
        naive, best, nested, p = [], [], [], []
        for draw in range(draws):
            rng = np.random.default_rng([11, draw])
            means, y = simulated_means(n, rng, collinear=True), rng.normal(size=n)
            problem = problem_of(means, y, select)
            chosen = problem.subsets[choose(problem, y[:, None], np.ones((1, n)), rng)[0, 0]]
            x = problem.x[:, problem.columns(chosen)]
            fitted = x @ least_squares(x, y[:, None], problem.weights)
            naive.append(r_squared(y[:, None], fitted, problem.weights)[0])
            errors = [e.sum() / 3 for e in fold_errors(problem, y[:, None], np.ones((1, n)), rng)]
            chosen_row = np.flatnonzero((problem.subsets == chosen).all(axis=1))[0]
            best.append(1 - errors[chosen_row] / ((y - y.mean()) ** 2).sum())
            targets = np.column_stack([y, permuted_targets(problem, permutations, rng)])
            folds = assign_folds(problem.mixtures, FOLDS, rng)
            scores = r_squared(targets, cross_fit(held_out, problem, targets, [folds], rng)[0], problem.weights)
            nested.append(scores[0])
            p.append((1 + (scores[1:] >= scores[0]).sum()) / (1 + permutations))
        shares = " | ".join(f"{np.mean(np.array(p) <= level):.1%}" for level in (0.05, 0.1, 0.25, 0.5, 0.75))
        rows.append(f"| {select} | {np.mean(naive):.3f} | {np.mean(best):.3f} | {np.mean(nested):.3f} | {shares} |")
    return rows


def many_of(n: int, draw: int, select: str, matter: bool) -> tuple[Problem, np.random.Generator, np.ndarray]:
    """n runs of 40 independent candidates, of which three matter, or none."""
    rng = np.random.default_rng([17, n, draw])
    means, truth = rng.normal(size=(n, MANY)), np.zeros(MANY)
    if matter:
        truth[:3] = TRUTH[TRUTH != 0]
    y = means @ truth + (np.sqrt(truth @ truth * (1 / ATTAINABLE - 1)) if matter else 1) * rng.normal(size=n)
    return problem_of(means, y, select), rng, truth


def many_found(n: int, draw: int, select: str) -> list[float]:
    """Of 40 candidates of which three matter: how many true and false ones are chosen, and the nested R²."""
    problem, rng, truth = many_of(n, draw, select, True)
    y = problem.y[:, None]
    subset = chosen_sets(problem, y, np.ones((1, n)), rng)[0, 0]
    predicted = cross_fit(held_out, problem, y, [assign_folds(problem.mixtures, FOLDS, rng)], rng)[0]
    nested = r_squared(y, predicted, problem.weights)[0]
    return [float(subset[truth != 0].sum()), float(subset[truth == 0].sum()), float(nested)]


def many_noise(n: int, draw: int, select: str, permutations: int = 199) -> list[float]:
    """Of 40 candidates none of which matters: how many are chosen, the nested R² and its permutation p."""
    problem, rng, _ = many_of(n, draw, select, False)
    subset = chosen_sets(problem, problem.y[:, None], np.ones((1, n)), rng)[0, 0]
    targets = np.column_stack([problem.y, permuted_targets(problem, permutations, rng)])
    folds = assign_folds(problem.mixtures, FOLDS, rng)
    scores = r_squared(targets, cross_fit(held_out, problem, targets, [folds], rng)[0], problem.weights)
    return [float(subset.sum()), float(scores[0]), float((1 + (scores[1:] >= scores[0]).sum()) / (1 + permutations))]


def many(draws: int) -> None:
    """Prints the tables of 40 candidates."""
    print(f"\n**{MANY} candidates, three of which matter**, {draws} draws\n")
    print("| runs | select | true of 3 | false of 37 | exactly | nested R² |\n|---|---|---|---|---|---|")
    for n in (64, 129):
        for select in ("cv", "bic", "aicc"):
            found = np.array([many_found(n, draw, select) for draw in range(draws)])
            exact = np.mean((found[:, 0] == 3) & (found[:, 1] == 0))
            print(
                f"| {n} | {select} | {found[:, 0].mean():.2f} | {found[:, 1].mean():.2f} | {exact:.0%} "
                f"| {found[:, 2].mean():.3f} |",
                flush=True,
            )
    print(f"\n**{MANY} candidates, none of which matters**, 64 runs, {2 * draws} draws, 199 permutations\n")
    print("| select | chosen | nested R² | p ≤ 0.05 | ≤ 0.1 | ≤ 0.25 | ≤ 0.5 | ≤ 0.75 |")
    print("|---|---|---|---|---|---|---|---|")
    found = np.array([many_noise(64, draw, "cv") for draw in range(2 * draws)])
    shares = " | ".join(f"{np.mean(found[:, 2] <= level):.1%}" for level in (0.05, 0.1, 0.25, 0.5, 0.75))
    print(f"| cv | {found[:, 0].mean():.2f} | {found[:, 1].mean():.3f} | {shares} |", flush=True)


def coverage(draws: int) -> list[str]:
    """How often 95 % intervals of all coefficients, none chosen, hold the truth: classical errors and the robust."""
    rows = []
    cases = [
        ("equal variances", 24, 0, 0.0, 0.0),
        ("equal variances", 129, 0, 0.0, 0.0),
        ("variance grows with a regressor", 24, 0, 1.0, 0.0),
        ("variance grows with a regressor", 60, 0, 1.0, 0.0),
        ("variance grows with a regressor", 129, 0, 1.0, 0.0),
        ("20 of 60 runs repeat a mixture, lack of fit", 60, 20, 0.0, 1.0),
    ]
    truth = np.array([0.1, 0.5, -0.3, 0.0])
    for name, n, replicates, spread, shared in cases:
        robust, classical = [], []
        for draw in range(draws):
            rng = np.random.default_rng([n, replicates, draw])
            of = np.concatenate([np.arange(n - replicates), np.arange(replicates)])
            x = np.column_stack([np.ones(n), rng.normal(size=(n - replicates, 3))[of]])
            sd = 0.3 + spread * np.abs(x[:, 1])
            y = x @ truth + shared * 0.3 * rng.normal(size=n - replicates)[of] + sd * rng.normal(size=n)
            problem = Problem(x, y, np.ones(n), of, 1, [None] * 3, select="none")
            result, covariance, _ = least_squares_statistics(x, problem)
            distance = np.abs(result.params - truth)
            df = n - replicates - 4
            robust.append(distance <= t.ppf(0.975, df) * np.sqrt(np.diag(covariance)))
            variance = result.mse_resid * np.diag(result.normalized_cov_params)
            classical.append(distance <= t.ppf(0.975, n - 4) * np.sqrt(variance))
        each = np.mean(robust, axis=0)
        spread_of = f"{each.min():.1%} … {each.max():.1%}"
        rows.append(f"| {name} | {n} | {np.mean(classical):.1%} | {np.mean(robust):.1%} | {spread_of} |")
    return rows


def ceilings(draws: int) -> list[str]:
    """How well the noise ceiling is known from few replicates."""
    rows = []
    for truth in (0.57, 0.97):
        for mixtures, replicates in ((24, 4), (24, 8), (100, 29)):
            of = np.concatenate([np.arange(mixtures), np.arange(replicates)])
            found = []
            for draw in range(draws):
                rng = np.random.default_rng([mixtures, replicates, draw])
                y = np.sqrt(truth) * rng.normal(size=mixtures)[of] + np.sqrt(1 - truth) * rng.normal(size=len(of))
                found.append(noise_ceiling(y, of))
            inside = np.mean([f["interval"][0] <= truth <= f["interval"][1] for f in found])
            width = np.median([f["interval"][1] - f["interval"][0] for f in found])
            median = np.median([f["ceiling"] for f in found])
            rows.append(f"| {truth} | {mixtures} + {replicates} | {median:.2f} | {inside:.1%} | {width:.2f} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="per row of the recovery tables (default: 200)")
    parser.add_argument("--many", action="store_true", help="only the tables of 40 candidates (some half an hour)")
    args = parser.parse_args()
    draws = args.draws
    if args.many:
        many(draws)
        return
    for collinear, kind in ((False, "independent indicators"), (True, "indicators of mixtures of five sources")):
        for n in (30, 129):
            print(f"\n**{n} runs, {kind}**, {draws} draws\n")
            print("| select | true of 3 | false of 6 | exactly | coverage | in-sample R² | nested R² | R² on new |")
            print("|---|---|---|---|---|---|---|---|")
            print("\n".join(recovery(n, collinear, draws)), flush=True)
    print(f"\n**Pure noise**, 30 runs × 9 indicators, {2 * draws} draws, 199 permutations\n")
    print("| select | in-sample R² | CV R² of the chosen | nested R² | p ≤ 0.05 | ≤ 0.1 | ≤ 0.25 | ≤ 0.5 | ≤ 0.75 |")
    print("|---|---|---|---|---|---|---|---|---|")
    print("\n".join(pure_noise(2 * draws)), flush=True)
    print("\n**Coverage of 95 % intervals**, 500 draws, 3 regressors and the constant\n")
    print("| case | runs | classical | HC3 / CR3 | range over coefficients |\n|---|---|---|---|---|")
    print("\n".join(coverage(500)), flush=True)
    print("\n**Noise ceiling**, 1,000 draws\n")
    print("| truth | mixtures + replicates | median estimate | coverage | median width |\n|---|---|---|---|---|")
    print("\n".join(ceilings(1000)))


if __name__ == "__main__":
    main()
