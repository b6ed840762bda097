"""Which subsets of a scored pool to finetune on, so that the losses tell the indicators apart.

Every subset is a draw without replacement under one vector of row weights. Sources weighted by Dirichlet proportions
give the paper's random mixtures; weights exp(λ · z·u) along a direction u of indicator space move the mean indicators
*within* sources as well; `"d-optimal"` draws many of both and keeps those that pin the coefficients down.
"""

import json
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from datasets import Dataset, Features, List, Value
from datasets.utils import tqdm

from ..data.containers import as_dataset
from ..errors import InstructMineError, nearest
from ..regression.regressors import leverage
from .scored_pool import ScoredPool, SubsetSize


METHODS = ("dirichlet", "tilted", "d-optimal")
TILT_STRENGTHS = (0.5, 6.0)  # λ, in standard deviations of the pool; drawn log-uniformly
RIDGE = 1e-3  # prior precision of each slope, candidates standardised: keeps collinear columns from stopping a design


def design_mixtures(
    scored: Any,
    num_runs: int,
    *,
    subset_size: int | None = None,
    subset_tokens: int | None = None,
    method: Literal["dirichlet", "tilted", "d-optimal"] = "d-optimal",
    source_column: str | None = "source",
    sources: Sequence[str] | None = None,
    indicators: Sequence[str] | None = None,
    embeddings: np.ndarray | None = None,
    replicates: int | None = None,
    num_candidates: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Designs the subsets of a sweep: one row per finetune.

    Args:
        scored (`Dataset`, or what else [`as_dataset`] takes):
            The scored pool. Rows with a NaN in any of the indicators are never drawn; a warning counts them. Of more
            than a million rows a million are taken at random, and stand in for all; a warning counts them too.
        num_runs (`int`):
            Number of distinct subsets. Replicates come on top.
        subset_size (`int`, *optional*):
            Rows per subset. Give this or `subset_tokens`, not both.
        subset_tokens (`int`, *optional*):
            Response tokens per subset, counted by the column `output_length`, so that the amount of training does not
            pose as an effect of length. A subset never exceeds the budget, and falls short of it only by less than
            the shortest row it left out.
        method (`str`, *optional*, defaults to `"d-optimal"`):
            `"dirichlet"`: proportions over the sources from a flat Dirichlet, then random rows, as the paper merged
            its sources. A source with fewer rows than its share gives all of them and the others fill up.
            `"tilted"`: rows weighted by exp(λ · z·u) for a random direction u of standardised indicator space, across
            the pool or within random source proportions.
            `"d-optimal"`: the `num_runs` of `num_candidates` draws of both kinds that maximise the log determinant of
            intercept and mean indicators.
        source_column (`str`, *optional*, defaults to `"source"`):
            Column that names each row's source; `None` takes the pool as one source.
        sources (`list[str]`, *optional*):
            Draw from these sources only. Defaults to all.
        indicators (`list[str]`, *optional*):
            Indicator columns to design for. Defaults to [`~data.columns.indicator_names`] of the pool.
        embeddings (`np.ndarray`, *optional*):
            Shape (len(scored), dimensions), aligned with the pool's rows, as `NeighborDistance.embed(scored)` returns
            them. With it `knn_<i>` is measured inside each subset.
        replicates (`int`, *optional*):
            Number of subsets that are trained a second time with another seed (pure error), at most `num_runs`.
            Defaults to 4, or to `num_runs` where that is fewer. They are spread over the whole range, from the
            innermost runs to the outermost: what is noisy out there may not be in the middle.
        num_candidates (`int`, *optional*):
            Draws that `"d-optimal"` chooses from. Defaults to 500 or 20 per run, whichever is more.
        seed (`int`, *optional*, defaults to 0):
            Decides every draw. The training seed of a row is `seed` plus its position.

    Returns:
        `Dataset`: `mixture_id` (a replicate shares its original's), `seed` (for training), `indices` (sorted rows of
        `scored`), `proportions` (share of the subset's rows, by source), `subset_size` (rows), `subset_tokens`
        (response tokens; null without an `output_length` column), `method` (its provenance says from how many rows of
        how many, and by which seed, where those were a part of the pool), and the subset's mean indicators under
        their own names and with the pool's provenance. With `embeddings`, `knn_<i>` is the mean distance to the i-th
        neighbour *inside the subset* and the mean of the pool's column is `pool_knn_<i>`; without, only the latter is
        present and a warning says so.

    Raises:
        [`InstructMineError`]: On a request that the pool cannot meet; the message names the column, source or size.

    Example:

    ```python
    >>> scored = him.score(him.load_sample_pool(), him.MTLD())
    >>> mixtures = him.design_mixtures(scored, num_runs=6, subset_size=40, replicates=2)
    >>> len(mixtures)
    8
    ```
    """
    scored = as_dataset(scored, "scored")
    if method not in METHODS:
        raise InstructMineError(f"method={method!r} is unknown: {nearest(method, METHODS)}")
    if num_runs < 1:
        raise InstructMineError(f"num_runs={num_runs}: a design needs at least one run")
    if replicates is None:
        replicates = min(4, num_runs)
    if not 0 <= replicates <= num_runs:
        raise InstructMineError(f"replicates={replicates} must lie between 0 and num_runs={num_runs}")
    num_drawn = num_runs if method != "d-optimal" else num_candidates or max(500, 20 * num_runs)
    if num_drawn < num_runs:
        raise InstructMineError(f"num_candidates={num_candidates} is fewer than num_runs={num_runs}: raise it")
    size = SubsetSize(subset_size, subset_tokens)
    pool = ScoredPool.load(scored, source_column, sources, indicators, embeddings, size, seed)
    if part := pool.drawn_from:
        warnings.warn(
            f"subsets are drawn from {part['rows']:,} of {part['of']:,} rows, taken at random (seed {seed})",
            stacklevel=2,
        )
    if pool.excluded:
        warnings.warn(f"{pool.excluded} of {len(scored)} rows with a NaN indicator are never drawn", stacklevel=2)
    if embeddings is None and pool.neighbor_columns:
        pooled = ", ".join(f"pool_{name}" for name in pool.neighbor_columns)
        warnings.warn(
            f"{', '.join(pool.neighbor_columns)} of a subset is measured from embeddings, and none were given: only "
            f"the pool's own is kept, as {pooled}; pass embeddings=NeighborDistance(...).embed(scored)",
            stacklevel=2,
        )

    rng = np.random.default_rng(seed)
    subsets, estimated = [], []
    for number in tqdm(range(num_drawn), desc="Drawing subsets", unit="subset", delay=3):
        weights = _dirichlet(pool, rng, 1.0) if method == "dirichlet" else _tilt(pool, rng)
        if method == "d-optimal" and number % 4 == 0:  # near-pure sources too: they are the corners of source space
            weights = _dirichlet(pool, rng, (1.0, 0.2)[number // 4 % 2])
        subsets.append(size.draw(pool, weights, rng))
        estimated.append(pool.mean_indicators(subsets[-1], rng=rng))
    means = np.array(estimated)
    chosen = d_optimal(means, num_runs, seed=seed)[0] if method == "d-optimal" else np.arange(num_runs)
    rows = np.concatenate([np.arange(num_runs), spread_replicates(means[chosen], replicates)])
    subsets = [subsets[number] for number in chosen]
    means = np.array([pool.mean_indicators(subset) for subset in subsets])
    return _as_dataset(pool, scored, [subsets[row] for row in rows], means[rows], rows, method, seed)


def d_optimal(
    candidates: np.ndarray, num_runs: int, *, seed: int = 0, restarts: int = 10
) -> tuple[np.ndarray, list[float]]:
    """Chooses the runs that maximise log det(X'X + R), X = intercept and standardised columns (Fedorov's exchange).

    From a random start the best of all swaps of a chosen row for one left out is made until none gains. The ridge R
    of 1e-3 per slope decides nothing unless columns are collinear, where it lets the remaining directions be designed.

    Args:
        candidates (`np.ndarray`):
            Mean indicators, shape (candidates, indicators).
        num_runs (`int`):
            Distinct candidates to choose.
        seed (`int`, *optional*, defaults to 0):
            Decides the random starts.
        restarts (`int`, *optional*, defaults to 10):
            Random starts; the best end is kept.

    Returns:
        `tuple[np.ndarray, list[float]]`: The chosen candidates, ascending, and the log determinant at the start and
        after every swap of the best restart.
    """
    x = _model_matrix(candidates)
    prior = np.diag([0.0, *np.full(x.shape[1] - 1, RIDGE)])
    rng = np.random.default_rng(seed)
    best: np.ndarray | None = None
    best_trace = [-np.inf]
    for _ in range(restarts):
        chosen = rng.choice(len(x), num_runs, replace=False)
        trace = [np.linalg.slogdet(x[chosen].T @ x[chosen] + prior)[1]]
        while True:
            covariance = np.linalg.inv(x[chosen].T @ x[chosen] + prior)
            out = leverage(x, covariance)
            # The determinant's ratio for swapping row i out and row j in: a matrix of two rank-1 updates.
            gain = (1 - out[chosen])[:, None] * (1 + out) + (x[chosen] @ covariance @ x.T) ** 2
            gain[:, chosen] = 0
            out, into = np.unravel_index(gain.argmax(), gain.shape)
            if gain[out, into] <= 1 + 1e-9:
                break
            chosen[out] = into
            trace.append(trace[-1] + np.log(gain[out, into]))
        if trace[-1] > best_trace[-1] + 1e-9:
            best, best_trace = np.sort(chosen), trace
    assert best is not None  # a start has a finite determinant, by the ridge
    return best, best_trace


def spread_replicates(means: np.ndarray, replicates: int) -> np.ndarray:
    """The runs to repeat, from the innermost to the outermost.

    The runs are cut by leverage into as many parts as there are replicates, and the middle one of each part is
    repeated. The outermost alone would sharpen the coefficients more, and tell the noise out there: the noise ceiling
    and the lack of fit need that of all runs.
    """
    x = _model_matrix(means)
    information = x.T @ x + np.diag([0.0, *np.full(x.shape[1] - 1, RIDGE)])
    by_leverage = np.argsort(leverage(x, np.linalg.inv(information)), kind="stable")
    middles = (np.arange(replicates) + 0.5) * len(x) / max(replicates, 1)
    return np.sort(by_leverage[middles.astype(int)])


def _model_matrix(means: np.ndarray) -> np.ndarray:
    spread = means.std(axis=0)
    z = (means - means.mean(axis=0)) / np.where(spread > 0, spread, 1)
    return np.column_stack([np.ones(len(z)), z])


def _dirichlet(pool: ScoredPool, rng: np.random.Generator, concentration: float) -> np.ndarray:
    """Log weights under which each source's share is a draw from a Dirichlet and its rows are alike."""
    shares = rng.dirichlet(np.full(len(pool.sources), concentration)).clip(1e-12)
    return np.log(shares / np.bincount(pool.source)).astype(np.float32)[pool.source]


def _tilt(pool: ScoredPool, rng: np.random.Generator) -> np.ndarray:
    """Log weights along a random direction; half the time within random shares of the sources, else across them."""
    space = pool.whitening if rng.random() < 0.5 else np.eye(pool.z.shape[1])
    score = pool.z @ (space @ rng.normal(size=space.shape[1])).astype(np.float32)
    if pool.embeddings is not None and rng.random() < 0.5:  # around one row: how tight a set is, is a direction too
        score = score / score.std()
        near = pool.embeddings @ pool.embeddings[rng.integers(len(pool.rows))]
        score += rng.normal() * near / (near.std() or 1)
    low, high = np.log(TILT_STRENGTHS)
    tilt = float(np.exp(rng.uniform(low, high))) * score / score.std()
    if len(pool.sources) == 1 or rng.random() < 0.5:
        return tilt
    peaks = np.full(len(pool.sources), -np.inf, np.float32)
    np.maximum.at(peaks, pool.source, tilt)
    tilt = tilt - peaks[pool.source]
    totals = np.bincount(pool.source, weights=np.exp(tilt))
    shares = rng.dirichlet(np.ones(len(pool.sources))).clip(1e-12)
    return tilt + np.log(shares / totals).astype(np.float32)[pool.source]


def _as_dataset(
    pool: ScoredPool,
    scored: Dataset,
    subsets: list[np.ndarray],
    means: np.ndarray,
    mixtures: np.ndarray,
    method: str,
    seed: int,
) -> Dataset:
    rows = {
        "mixture_id": [f"mixture-{number:03d}" for number in mixtures],
        "seed": [seed + position for position in range(len(subsets))],
        "indices": [pool.rows[subset] for subset in subsets],
        "proportions": [
            dict(zip(pool.sources, np.bincount(pool.source[subset], minlength=len(pool.sources)) / len(subset)))
            for subset in subsets
        ],
        "subset_size": [len(subset) for subset in subsets],
        "subset_tokens": [None if pool.tokens is None else int(pool.tokens[subset].sum()) for subset in subsets],
        "method": [method] * len(subsets),
    }
    features = {
        "mixture_id": Value("string"),
        "seed": Value("int64"),
        "indices": List(Value("int64")),
        "proportions": {name: Value("float64") for name in pool.sources},
        "subset_size": Value("int64"),
        "subset_tokens": Value("int64"),
        "method": Value("string", id=json.dumps(pool.drawn_from, sort_keys=True) if pool.drawn_from else None),
    }
    rows |= dict(zip(pool.design_columns, means.T))
    for name in pool.neighbor_columns:
        column = pool.values[:, pool.columns.index(name)]
        rows[f"pool_{name}"] = [column[subset].mean() for subset in subsets]
    for name in rows.keys() - features.keys():  # provenance travels in the feature's id
        features[name] = Value("float64", id=scored.features[name].id if name in scored.features else None)
    return Dataset.from_dict(rows, features=Features({name: features[name] for name in rows}))
