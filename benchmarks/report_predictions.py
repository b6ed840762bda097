"""Does the rule rank sets that it was not fitted to, and does it hold where all layers are trained?

    python benchmarks/report_predictions.py

First, Spearman's rank correlation of the rule's predictions, from each set's mean indicators, with the losses that
`docs/results/comparison.jsonl` records on the sets of an amount: those that strategies chose (the mean over their
finetunes) and random ones. Then the rule's regression again, on the mixtures that were trained with all layers too.
"""

import json
from pathlib import Path

import numpy as np
import report_sweep
import statsmodels.api as sm
from scipy.stats import spearmanr


RESULTS = Path("docs/results")
FITTED_TO = "self_instruct"


def main() -> None:
    runs = report_sweep.read(RESULTS / "sweep.jsonl")
    _, *compared = [json.loads(line) for line in (RESULTS / "comparison.jsonl").read_text("utf-8").splitlines()]
    rules = {
        name: report_sweep.fit(runs, FITTED_TO, given) for name, given in (("rule", False), ("given tokens", True))
    }
    print(
        f"| rule | amount | sets | {' | '.join(report_sweep.SETS)} |\n|---|---|---:|{'---|' * len(report_sweep.SETS)}"
    )
    for name, rule in rules.items():
        for amount in sorted({row["amount"] for row in compared} - {"full"}):
            sets: dict[str, list[dict]] = {}
            for row in compared:
                if row["amount"] == amount:
                    sets.setdefault(row["indices_hash"], []).append(row)
            predicted = [predict(rule.coefficients, rows[0]) for rows in sets.values()]
            cells = []
            for eval_set in report_sweep.SETS:
                losses = [np.mean([row[f"loss_{eval_set}"] for row in rows]) for rows in sets.values()]
                rho, p = spearmanr(predicted, losses)
                cells.append(f"{rho:.2f} (p = {p:.2g})")
            print(f"| {name} | {amount} | {len(sets)} | {' | '.join(cells)} |")
    print(f"\n{terms(runs, report_sweep.read(RESULTS / 'sweep-all-layers.jsonl'))}")


def predict(coefficients: dict[str, float], means: dict[str, float]) -> float:
    """Log loss of a set, but for what is the same for all."""
    total = 0.0
    for name, weight in coefficients.items():
        if name != "intercept":
            total += weight * (np.log(means[name[4:-1]]) if name.startswith("log(") else means[name])
    return total


def terms(runs: list[dict], all_layers: list[dict]) -> str:
    """The end-of-turn coefficient, beside both log lengths, by which layers were trained."""
    both = {(row["mixture_id"], row["seed"]) for row in all_layers}
    tables = {
        "last 6 layers, all": runs,
        "last 6 layers": [row for row in runs if (row["mixture_id"], row["seed"]) in both],
        "all layers": all_layers,
    }
    lines = [
        "| trained | runs | set | end of turn (95 %) | p | log output length | p |",
        "|---|---:|---|---:|---:|---:|---:|",
    ]
    for name, rows in tables.items():
        for eval_set in report_sweep.SETS:
            lengths = [np.log([row[column] for row in rows]) for column in ("output_length", "input_length")]
            x = sm.add_constant(np.column_stack([[row["end_of_turn"] for row in rows], *lengths]))
            fit = sm.OLS(np.log([row[f"loss_{eval_set}"] for row in rows]), x).fit()
            low, high = fit.conf_int()[1]
            lines.append(
                f"| {name} | {len(rows)} | {eval_set} | {fit.params[1]:+.4f} ({low:+.4f} … {high:+.4f}) | "
                f"{fit.pvalues[1]:.2g} | {fit.params[2]:+.4f} | {fit.pvalues[2]:.2g} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
