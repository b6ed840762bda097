"""One of each class that a user is handed, small, with a given name wherever data could have given one."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from simulated_runs import simulated_runs

import hf_instructmine as him
from hf_instructmine.evaluation.judgement import Judgement, Plan, Score
from hf_instructmine.evaluation.pairs import Judged, Preference, preference
from hf_instructmine.evaluation.table import Evaluation
from hf_instructmine.mining.plan import Plan as MiningPlan
from hf_instructmine.sweep.runs import SweepStatus


def by_hand(name: str = "mine") -> him.LossEstimator:
    return him.LossEstimator.from_coefficients({"intercept": 1.0, "mtld": -0.25}, name=name, target=name)


def fitted(name: str = "mine") -> him.LossEstimator:
    return him.LossEstimator.fit(simulated_runs(n=40, seed=1), indicators=["reward", "mtld"], select="none",
                                 name=name, permutations=10, bootstraps=10)  # fmt: skip


def chosen(name: str = "mine") -> him.LossEstimator:
    """Whose regressors were chosen, of which some were left out."""
    runs = simulated_runs(n=40, seed=1)
    return him.LossEstimator.fit(runs, name=name, select="bic", permutations=0, bootstraps=10)


def selection(name: str = "mine") -> him.Selection:
    pool = {"mtld": np.arange(5000.0), "source": [name] * 5000, "output_length": [7] * 5000}
    return him.Selector(by_hand(name)).select(Dataset.from_dict(pool), size=9)


def comparison(name: str = "mine") -> him.StrategyComparison:
    rows = [
        {"strategy": strategy, "amount": "tokens=9", "mixture_id": f"{strategy}-{seed}", "seed": seed,
         "status": "done", "reason": None, "base_model": name, "seconds": 1.0, "subset_size": 2, "subset_tokens": 9,
         "steps": 5, "example_nll_tests": np.linspace(1, 2 + seed, 500).tolist(), "example_tokens_tests": [9] * 500}
        for strategy in (name, "random") for seed in range(3)
    ]  # fmt: skip
    return him.StrategyComparison(Dataset.from_list(rows), [name, "random"])


def eval_set(name: str = "mine"):
    rows = {"prompt": [f"{name} {i}" for i in range(900)], "completion": [f"a{name}"] * 900}
    return him.load_eval_sets({"mine": Dataset.from_dict(rows)})["mine"]


def design(name: str = "mine"):
    rng = np.random.default_rng(0)
    scored = Dataset.from_dict({name: rng.normal(60, 9, 200), "reward": rng.normal(size=200)})
    mixtures = him.design_mixtures(scored, 12, subset_size=20, source_column=None, indicators=[name, "reward"])
    return him.design_report(mixtures, scored, source_column=None)


def trials() -> Dataset:
    path = Path(__file__).parents[1] / "benchmarks" / "size_search_simulations.py"
    spec = importlib.util.spec_from_file_location("size_search_simulations", path)
    simulations = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = simulations
    spec.loader.exec_module(simulations)
    return simulations.simulated_trials(simulations.CURVES["two basins"], 0.005, 0)


def size_report(name: str = "mine"):
    return him.size_report(trials().rename_column("loss_simulated", f"loss_{name}"), rule=by_hand(name))


def rules(name: str = "mine"):
    return him.compare([by_hand(name)], simulated_runs(n=40, seed=1))


def contaminated(name: str = "mine"):
    prompt = "what is the one word that nobody here has ever said aloud"
    asked = {"mine": Dataset.from_dict({"prompt": [prompt], "completion": ["x"]})}
    return him.find_contaminated(Dataset.from_dict({"prompt": [prompt], "completion": [name]}), asked)


def evaluation(name: str = "mine") -> Evaluation:
    def record(shift: float) -> dict[str, Any]:
        return {"nll": (100 + shift + np.arange(60.0)).tolist(), "tokens": [50] * 60, "bytes": [200] * 60,
                "skipped": 0, "truncated": 0, "categories": [name] * 60}  # fmt: skip

    return Evaluation(["base", name], "base", losses={name: {"base": record(0), name: record(-5)}})


def pairs(name: str = "mine") -> Preference:
    lengths = np.linspace(80, 120, 7)
    orders = [1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 1.0], [1.0, 0.0, 0.5, 0.0, 0.5, 1.0, float("nan")]
    return preference(Judged(range(7), *orders, lengths, lengths[::-1], categories=[name] * 7))


def judgement(name: str = "mine") -> Judgement:
    return Judgement(name, "pair", f"base {name}", preferences={name: pairs(name)})


def ratings(name: str = "mine") -> Judgement:
    return Judgement(name, "single", "base", scores={name: Score.of(range(9), [0] * 9, range(1, 10))})


def dry_run(name: str = "mine") -> Judgement:
    return Judgement(name, "pair", "base", plan=Plan(1, 2, 3000, 400, 0.5))


def plan(name: str = "mine") -> MiningPlan:
    return MiningPlan(900, 880, {name: 3}, 100, 60.0, 6000, 750, 24, 8, {name: 48}, 60.0, 300.0, 200.0, 900.0, 2**28)


def status(name: str = "mine") -> SweepStatus:
    done = [f"  done     {name}-{k}: loss 1.2345 (9.9 s)" for k in range(100)]
    return SweepStatus("\n".join(["100 of 129 runs done, 0 failed, 1 running, 28 to do", *done]))


# By what is to be shown: how one is made that has a name from data.
RESULTS: dict[str, Callable[[str], Any]] = {
    "rule by hand": by_hand, "fitted rule": fitted, "chosen rule": chosen,
    "published rule": lambda name="": him.LossEstimator.from_published("instructmining-v2"),
    "diagnostics": lambda name="mine": fitted(name).diagnostics,
    "prediction of a set": lambda name="mine": fitted(name).predict_subset(simulated_runs(n=40, seed=1)),
    "selection": selection, "decisions": lambda name="mine": selection(name).decisions,
    "comparison": comparison, "outcome": lambda name="mine": comparison(name).outcomes("tokens=9", "tests")[0],
    "comparison of rules": rules, "power": lambda name="": him.power(), "evaluation set": eval_set,
    "design report": design, "size report": size_report, "size curve": lambda name="mine": size_report(name).curve,
    "overlaps": contaminated, "evaluation": evaluation, "preference": pairs, "judgement": judgement,
    "ratings": ratings, "dry run": dry_run, "plan": plan, "sweep status": status,
}  # fmt: skip
