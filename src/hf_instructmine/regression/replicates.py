"""What mixtures that were run more than once tell: how noisy runs are, and whether a straight line fits them."""

from typing import Any

import numpy as np

from .choice import least_squares


LEVEL = 0.95
# Runs whose spread is this small a share of their size are equal: what is left is rounding.
_EQUAL = 1e-12


def jackknife_covariance(
    x: np.ndarray, residuals: np.ndarray, weights: np.ndarray, mixtures: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Covariance of least-squares coefficients, robust to unequal variances and to the likeness of replicates.

    CR3: the sum over mixtures of (β₍₋g₎ − β)(β₍₋g₎ − β)ᵀ. It is HC3 where every mixture has one run.

    Returns:
        The covariance, shape (k, k), and the leave-one-mixture-out residuals, shape (n,).
    """
    root = np.sqrt(weights)
    x, residuals = root[:, None] * x, root * residuals
    bread = np.linalg.pinv(x)
    bread = bread @ bread.T
    left_out = np.empty_like(residuals)
    scores = []
    for g in np.unique(mixtures):
        rows = mixtures == g
        hat = x[rows] @ bread @ x[rows].T
        left_out[rows] = np.linalg.lstsq(np.eye(rows.sum()) - hat, residuals[rows], rcond=1e-10)[0]
        scores.append(x[rows].T @ left_out[rows])
    meat = np.stack(scores).T @ np.stack(scores)
    return bread @ meat @ bread, left_out / root


def replicate_spreads(y: np.ndarray, mixtures: np.ndarray) -> list[dict[str, Any]]:
    """How far the runs of each repeated mixture lie apart, the widest apart first.

    Returns:
        One `dict` per repeated mixture: `runs` (their positions), `sd` and `share` (of the sum of squares of all
        repeated mixtures; 0 where all are equal).
    """
    found = []
    for g in np.unique(mixtures):
        rows = np.flatnonzero(mixtures == g)
        if len(rows) > 1:
            equal = np.ptp(y[rows]) <= _EQUAL * max(np.abs(y).max(), 1e-300)
            sd = 0.0 if equal else float(y[rows].std(ddof=1))
            found.append({"runs": rows.tolist(), "sd": sd, "share": 0.0})
    total = sum(_squares(pair) for pair in found)
    for pair in found:
        pair["share"] = _squares(pair) / total if total else 0.0
    return sorted(found, key=lambda pair: -pair["share"])


def unequal_noise_p(spreads: list[dict[str, Any]]) -> float | None:
    """p-value that the mixture with the largest spread is no noisier than the other repeated ones.

    Cochran's C (1941) in the form for unequal numbers of runs ('t Lam 2010): the F of the one against the others, by
    Bonferroni over the mixtures.

    Args:
        spreads (`list[dict]`): From [`replicate_spreads`].

    Returns:
        `float`, or `None` with fewer than two repeated mixtures, or where all runs of each are equal.
    """
    from scipy.stats import f

    if len(spreads) < 2 or not spreads[0]["share"]:
        return None
    freedom = np.array([len(pair["runs"]) - 1 for pair in spreads])
    squares = np.array([_squares(pair) for pair in spreads])
    others = (squares.sum() - squares) / (freedom.sum() - freedom)
    tails = f.sf(squares / freedom / np.maximum(others, 1e-300), freedom, freedom.sum() - freedom)
    return float(min(1.0, len(spreads) * tails.min()))


def _squares(pair: dict[str, Any]) -> float:
    return (len(pair["runs"]) - 1) * pair["sd"] ** 2


def noise_ceiling(y: np.ndarray, mixtures: np.ndarray) -> dict[str, Any]:
    """The share of the variance between runs that is not replicate noise: the intraclass correlation.

    Estimate and interval after Thomas & Hultquist (1978), for unequal numbers of replicates: F = h·Var(means) / MSW,
    with h the harmonic mean of the numbers, on G − 1 and n − G degrees of freedom. Both take all mixtures as equally
    noisy.

    Returns:
        `dict` with `ceiling`, `interval` and `sd`; all `None` without replicates, and where replicates are equal: no
        noise was seen then, which is not to say that there is none.
    """
    from scipy.stats import f

    codes, counts = np.unique(mixtures, return_counts=True)
    between, within = len(codes) - 1, len(y) - len(codes)
    if within == 0 or between == 0 or not any(pair["sd"] for pair in replicate_spreads(y, mixtures)):
        return {"ceiling": None, "interval": None, "sd": None}
    means = np.bincount(mixtures, y) / np.bincount(mixtures)
    variance = ((y - means[mixtures]) ** 2).sum() / within
    harmonic = len(codes) / (1 / counts).sum()
    ratio = harmonic * means.var(ddof=1) / variance

    def share(value: float) -> float:
        return float(np.clip((value - 1) / (value - 1 + harmonic), 0, 1))

    tail = (1 - LEVEL) / 2
    interval = [share(ratio / f.ppf(1 - tail, between, within)), share(ratio / f.ppf(tail, between, within))]
    return {"ceiling": share(ratio), "interval": interval, "sd": float(np.sqrt(variance))}


def lack_of_fit(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, mixtures: np.ndarray
) -> dict[str, float | None] | None:
    """Whether a regression leaves more unexplained than the replicates' noise.

    `f` and `p` are of the F test against one free mean per mixture, by the pure error of the replicates. Where
    replicates differ a little in x (same recipe, other rows), the free means come on top of the slopes. The test takes
    all mixtures as equally noisy, and gives false alarms where they are not: hence `own_noise_p`, see
    [`own_noise_p`].

    Returns:
        `dict` with `f`, `p`, `df_lack`, `df_pure`, `own_noise_p`, or `None` without replicates or degrees of freedom,
        and where the replicates are equal.
    """
    if not any(pair["sd"] for pair in replicate_spreads(y, mixtures)):
        return None
    found = f_test(x, mixtures[:, None] == np.unique(mixtures), y, weights)
    if found is None:
        return None
    return {
        **dict(zip(("f", "p", "df_lack", "df_pure"), found)),
        "own_noise_p": own_noise_p(x, y, weights, mixtures),
    }


def own_noise_p(x: np.ndarray, y: np.ndarray, weights: np.ndarray, mixtures: np.ndarray) -> float | None:
    """p-value that the repeated mixtures lie on the line through all others, each judged by its own noise.

    The mean of a repeated mixture is compared with what the regression of the other mixtures predicts, by Welch's t:
    the variance of the mean is from the mixture's own runs, that of the prediction from CR3. Fisher's sum of
    logarithms joins the mixtures' p-values. Nothing is assumed of the noise of one mixture and another.

    Returns:
        `float`, or `None` where no repeated mixture has runs that differ and enough others beside it.
    """
    from scipy.stats import chi2, t

    logs = []
    for pair in replicate_spreads(y, mixtures):
        rows, others = np.array(pair["runs"]), mixtures != mixtures[pair["runs"][0]]
        freedom = len(np.unique(mixtures[others])) - np.linalg.matrix_rank(x[others])
        if pair["sd"] == 0 or freedom < 1:
            continue
        beta = least_squares(x[others], y[others, None], weights[others])[:, 0]
        residuals = y[others] - x[others] @ beta
        covariance, _ = jackknife_covariance(x[others], residuals, weights[others], mixtures[others])
        at = x[rows].mean(axis=0)
        own, line = pair["sd"] ** 2 / len(rows), float(at @ covariance @ at)
        degrees = (own + line) ** 2 / (own**2 / (len(rows) - 1) + line**2 / freedom)
        distance = abs(y[rows].mean() - at @ beta) / np.sqrt(own + line)
        logs.append(np.log(max(2 * t.sf(distance, degrees), 1e-300)))
    return float(chi2.sf(-2 * sum(logs), 2 * len(logs))) if logs else None


def added_terms_p(x: np.ndarray, added: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float | None:
    """p-value of the F test that the columns `added` bring nothing to a regression of y on x."""
    found = f_test(x, added, y, weights)
    return None if found is None else found[1]


def f_test(
    x: np.ndarray, added: np.ndarray, y: np.ndarray, weights: np.ndarray
) -> tuple[float, float, int, int] | None:
    """F, its p-value and its degrees of freedom, for columns added to a regression.

    Returns:
        `tuple`, or `None` where no degrees of freedom are left, or no error to compare with.
    """
    from scipy.stats import f

    full = np.column_stack([x, added])
    ranks = [np.linalg.matrix_rank(matrix) for matrix in (x, full)]
    extra, freedom = int(ranks[1] - ranks[0]), int(len(y) - ranks[1])
    if extra < 1 or freedom < 1:
        return None
    rss = [weights @ (y - m @ least_squares(m, y[:, None], weights)[:, 0]) ** 2 for m in (x, full)]
    if rss[1] <= _EQUAL**2 * (weights @ y**2):
        return None
    ratio = ((rss[0] - rss[1]) / extra) / (rss[1] / freedom)
    return float(ratio), float(f.sf(ratio, extra, freedom)), extra, freedom
