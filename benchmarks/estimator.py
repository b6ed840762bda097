"""How long a fit takes: `python benchmarks/estimator.py [--threads 2]`.

129 runs × 9 indicators, the paper's size: the exhaustive choice alone, then a full fit with nested 10-fold
cross-validation over 10 partitions, 2,000 bootstrap resamples (each with its own choice) and 1,000 permutations (each
with its own nested cross-validation). For comparison, the choice by refitting each subset on each fold.
"""

import argparse
import os
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of the linear algebra (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many (default: 3)")
    arguments = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(arguments.threads)  # before numpy is imported

    import numpy as np
    from estimator_simulations import simulated_means

    from hf_instructmine import LossEstimator
    from hf_instructmine.regression.choice import FOLDS, PARTITIONS, Problem, assign_folds, choose

    rng = np.random.default_rng(0)
    means = simulated_means(129, rng, collinear=True)
    log_loss = 0.02 * means[:, 0] - 0.02 * means[:, 3] + 0.03 * rng.normal(size=129)
    columns = ["input_length", "output_length", "reward", "perplexity", "mtld", "knn_6"]
    columns += ["naturalness", "coherence", "understandability"]
    runs = {**dict(zip(columns, means.T)), "loss_self_instruct": np.exp(log_loss)}
    shares = [dict(zip("abcdefg", row)) for row in rng.dirichlet(np.ones(7), 129).tolist()]
    with_sources = {**runs, "proportions": shares}
    x = np.column_stack([np.ones(129), (means - means.mean(0)) / means.std(0)])
    problem = Problem(x, log_loss, np.ones(129), np.arange(129), 1, [None] * 9)

    def exhaustive():
        return choose(problem, log_loss[:, None], np.ones((1, 129)), np.random.default_rng(1))

    def by_refitting():
        folds = np.random.default_rng(1)
        errors = np.zeros(len(problem.subsets))
        for _ in range(PARTITIONS):
            fold = assign_folds(problem.mixtures, FOLDS, folds)
            for k in range(FOLDS):
                train, test = fold != k, fold == k
                for s, subset in enumerate(problem.subsets):
                    used = problem.columns(subset)
                    beta = np.linalg.lstsq(x[train][:, used], log_loss[train])[0]
                    errors[s] += ((log_loss[test] - x[test][:, used] @ beta) ** 2).sum()
        return errors.argmin()

    LossEstimator.fit(runs, permutations=0, bootstraps=0)  # imports are not what is timed
    rows = [
        ("exhaustive choice, 512 subsets × 30 folds", _best(exhaustive, arguments.repeats)),
        ("the same by refitting", _best(by_refitting, 1)),
        ("full fit", _best(lambda: LossEstimator.fit(runs), arguments.repeats)),
        ("full fit, seven sources left out", _best(lambda: LossEstimator.fit(with_sources), arguments.repeats)),
    ]
    assert exhaustive()[0, 0] == by_refitting()
    print(f"129 runs × 9 indicators, {arguments.threads} threads\n\n| what | seconds |\n|---|---|")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.3f} |")
    print(f"\nThe choice is {rows[1][1] / rows[0][1]:.0f} times as fast as by refitting, and the same.")


def _best(work, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
