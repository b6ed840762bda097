"""Tables of runs whose law is known: mean indicators of mixtures of sources, and a loss that hangs on two of them."""

import numpy as np
import pandas as pd


INDICATORS = ("reward", "mtld", "output_length", "naturalness", "coherence")


def simulated_runs(
    n: int = 40, replicates: int = 4, noise: float = 0.02, effect: float = 1.0, seed: int = 0
) -> pd.DataFrame:
    """n runs, of which the last `replicates` repeat a mixture. log loss = 0.1 + effect·(0.002·mtld − 0.08·reward)."""
    rng = np.random.default_rng(seed)
    mixtures = n - replicates
    shares = rng.dirichlet(np.ones(4), mixtures)
    z = shares @ rng.normal(size=(4, 5)) + 0.6 * rng.normal(size=(mixtures, 5))
    z[:, 4] = 0.95 * z[:, 3] + 0.15 * z[:, 4]  # coherence follows naturalness
    means = np.array([1.0, 60.0, 150.0, 0.8, 0.8]) + np.array([0.4, 8.0, 30.0, 0.04, 0.04]) * z
    of = np.concatenate([np.arange(mixtures), np.arange(replicates)])
    log_loss = 0.1 + effect * (0.002 * means[of, 1] - 0.08 * means[of, 0])
    runs = pd.DataFrame(means[of], columns=list(INDICATORS))
    runs["loss_self_instruct"] = np.exp(log_loss + noise * rng.normal(size=n))
    runs["loss_mt_bench"] = np.exp(0.3 + 0.8 * log_loss + noise * rng.normal(size=n))
    runs["mixture_id"] = [f"mixture-{m:03d}" for m in of]
    runs["seed"] = np.arange(n)
    runs["proportions"] = [dict(zip("abcd", row)) for row in shares[of]]
    runs["subset_size"] = rng.integers(500, 1500, n)
    runs["status"] = "done"
    runs["base_model"] = "tiny"
    runs["recipe_hash"] = "0a1b"
    return runs
