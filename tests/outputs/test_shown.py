"""Results are a short line in a console, their summary when printed, and text that is no markup in a notebook."""

import numpy as np
import pytest
from datasets import Dataset
from hostile import NAMES
from simulated_runs import simulated_runs

from hf_instructmine import (
    LossEstimator,
    Selector,
    StrategyComparison,
    design_mixtures,
    design_report,
    load_eval_sets,
)
from hf_instructmine.outputs.shown import Shown
from hf_instructmine.search.report import SizeReport
from hf_instructmine.sweep.design_report import DesignReport


def by_hand(name: str = "mine") -> LossEstimator:
    return LossEstimator.from_coefficients({"intercept": 1.0, "mtld": -0.25}, name=name, target=name)


def fitted(name: str = "mine") -> LossEstimator:
    return LossEstimator.fit(simulated_runs(n=40, seed=1), indicators=["reward", "mtld"], select="none", name=name,
                             permutations=10, bootstraps=10)  # fmt: skip


def selection(name: str = "mine"):
    return Selector(by_hand(name)).select(
        Dataset.from_dict({"mtld": np.arange(5000.0), "source": [name] * 5000}), size=9
    )


def comparison(name: str = "mine") -> StrategyComparison:
    rows = [
        {"strategy": strategy, "amount": "tokens=9", "mixture_id": f"{strategy}-{seed}", "seed": seed,
         "status": "done",
         "reason": None, "base_model": name, "seconds": 1.0, "subset_size": 2, "subset_tokens": 9, "steps": 5,
         "example_nll_tests": np.linspace(1, 2 + seed, 500).tolist(), "example_tokens_tests": [9] * 500}
        for strategy in (name, "random") for seed in range(3)
    ]  # fmt: skip
    return StrategyComparison(Dataset.from_list(rows), [name, "random"])


def eval_set():
    rows = {"prompt": [f"q {i}" for i in range(900)], "completion": ["a" * 90] * 900}
    return load_eval_sets({"mine": Dataset.from_dict(rows)})["mine"]


@pytest.mark.parametrize("make", [by_hand, fitted, selection, comparison, eval_set])
def test_a_line_in_a_console_and_the_summary_when_printed(make):
    made = make()
    assert isinstance(made, Shown) and repr(made).startswith(f"<{type(made).__name__}: ") and "mine" in repr(made)
    assert len(repr(made)) < 400 and "\n" not in repr(made) and repr([made]) == f"[{made!r}]"
    assert str(made) == (made.summary() if hasattr(made, "summary") else made._line())
    assert made._repr_html_().startswith("<pre>") and len(made._repr_html_()) < 20_000


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_markup_in_a_notebook_or_a_command_in_a_console(name):
    assert not {"\x1b", "\x9b", "\u202e", "\n", "\r"} & set(repr(comparison(name)))
    for made in (by_hand(name), selection(name)):
        inner = made._repr_html_().removeprefix("<pre>").removesuffix("</pre>")
        assert not {"<", ">", '"', "'", "\x1b", "\x9b", "\u202e"} & set(inner)
        assert not {"\x1b", "\x9b", "\u202e", "\n", "\r"} & set(repr(made))


@pytest.mark.parametrize("kind", [SizeReport, DesignReport])
def test_reports_show_themselves_in_the_same_way(kind):
    assert kind.__repr__ is Shown.__repr__ and kind._repr_html_ is Shown._repr_html_


def test_a_design_in_a_line():
    scored = Dataset.from_dict({"mtld": np.linspace(40, 80, 200), "reward": np.random.default_rng(0).normal(size=200)})
    mixtures = design_mixtures(scored, 12, subset_size=20, source_column=None, indicators=["mtld", "reward"])
    report = design_report(mixtures, scored, source_column=None)
    assert repr(report) == "<DesignReport: 12 mixtures and 4 replicates over mtld, reward>"
    assert len(str(report)) > len(repr(report))
