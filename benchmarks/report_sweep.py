"""What a recorded sweep says: a table of its runs, its noise, and the rule fitted to each evaluation set.

python benchmarks/report_sweep.py docs/results/sweep.jsonl > report.md
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np

import hf_instructmine as him
from hf_instructmine.sweep.runs import pure_error


INDICATORS = ["input_length", "output_length", "mtld", "pool_knn_6", "nll", "ifd", "end_of_turn"]
LOGGED = ["input_length", "output_length", "mtld", "ifd"]
SETS = ("self_instruct", "mt_bench")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument(
        "--rank-with", type=Path, help="other records of the same mixtures, to compare the ranking with"
    )
    args = parser.parse_args()
    runs = read(args.runs)
    print(runs_table(runs))
    print(noise_table(runs))
    if args.rank_with is not None:
        print(rank_table(runs, read(args.rank_with)))
    for name in SETS:
        print(f"## Rule for `{name}`\n\n```\n{fit(runs, name).summary()}\n```\n")


def read(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted((row for row in rows if row["status"] == "done"), key=lambda row: (row["mixture_id"], row["seed"]))


def runs_table(runs: list[dict]) -> str:
    sources = list(runs[0]["proportions"])
    head = ["mixture", "seed", *sources, "tokens", "nll", "ifd", "mtld", "knn_6", *(f"loss {n}" for n in SETS), "s"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in runs:
        shares = [f"{row['proportions'][source] or 0:.0%}" for source in sources]
        means = [f"{row['nll']:.2f}", f"{row['ifd']:.2f}", f"{row['mtld']:.0f}", f"{row['knn_6']:.2f}"]
        losses = [f"{row[f'loss_{name}']:.4f}" for name in SETS]
        cells = [row["mixture_id"], str(row["seed"]), *shares, str(row["subset_tokens"]), *means, *losses]
        lines.append(f"| {' | '.join([*cells, format(row['seconds'], '.0f')])} |")
    base = ", ".join(f"{name} {runs[0][f'base_loss_{name}']:.4f}" for name in SETS)
    share = sum(r["seconds_training"] + r["seconds_evaluating"] for r in runs) / sum(r["seconds"] for r in runs)
    return "\n".join(
        [*lines, "", f"Untrained: {base}. {share:.1%} of the runs' time was training and evaluation.", ""]
    )


def noise_table(runs: list[dict]) -> str:
    """Pure error (sd between seeds of one mixture) beside the spread between mixtures, in log loss."""
    lines = ["| set | sd between mixtures | sd between seeds of one mixture | ratio |", "|---|---|---|---|"]
    for name in SETS:
        target = f"loss_{name}"
        spread, noise = pure_error({key: [row[key] for row in runs] for key in ("mixture_id", target)}, target)
        lines.append(f"| {name} | {spread:.5f} | {noise:.5f} | {spread / noise:.1f} |")
    return "\n".join([*lines, ""])


def rank_table(runs: list[dict], others: list[dict]) -> str:
    """Spearman's rank correlation of the two sweeps' losses over the mixtures that both have, with a bootstrap over
    them."""
    from scipy.stats import spearmanr

    mine = {(row["mixture_id"], row["seed"]): row for row in runs}
    pairs = [(mine[key], row) for row in others if (key := (row["mixture_id"], row["seed"])) in mine]
    lines = [f"Rank correlation over {len(pairs)} mixtures:"]
    for name in SETS:
        losses = np.array([[row[f"loss_{name}"] for row in pair] for pair in pairs])
        rho, p = spearmanr(losses)
        draws = np.random.default_rng(0).integers(len(losses), size=(2000, len(losses)))
        low, high = np.percentile([spearmanr(losses[draw])[0] for draw in draws], [2.5, 97.5])
        lines.append(f"- {name}: {rho:.2f} (95 % {low:.2f} … {high:.2f}, p = {p:.3f})")
    return "\n".join([*lines, ""])


def fit(runs: list[dict], name: str, given_tokens: bool = False) -> him.LossEstimator:
    """The rule for an evaluation set.

    With equal rows in every subset, mean response length is the amount of training. `given_tokens` adjusts for that
    instead of offering it as an indicator: such a rule says what is good at equal tokens.
    """
    table = {key: [row.get(key) for row in runs] for key in runs[0]}
    options = {"indicators": INDICATORS, "logged": LOGGED, "name": f"seven-sources-{name}"}
    if given_tokens:
        options = {
            "indicators": [column for column in INDICATORS if column != "output_length"],
            "logged": ["subset_tokens", *(column for column in LOGGED if column != "output_length")],
            "covariates": ["subset_tokens"],
            "name": f"seven-sources-{name}-given-tokens",
        }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a table of numbers carries no provenance; the summary says so
        return him.LossEstimator.fit(table, target=f"loss_{name}", seed=0, **options)


if __name__ == "__main__":
    main()
