"""What a rule's diagnostics are worth where the truth is known: `python benchmarks/diagnostics_simulations.py`.

Prints the tables of docs/estimator.md on unequal noise, on leaving a source out, on covariates and on predictions
after a choice. Everything is drawn from seeds, so the tables come out the same again.
"""

import argparse
import warnings

import numpy as np
from estimator_simulations import INDICATORS, TRUTH, problem_of, simulated_means
from scipy.stats import t

import hf_instructmine as him
from hf_instructmine.regression.choice import choose, held_out
from hf_instructmine.regression.diagnostics import least_squares_statistics
from hf_instructmine.regression.held_out import leave_one_source_out
from hf_instructmine.regression.replicates import lack_of_fit, noise_ceiling, replicate_spreads, unequal_noise_p
from hf_instructmine.regression.runs import RunTable
from hf_instructmine.sweep.mixtures import spread_replicates


CEILING = 0.97


def unequal_noise(draws: int) -> list[str]:
    """How often a line that is true, or bent, is called unfit, and how often the ceiling's interval holds the truth.

    24 mixtures of three indicators, of which the outermost are run twice; the noise of a mixture is log-normal.
    """
    rows = []
    for replicates in (4, 8):
        for bent in (0.0, 0.4):
            for spread in (0.0, 0.5, 1.0, 1.5):
                equal, own, first, held = [], [], [], []
                for draw in range(draws):
                    rng = np.random.default_rng([replicates, int(10 * spread), draw])
                    z = rng.normal(size=(24, 3))
                    of = np.concatenate([np.arange(24), np.argsort(-(z**2).sum(1))[:replicates]])
                    sd = np.exp(spread * rng.normal(size=24))
                    noise = (sd / np.sqrt((sd**2).mean()))[of] * rng.normal(size=len(of))
                    y = (z @ [1, 0.5, -0.5] + bent * (z[:, 0] ** 2 - 1))[of] + 0.25 * noise
                    found = lack_of_fit(np.column_stack([np.ones(len(of)), z[of]]), y, np.ones(len(of)), of)
                    equal.append(found["p"] <= 0.05)
                    own.append(found["own_noise_p"] <= 0.05)
                    p = unequal_noise_p(replicate_spreads(y, of))
                    first.append(p is not None and p < 0.05)
                    seen = np.sqrt(CEILING) * rng.normal(size=24)[of] + np.sqrt(1 - CEILING) * noise
                    low, high = noise_ceiling(seen, of)["interval"]
                    held.append(low <= CEILING <= high)
                both = np.mean(np.array(equal) & np.array(own))
                rows.append(
                    f"| 24 + {replicates} | {'bent' if bent else 'straight'} | {spread} | {np.mean(equal):.1%} "
                    f"| {np.mean(own):.1%} | {both:.1%} | {np.mean(first):.1%} | {np.mean(held):.1%} |"
                )
    return rows


def placement(draws: int) -> list[str]:
    """The replicates' noise over the mean noise of all mixtures, and the ceiling's coverage, by where replicates lie.

    The noise of a mixture grows, or falls, with its distance from the centre.
    """

    def outermost(z: np.ndarray, replicates: int) -> np.ndarray:
        return np.argsort(-(z**2).sum(1))[:replicates]

    rows = []
    for name, power in (("equal", 0.0), ("grows outwards", 1.0), ("falls outwards", -1.0)):
        for where, pick in (("outermost", outermost), ("over the whole range", spread_replicates)):
            ratio, held = [], []
            for draw in range(draws):
                rng = np.random.default_rng([41, draw])
                z = rng.normal(size=(24, 3))
                sd = (z**2).sum(1) ** (power / 2)
                sd /= np.sqrt((sd**2).mean())
                of = np.concatenate([np.arange(24), pick(z, 4)])
                ratio.append(np.sqrt((sd[of[24:]] ** 2).mean()))
                signal = np.sqrt(CEILING) * rng.normal(size=24)
                found = noise_ceiling(signal[of] + np.sqrt(1 - CEILING) * sd[of] * rng.normal(size=28), of)
                held.append(found["interval"][0] <= CEILING <= found["interval"][1])
            rows.append(f"| {name} | {where} | {np.median(ratio):.2f} | {np.mean(held):.1%} |")
    return rows


def sources(draws: int) -> list[str]:
    """How often a source is said to fail, where a source is a label that has nothing to do with the loss."""
    rows = []
    for noise in (0.5, 1.0, 2.0):
        negative, named = [], []
        for draw in range(draws):
            rng = np.random.default_rng([31, draw])
            means = rng.normal(size=(28, 5))
            problem = problem_of(means, means @ [0.5, -0.5, 0.3, 0, 0] + noise * rng.normal(size=28), "cv")
            table = RunTable(
                problem.y[:, None], {}, [], problem.mixtures, problem.weights, np.arange(28),
                sources=list("abcdefg"), shares=rng.dirichlet(np.ones(7), 28),
            )  # fmt: skip
            found = leave_one_source_out(held_out, problem, table, seed=draw, compare=True).values()
            negative.append(any(f["skill"] < 0 for f in found))
            named.append(any(f["skill"] < 0 and f["as_bad"] * len(found) <= 0.05 for f in found))
        rows.append(f"| {noise} | {np.mean(negative):.1%} | {np.mean(named):.1%} |")
    return rows


def covariates(draws: int) -> list[str]:
    """What is said of a rule of pure noise whose groups of runs, or whose covariate, explain nearly everything."""
    from hf_instructmine.estimator.summary import verdict

    rows = []
    for effect in (0.0, 0.03):
        nested, partial, said = [], [], []
        for draw in range(draws):
            rng = np.random.default_rng([51, draw])
            x = rng.normal(size=(40, 3))
            log_loss = 0.5 * (np.arange(40) % 2) + effect * x[:, 0] + 0.03 * rng.normal(size=40)
            runs = dict(zip(("mtld", "reward", "nll"), x.T)) | {
                "base": [f"m{i % 2}" for i in range(40)],
                "loss_a": np.exp(log_loss),
            }
            rule = him.LossEstimator.fit(runs, target="loss_a", group="base", permutations=99, bootstraps=0)
            nested.append(rule.diagnostics.nested_cv_r2)
            partial.append(rule.diagnostics.partial_r2)
            said.append("Do not select" not in verdict(rule.diagnostics))
        rows.append(f"| {effect} | {np.median(nested):.2f} | {np.median(partial):.2f} | {np.mean(said):.1%} |")
    return rows


def predictions(draws: int) -> list[str]:
    """How often 95 % intervals of predictions hold the truth: of new mixtures, and of the best of a pool."""
    rows = []
    for collinear in (False, True):
        population = simulated_means(4000, np.random.default_rng(99), collinear)
        scale = population.std(0)
        signal = population / scale @ TRUTH
        noise = signal.std()
        for n in (30, 129):
            for select in ("cv", "bic", "none"):
                inside = {kind: [] for kind in ("mean", "one", "best mean", "best one")}
                for draw in range(draws):
                    rng = np.random.default_rng([61, n, draw])
                    means = simulated_means(n, rng, collinear)
                    problem = problem_of(means, means / scale @ TRUTH + noise * rng.normal(size=n), select)
                    subset = problem.subsets[choose(problem, problem.y[:, None], np.ones((1, n)), rng)[0, 0]]
                    used = problem.columns(subset)
                    result, covariance, _ = least_squares_statistics(problem.x[:, used], problem)
                    new = np.column_stack([np.ones(4000), (population - means.mean(0)) / means.std(0)])[:, used]
                    guess, variance = new @ result.params, ((new @ covariance) * new).sum(1)
                    reach = t.ppf(0.975, n - len(used))
                    mean = np.abs(guess - signal) <= reach * np.sqrt(variance)
                    seen = signal + noise * rng.normal(size=4000)
                    one = np.abs(guess - seen) <= reach * np.sqrt(variance + result.mse_resid)
                    inside["mean"].append(mean.mean())
                    inside["one"].append(one.mean())
                    best = np.argsort(guess)[:40]
                    inside["best mean"].append(mean[best].mean())
                    inside["best one"].append(one[best].mean())
                shown = " | ".join(f"{np.mean(values):.1%}" for values in inside.values())
                rows.append(f"| {n} | {'collinear' if collinear else 'independent'} | {select} | {shown} |")
    return rows


def show(title: str, head: str, rows: list[str]) -> None:
    print(f"\n**{title}**\n\n| {head} |\n|{'---|' * (head.count('|') + 1)}")
    print("\n".join(rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="per row (default: 400)")
    draws = parser.parse_args().draws
    warnings.simplefilter("ignore")
    assert len(TRUTH) == INDICATORS
    show(
        f"Lack of fit and noise ceiling where mixtures are not equally noisy, {draws} draws",
        "mixtures + replicates | truth | spread of noise | F, p ≤ 0.05 | own noise, p ≤ 0.05 | both | one is called "
        "noisier | ceiling's coverage",
        unequal_noise(draws),
    )
    show(
        f"Where replicates lie, {draws} draws",
        "noise | replicates | their noise over the mean | ceiling's coverage",
        placement(draws),
    )
    show(
        f"Leaving out sources that do not matter, {draws // 4} draws of 28 runs, 7 sources",
        "noise | some skill below 0 | some source is said to fail",
        sources(draws // 4),
    )
    show(
        f"A group that explains nearly everything, {draws // 4} draws of 40 runs",
        'effect of one indicator | nested R² | partial R² | not "do not select"',
        covariates(draws // 4),
    )
    show(
        f"95 % intervals of predictions, {draws} draws",
        "runs | indicators | select | mean | one finetune | mean, best 1 % | one finetune, best 1 %",
        predictions(draws),
    )


if __name__ == "__main__":
    main()
