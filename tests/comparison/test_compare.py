"""Strategies are compared on finetunes: recorded once, resumed after a kill, and told in tables and one verdict."""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_sweep
from datasets import Dataset
from tiny_sweep import LAST_LAYERS, RECIPE, comparable, evaluation_sets

from hf_instructmine import (
    InstructMineError,
    LossEstimator,
    Selection,
    Selector,
    compare_strategies,
    load_comparison,
)
from hf_instructmine.cli.main import main
from hf_instructmine.comparison.results import StrategyComparison


RULE = LossEstimator.from_coefficients({"reward": -0.1}, name="by reward", target="loss_single")


def scored() -> Dataset:
    """The tiny pool with a length for each row."""
    pool = tiny_sweep.pool()
    return pool.add_column("output_length", [len(text) for text in pool["completion"]])


def compare(model: str, folder: Path, **changed):
    request = {
        "scored": scored(),
        "strategies": {"rule": RULE, "longest": "highest:output_length"},
        "recipe": {**RECIPE, **LAST_LAYERS, "learning_rate": 3e-3, "num_train_epochs": 6, "model_name_or_path": model},
        "eval_sets": evaluation_sets(),
        "output_dir": folder,
        "tokens": [200],
        "sizes": [8],
        "seeds": 2,
        "random_draws": 3,
    }
    return compare_strategies(**{**request, **changed})


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    gc.freeze()
    return tiny_sweep.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "comparison"
    compare(model, folder)
    return folder


def test_every_strategy_trains_on_the_same_amount(finished):
    runs = load_comparison(finished).runs
    assert len(runs) == 2 * (2 + 2 + 3)
    for row in runs:
        kind, amount = row["amount"].split("=")
        assert row["status"] == "done" and row["steps"] > 0
        if kind == "size":
            assert row["subset_size"] == int(amount)
        else:
            assert 160 < row["subset_tokens"] <= int(amount)
    drawn = {tuple(i) for i, s in zip(runs["indices"], runs["strategy"]) if s == "random"}
    assert len(drawn) == 6


def test_the_table_holds_what_the_runs_say(finished):
    comparison = load_comparison(finished)
    for outcome in comparison.outcomes("size=8", "single"):
        losses = [
            row["loss_single"]
            for row in comparison.runs
            if (row["strategy"], row["amount"]) == (outcome.strategy, "size=8")
        ]
        # An example's NLL is kept to four digits.
        assert outcome.loss == pytest.approx(np.mean(losses), abs=1e-4)
        assert outcome.runs == len(losses)
        assert (outcome.difference is None) == (outcome.strategy == "random")
    text = str(comparison)
    assert text.count("| rule |") == 4
    assert text.splitlines()[-1].startswith("single (fitted to), size=8: rule is ")
    assert "multi (never seen), tokens=200: rule is " in text
    assert "single (fitted to), tokens=200: rule is " in text


def test_another_baseline_can_be_asked_for(finished):
    comparison = load_comparison(finished)
    mine = {o.strategy: o for o in comparison.outcomes("size=8", "single", baseline="longest")}
    assert mine["longest"].difference is None and mine["random"].difference is not None
    (line,) = comparison.verdict("rule", "longest", among=["rule"])[-1:]
    assert "from longest" in line or "than longest" in line
    assert "correction" not in line
    with pytest.raises(InstructMineError, match="'best' has no finished run at size=8"):
        comparison.outcomes("size=8", "single", baseline="best")


def test_run_again_it_trains_nothing_and_more_strategies_can_join(model, finished, tmp_path, trained):
    import shutil

    folder = shutil.copytree(finished, tmp_path / "comparison")
    again = compare(model, folder)
    assert trained == []
    assert comparable(again.runs) == comparable(load_comparison(finished).runs)
    more = compare(model, folder, strategies={"shortest": "lowest:output_length", "full": "full"}, sizes=[])
    assert sorted(trained) == ["full-seed0", "shortest-tokens200-seed0", "shortest-tokens200-seed1"]
    assert more.strategies == ["shortest", "full", "random", "rule", "longest"]
    assert {o.strategy for o in more.outcomes("size=8", "single")} == {"rule", "longest", "random", "full"}


def test_killed_at_random_instants_it_ends_with_the_same_records(model, finished, tmp_path):
    script, log, folder = Path(__file__).parents[1] / "killed_comparison.py", tmp_path / "log", tmp_path / "comparison"
    tests = script.parent
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "src")])
    }  # fmt: skip
    command = [sys.executable, str(script), model, str(folder), str(log)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        until = time.time() + 60
        before = len(log.read_text().splitlines()) if log.exists() else 0
        while time.time() < until and process.poll() is None:  # until it trains
            if log.exists() and len(log.read_text().splitlines()) > before:
                break
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.wait()
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    finished_runs, resumed = load_comparison(finished), load_comparison(folder)
    key = [(row["mixture_id"], row["seed"]) for row in resumed.runs]
    assert len(key) == len(set(key)) == len(finished_runs.runs)
    assert resumed.runs["indices"][:] == finished_runs.runs["indices"][:]
    np.testing.assert_allclose(resumed.runs["loss_single"][:], finished_runs.runs["loss_single"][:], atol=1e-4)
    trained = log.read_text().splitlines()
    # Only what was trained in the instant between its end and its record may stand twice, once for each kill.
    assert len(set(trained)) == len(key) and len(trained) <= len(key) + 4


def test_evidence_joins_the_card_of_a_selection(finished, tmp_path):
    selection = Selector(RULE).select(scored(), size=8)
    selection.attach_evidence(load_comparison(finished))
    selection.save_to_disk(tmp_path / "curated")
    card = (tmp_path / "curated/README.md").read_text()
    assert "## Does it beat a random choice?" in card
    assert "rule is " in card and "| longest |" in card
    assert (tmp_path / "curated/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in card


def simulated(effect: float, runs: int = 5) -> StrategyComparison:
    """A comparison whose finetunes are made up: `rule` is better than random by `effect`."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 50)
    rows = []
    for name, shift, count in (("rule", -effect, runs), ("random", 0.0, 2 * runs)):
        for seed in range(count):
            nll = (2.5 + shift + rng.normal(0, 0.002) + rng.normal(0, 0.02, 50)) * tokens
            rows.append(
                {
                    "mixture_id": f"{name}-{seed}", "seed": seed, "strategy": name, "amount": "tokens=100",
                    "status": "done", "reason": "", "indices_hash": name if name == "rule" else f"{name}-{seed}",
                    "subset_size": 3, "subset_tokens": 99, "steps": 4,
                    "example_nll_mine": nll.tolist(), "example_tokens_mine": tokens.tolist(),
                }
            )  # fmt: skip
    return StrategyComparison(Dataset.from_list(rows), ["rule", "random"], {"rule": ["other"]})


@pytest.mark.parametrize(
    "effect, said",
    [
        (0.05, "better than random by 0.0"),
        (-0.05, "worse than random by 0.0"),
        (0.0, "not shown to differ from random: "),
    ],
)
def test_the_verdict_is_what_the_data_say(effect, said):
    (line,) = simulated(effect).verdict()
    assert line.startswith("mine (never seen), tokens=100: rule is ") and said in line


def test_a_strategy_that_chose_once_is_told_as_one_set_too():
    (line,) = simulated(0.05).verdict()
    assert "over finetunes on the one set that it chose; as one set against 10 random ones p = " in line
    assert "shows nothing of other choices" not in line  # 0.05 nats are many times the spread of random sets
    comparison = simulated(0.05)
    several = comparison.runs.remove_columns("indices_hash")
    (line,) = StrategyComparison(several, comparison.strategies).verdict()
    assert "one set" not in line  # each finetune is of a set of its own, so finetunes are sets


def test_a_difference_that_was_not_seen_comes_with_what_could_have_been():
    (line,) = simulated(0.0).verdict()
    (outcome,) = (o for o in simulated(0.0).outcomes("tokens=100", "mine") if o.difference is not None)
    assert line.endswith(f"a difference below {outcome.difference.detectable:.4f} would not have been seen.")


def test_failed_finetunes_are_named_and_left_out():
    runs = simulated(0.05).runs
    rows = list(runs)
    rows[0] |= {"status": "failed", "reason": "out of memory", "example_nll_mine": None, "example_tokens_mine": None}
    comparison = StrategyComparison(Dataset.from_list(rows, features=runs.features), ["rule", "random"])
    assert {o.strategy: o.runs for o in comparison.outcomes("tokens=100", "mine")} == {"rule": 4, "random": 10}
    assert "Failed and left out:\n- rule-0 seed 0: out of memory" in str(comparison)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"tokens": [], "sizes": []}, "give at least one budget"),
        ({"sizes": [0]}, "size=0 must be a whole number"),
        ({"seeds": 1}, "seeds and random_draws must be at least 2"),
        ({"strategies": {"x": "highest:none"}}, "needs the column 'none'"),
        ({"strategies": {"random": "full"}}, "the name 'random' belongs"),
        ({"sizes": [25]}, "size=25 is above the"),
        ({"scored": tiny_sweep.pool()}, "needs the column 'output_length'"),
        ({"sizes": 8}, "are lists of budgets"),
        ({"strategies": "random"}, "strategies by name"),
        ({"seeds": 2.5}, "are whole numbers"),
        ({"scored": scored().select([])}, "the dataset is empty"),
        ({"recipe": {**RECIPE, "model_name_or_path": "/no/such/folder"}}, "cannot load the model '/no/such/folder'"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(tmp_path, changed, message):
    with pytest.raises(InstructMineError, match=message):
        compare("no/model", tmp_path / "out", **changed)
    assert not (tmp_path / "out").exists()


def test_the_command(model, tmp_path, capsys):
    import yaml

    scored().to_json(tmp_path / "scored.jsonl")
    evaluation_sets()["single"].to_json(tmp_path / "eval.jsonl")
    RULE.save_pretrained(tmp_path / "rule")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code = main(
        ["compare", str(tmp_path / "scored.jsonl"), "--rule", f"mine={tmp_path / 'rule'},drop=1", "--tokens", "200",
         "--recipe", str(tmp_path / "recipe.yaml"), "--eval-set", f"single={tmp_path / 'eval.jsonl'}",
         "--output-dir", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 1 and "unexpected keyword argument 'drop'" in capsys.readouterr().err
    code = main(
        ["compare", str(tmp_path / "scored.jsonl"), "--rule", f"mine={tmp_path / 'rule'}", "--tokens", "200",
         "--seeds", "2", "--random-draws", "2", "--recipe", str(tmp_path / "recipe.yaml"),
         "--eval-set", f"single={tmp_path / 'eval.jsonl'}", "--output-dir", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 0
    assert "single (fitted to), tokens=200: mine is " in capsys.readouterr().out
    assert "| longest |" in (tmp_path / "out/comparison.md").read_text()
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000


def test_the_command_puts_the_evidence_into_the_card_of_a_selection(model, tmp_path, capsys, trained):
    import yaml

    scored().to_parquet(tmp_path / "scored.parquet")
    evaluation_sets()["single"].to_json(tmp_path / "eval.jsonl")
    Selector(RULE).select(scored(), size=8).save_to_disk(tmp_path / "curated")
    LossEstimator.from_coefficients({"reward": 1.0}).save_pretrained(tmp_path / "other")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def command(rule: str, attach: str) -> int:
        given = ["compare", "scored.parquet", "--rule", f"mine={rule}", "--size", "8", "--no-usual", "--seeds", "2",
                 "--random-draws", "2", "--recipe", "recipe.yaml", "--eval-set", "single=eval.jsonl",
                 "--output-dir", "out", "--attach", attach]  # fmt: skip
        files = ("scored.parquet", "recipe.yaml", "curated", "other", "out")
        return main([str(tmp_path / text) if text in files else text.replace("=", f"={tmp_path}/", 1)
                     if text.startswith(("mine=", "single=")) else text for text in given])  # fmt: skip

    # What cannot be attached is said before anything is trained.
    assert command("other", "curated") == 1
    assert "no --rule is the rule of the selection in '" in capsys.readouterr().err.splitlines()[-1]
    assert command("curated", "other") == 1
    assert "holds no selection" in capsys.readouterr().err.splitlines()[-1]
    assert trained == []
    assert command("curated", "curated") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("mine. The rule by reward is hand-set: nothing is known of how well it predicts.")
    assert "README.md: the card of the selection, with this evidence" in out
    told = (tmp_path / "out/comparison.md").read_text("utf-8").splitlines()[0]
    assert told.startswith("mine. The rule by reward is hand-set: nothing is known")
    top = (tmp_path / "curated/README.md").read_text("utf-8").split("![Distributions")[0]
    assert "single (fitted to), size=8: mine is " in top and "checked" not in top
    assert Selection.load(tmp_path / "curated").sections[0].figures.keys() == {"comparison.png"}
