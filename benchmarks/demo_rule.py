"""Which terms may the demo's rule have? Held-out R² of sets of candidates on the recorded sweep.

    python benchmarks/demo_rule.py

It prints the table of docs/demo.md.
"""

import numpy as np
from datasets import Dataset

import hf_instructmine as him
from hf_instructmine.cli import demo


LOGS = ("ifd", "end_of_turn", "mtld")
CANDIDATES: dict[str, dict[str, tuple[str, ...]]] = {
    "all plain, log of MTLD": {"indicators": demo.DESIGNED, "logged": ("mtld",)},
    "all but MTLD, plain": {"indicators": ("nll", "ifd", "end_of_turn")},
    "all plain, logs of MTLD and response length": {
        "indicators": (*demo.DESIGNED, "output_length"), "logged": ("mtld", "output_length"),
    },
    "all, logs": {"indicators": demo.DESIGNED, "logged": LOGS},
    "all, logs, square of nll": {"indicators": demo.DESIGNED, "logged": LOGS, "squared": ("nll",)},
    "all, logs, squares of nll and MTLD": {
        "indicators": demo.DESIGNED, "logged": LOGS, "squared": ("nll", "mtld"),
    },
    "these and response length": {
        "indicators": (*demo.DESIGNED, "output_length"), "logged": (*LOGS, "output_length"),
        "squared": ("nll", "mtld"),
    },
    "end_of_turn and MTLD, logs": {"indicators": demo.CANDIDATES, "logged": demo.LOGGED},
    "end_of_turn and MTLD, logs, square of MTLD": {
        "indicators": demo.CANDIDATES, "logged": demo.LOGGED, "squared": demo.SQUARED,
    },
}  # fmt: skip


def main() -> None:
    runs = demo.recorded_runs()
    lengths = np.array(runs["subset_tokens"][:]) / np.array(runs["subset_size"][:])
    runs = runs.add_column("output_length", lengths.tolist())
    print("| candidates | kept | held-out R² | 95 % |\n|---|---|---:|---|")
    for name, options in CANDIDATES.items():
        print(line(name, runs, options))


def line(name: str, runs: Dataset, options: dict[str, tuple[str, ...]]) -> str:
    rule = him.LossEstimator.fit(runs, target=demo.TARGET, bootstraps=100, **options)
    assert rule.diagnostics is not None and rule.diagnostics.worth is not None
    r2, (low, high) = rule.diagnostics.worth
    kept = ", ".join(term.name for term in rule.terms)
    return f"| {name} | {kept} | {r2:.2f} | {low:.2f} to {high:.2f} |"


if __name__ == "__main__":
    main()
