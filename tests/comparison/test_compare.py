"""Strategies are compared on finetunes: recorded once, resumed after a kill, and told in tables and one verdict."""

import gc
import os
import shutil
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
    power,
)
from hf_instructmine.cli.main import main
from hf_instructmine.comparison.results import StrategyComparison
from hf_instructmine.sweep import session as sweep_session


RULE = LossEstimator.from_coefficients({"reward": -0.1}, name="by reward", target="loss_single")


def scored() -> Dataset:
    """48 rows of two sources, with a length for each."""
    rows = tiny_sweep.pool().to_list()
    more = [row | {"prompt": f"Again: {row['prompt']}", "reward": row["reward"] + 24} for row in rows]
    pool = Dataset.from_list([*rows, *more])
    return pool.add_column("output_length", [len(text) for text in pool["completion"]])


def many(examples: Dataset, count: int = 20) -> Dataset:
    """As many examples as a verdict needs."""
    rows = examples.to_list()
    return Dataset.from_list([rows[i % len(rows)] for i in range(count)])


def eval_sets() -> dict[str, Dataset]:
    return {name: many(examples) for name, examples in evaluation_sets().items()}


def compare(model: str, folder: Path, **changed):
    request = {
        "scored": scored(),
        "strategies": {"rule": RULE, "longest": "highest:output_length"},
        "recipe": {
            **RECIPE,
            **LAST_LAYERS,
            "learning_rate": 5e-3,
            "num_train_epochs": 16,
            "model_name_or_path": model,
        },
        "eval_sets": eval_sets(),
        "output_dir": folder,
        "tokens": [150],
        "sizes": [4],
        "parts": 4,
        "random_at": [0.5],
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


def of(runs: Dataset, **wanted) -> list[dict]:
    return [row for row in runs if all(row[name] == value for name, value in wanted.items())]


def test_every_strategy_chooses_anew_in_every_part_as_much_and_for_as_many_steps(finished):
    runs = load_comparison(finished).runs
    assert len(runs) == 2 * (4 * 3 + 4 + 2) and set(runs["status"]) == {"done"}
    whole = {}
    for number in range(4):
        here = of(runs, part=number, amount="size=4", multiple=1.0)
        assert sorted(row["strategy"] for row in here) == ["longest", "random", "rule"]
        assert {row["subset_size"] for row in here} == {4}
        assert {row["seed"] for row in here} == {number}
        rule, longest = (of(here, strategy=name)[0]["indices"] for name in ("rule", "longest"))
        rows = {i for row in of(runs, part=number) for i in row["indices"]}
        best = sorted(rows, key=lambda i: -scored()[i]["reward"])
        assert set(rule) <= set(best[:6])  # of all that was chosen in this part, none was better
        assert min(scored()[longest]["output_length"]) >= max(np.sort(scored()[list(rows)]["output_length"])[:-4])
        assert not rows & whole.keys()
        whole |= dict.fromkeys(rows)
    for amount, most in (("size=4", 4), ("tokens=150", None)):
        alike = {row["steps"] for row in of(runs, amount=amount, multiple=1.0)}
        assert len(alike) == 1
        assert {row["steps"] for row in of(runs, amount=amount, multiple=0.5)} == {round(0.5 * alike.pop())}
        assert most is None or {row["subset_size"] for row in of(runs, amount=amount, multiple=0.5)} == {most // 2}
    assert all(row["subset_tokens"] <= 150 for row in of(runs, amount="tokens=150"))


def test_what_each_strategy_chooses_of_the_whole_pool_is_trained_once(finished):
    comparison = load_comparison(finished)
    whole = {row["strategy"]: row for row in of(comparison.runs, part=None, amount="size=4")}
    assert whole.keys() == {"rule", "longest"} and whole["rule"]["indices"] == [44, 45, 46, 47]
    found = {o.strategy: o for o in comparison.outcomes("size=4", "single")}
    assert found["rule"].whole == pytest.approx(whole["rule"]["loss_single"], abs=1e-4)
    assert found["random"].whole is None


def test_the_table_holds_what_the_runs_say(finished):
    comparison = load_comparison(finished)
    outcomes = {o.strategy: o for o in comparison.outcomes("size=4", "single")}
    losses = {
        name: np.array([row["loss_single"] for row in of(comparison.runs, strategy=name, amount="size=4", multiple=1.0)
                        if row["part"] is not None])
        for name in ("rule", "longest", "random")
    }  # fmt: skip
    for name, values in losses.items():
        # An example's NLL is kept to four digits.
        assert outcomes[name].loss == pytest.approx(values.mean(), abs=1e-4)
        assert (outcomes[name].runs, outcomes[name].rows, outcomes[name].epochs) == (4, 4, 16)
    for name in ("rule", "longest"):
        difference = outcomes[name].difference
        assert difference.estimate == pytest.approx(np.mean(losses[name] - losses["random"]), abs=1e-4)
        assert difference.parts_sd == pytest.approx(np.std(losses[name] - losses["random"], ddof=1), abs=1e-3)
        assert (difference.parts, difference.examples) == (4, 20)
    text = str(comparison)
    assert text.count("| rule |") == 4
    assert text.splitlines()[-1].startswith("single (fitted to), size=4: rule is ")
    assert "over 4 parts of the pool and 20 evaluation examples" in text.splitlines()[-1]
    assert "multi (never seen), tokens=150: rule is " in text


def test_the_untrained_model_is_in_the_table(finished):
    comparison = load_comparison(finished)
    (untrained,) = (o for o in comparison.outcomes("size=4", "single") if o.strategy == "untrained")
    assert untrained.loss == pytest.approx(comparison.runs[0]["base_loss_single"], abs=1e-4)
    assert (untrained.steps, untrained.runs, untrained.p) == (0, 0, None)
    random = np.mean([r["loss_single"] for r in of(comparison.runs, strategy="random", amount="size=4", multiple=1.0)])
    assert untrained.difference.estimate == pytest.approx(untrained.loss - random, abs=1e-4)
    mine = {o.strategy: o.difference for o in comparison.outcomes("size=4", "single", baseline="untrained")}
    assert mine["random"].estimate == pytest.approx(random - untrained.loss, abs=1e-4) and mine["untrained"] is None


def test_bits_per_byte_are_of_the_responses_bytes(finished):
    comparison = load_comparison(finished)
    answers = eval_sets()["single"]["completion"]
    assert comparison.eval_bytes["single"] == sum(len(text.encode()) for text in answers)
    (rule,) = (o for o in comparison.outcomes("size=4", "single") if o.strategy == "rule")
    tokens = sum(comparison.runs[0]["example_tokens_single"])
    assert rule.bits_per_byte == pytest.approx(rule.loss * tokens / np.log(2) / comparison.eval_bytes["single"])


def test_another_baseline_can_be_asked_for(finished):
    comparison = load_comparison(finished)
    mine = {o.strategy: o for o in comparison.outcomes("size=4", "single", baseline="longest")}
    assert mine["longest"].difference is None and mine["random"].difference is not None
    (line,) = comparison.verdict("rule", "longest", among=["rule"])[-1:]
    assert "from longest" in line or "than longest" in line
    assert "correction" not in line
    with pytest.raises(InstructMineError, match="'best' has no finished run at size=4"):
        comparison.outcomes("size=4", "single", baseline="best")


def test_run_again_it_trains_nothing_and_more_strategies_can_join(model, finished, tmp_path, trained):
    folder = shutil.copytree(finished, tmp_path / "comparison")
    again = compare(model, folder)
    assert trained == []
    assert comparable(again.runs) == comparable(load_comparison(finished).runs)
    more = compare(model, folder, strategies={"balanced": "balanced:source", "full": "full"}, sizes=[])
    assert sorted(trained) == ["balanced-tokens150-part" + f"{k}-seed{k}" for k in range(4)] + ["full-seed0"]
    assert more.strategies == ["balanced", "full", "random", "rule", "longest"]
    # The full pool has no parts, so there is nothing to pair it with.
    found = {o.strategy: o.difference for o in more.outcomes("size=4", "single")}
    assert found.keys() == {"rule", "longest", "random", "full", "untrained"} and found["full"] is None


@pytest.mark.parametrize(
    "changed, message",
    [({"parts": 5}, "of parts=4, not 5: ask for that, or"), ({"seed": 7}, "of seed=0, not 7"),
     ({"budget": "recipe"}, "of budget=steps, not recipe")],
)  # fmt: skip
def test_runs_of_another_protocol_are_not_joined(model, finished, tmp_path, trained, changed, message):
    folder = shutil.copytree(finished, tmp_path / "comparison")
    with pytest.raises(InstructMineError, match=message):
        compare(model, folder, **changed)
    assert trained == []


def test_with_the_recipes_budget_steps_follow_the_rows(model, tmp_path):
    comparison = compare(model, tmp_path / "c", sizes=[], budget="recipe", random_at=[], whole_pool=False)
    for row in comparison.runs:
        assert row["epochs"] == 16 and row["steps"] == 16 * -(-row["subset_size"] // 2)
    assert "random tokens" not in str(comparison)
    with pytest.raises(InstructMineError, match=r"random was trained at tokens=150 alone.*random_at=\[0.5, 2\]"):
        comparison.worth()


def test_before_the_first_finetune_it_says_what_it_can_see(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweep_session.SweepSession, "_finish", lambda *_: pytest.fail("as asked"))
    with pytest.raises(pytest.fail.Exception, match="as asked"):
        compare(model, tmp_path / "c", sizes=[4], tokens=[])
    told = capsys.readouterr().err
    assert "18 finetunes of 32 optimiser steps" in told
    assert "with 4 parts, 20 evaluation examples and 2 comparisons, a difference of 0.0" in told


def test_killed_at_random_instants_it_ends_with_the_same_records(model, finished, tmp_path):
    script, log, folder = Path(__file__).parents[1] / "killed_comparison.py", tmp_path / "log", tmp_path / "comparison"
    tests = script.parent
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "src")])
    }  # fmt: skip
    command = [sys.executable, str(script), model, str(folder), str(log)]
    rng, half = np.random.default_rng(0), None
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
        half = load_comparison(folder) if list(folder.glob("runs/*.json")) else half
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    finished_runs, resumed = load_comparison(finished), load_comparison(folder)
    key = [(row["mixture_id"], row["seed"]) for row in resumed.runs]
    assert len(key) == len(set(key)) == len(finished_runs.runs)
    assert resumed.runs["indices"][:] == finished_runs.runs["indices"][:]
    np.testing.assert_allclose(resumed.runs["loss_single"][:], finished_runs.runs["loss_single"][:], atol=1e-4)
    trained = log.read_text().splitlines()
    assert half.strategies == ["rule", "longest", "random"] and 0 < len(half.runs) < len(key)
    # Only what was trained in the instant between its end and its record may stand twice, once for each kill.
    assert len(set(trained)) == len(key) and len(trained) <= len(key) + 4


def test_evidence_joins_the_card_of_a_selection(finished, tmp_path):
    selection = Selector(RULE).select(scored(), size=8)
    selection.attach_evidence(load_comparison(finished))
    selection.save_to_disk(tmp_path / "curated")
    card = (tmp_path / "curated/README.md").read_text()
    assert "## Does it beat a random choice?" in card
    assert "rule is " in card and "| longest |" in card and "in each of 4 disjoint random parts of the pool" in card
    assert (tmp_path / "curated/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert str(tmp_path) not in card


def simulated(effect: float, parts: int = 8) -> StrategyComparison:
    """A comparison whose finetunes are made up: `rule` is better than random by `effect`."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(20, 60, 50)
    rows = []
    for part in range(parts):
        for name, multiple, shift in (("rule", 1.0, -effect), ("random", 1.0, 0.0), ("random", 2.0, -0.04)):
            nll = (2.5 + shift + rng.normal(0, 0.002) + rng.normal(0, 0.02, 50)) * tokens
            rows.append(
                {
                    "mixture_id": f"{name}-{part}-{multiple}", "seed": part, "strategy": name, "amount": "tokens=100",
                    "part": part, "multiple": multiple, "status": "done", "reason": "", "subset_size": 3,
                    "subset_tokens": 99, "steps": 4, "epochs": 2.0, "seconds": 1.0, "base_model": "made up",
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


def test_where_too_few_parts_are_finished_nothing_is_claimed():
    runs = simulated(0.05, parts=2).runs
    (line,) = StrategyComparison(runs, ["rule", "random"]).verdict()
    assert line.endswith(
        "not known how rule compares with random: fewer than three parts have finished finetunes of both."
    )


def test_a_difference_that_was_not_seen_comes_with_what_could_have_been():
    (line,) = simulated(0.0).verdict()
    (outcome,) = (o for o in simulated(0.0).outcomes("tokens=100", "mine") if o.difference is not None)
    assert line.endswith(f"a difference below {outcome.difference.detectable:.4f} would not have been seen.")


def test_it_says_how_many_random_tokens_a_choice_is_worth():
    comparison = simulated(0.02)
    found = comparison.worth()
    assert 1 < found.low < 2**0.5 < found.high < 2  # half of what twice as many random tokens gain
    (line,) = comparison.verdict()
    assert f"; {found}." in line and "as many random tokens, 95 % 1." in line
    assert found.short in comparison.table("tokens=100", "mine")


def test_its_noise_can_plan_the_next_one():
    noise = simulated(0.02).noise()
    assert noise.parts_sd == pytest.approx(0.004, rel=0.7) and noise.source == "recorded on mine, tokens=100"
    assert power(parts=20, noise=noise).detectable < power(parts=5, noise=noise).detectable


def test_failed_finetunes_are_named_and_their_part_is_left_out():
    runs = simulated(0.05).runs
    rows = list(runs)
    rows[0] |= {"status": "failed", "reason": "out of memory", "example_nll_mine": None, "example_tokens_mine": None}
    comparison = StrategyComparison(Dataset.from_list(rows, features=runs.features), ["rule", "random"])
    found = {o.strategy: o for o in comparison.outcomes("tokens=100", "mine")}
    assert {name: o.runs for name, o in found.items()} == {"rule": 7, "random": 8}
    assert found["rule"].difference.parts == 7
    assert "Failed and left out:\n- rule-0-1.0 seed 0: out of memory" in str(comparison)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"tokens": [], "sizes": []}, "give at least one budget"),
        ({"sizes": [0]}, "size=0 must be a whole number"),
        ({"seeds": 0}, "seeds must be a whole number of at least 1"),
        ({"parts": 2}, "parts=2 cannot give a verdict.*parts or more would do"),
        (
            {"parts": 30, "tokens": []},
            "size=4 is above the 1 that part 19 of 30 can give: ask for at most size=1, for parts=12, or give",
        ),
        (
            {"tokens": [900]},
            "tokens=900 is above the 176 that part 1 of 4 can give: ask for at most tokens=176, or give",
        ),
        ({"eval_sets": {"few": many(evaluation_sets()["single"], 6)}}, "'few' has 6 examples, too few.*20 or more"),
        ({"strategies": {"mine": lambda pool, **_: [40]}, "tokens": []}, "'mine' chose row 40, and was given 12 rows"),
        ({"strategies": {"mine": lambda pool, **_: [*range(9)]}, "tokens": []}, "'mine' chose size=9 where size=4"),
        ({"strategies": {"untrained": "full"}}, "the name 'untrained' belongs"),
        ({"random_at": 2}, "random_at is a list of multiples"),
        ({"random_at": None}, "random_at is a list of multiples"),
        ({"scored": []}, "the dataset is empty"),
        ({"sizes": [True]}, "size=True must be a whole number"),
        ({"budget": "epochs"}, "budget must be one of steps, recipe"),
        ({"strategies": {"x": "highest:none"}}, "needs the column 'none'"),
        ({"strategies": {"random": "full"}}, "the name 'random' belongs"),
        ({"sizes": [25]}, "size=25 is above the 12 that part 1 of 4 can give: ask for at most size=12, or give"),
        ({"scored": tiny_sweep.pool()}, "needs the column 'output_length'"),
        ({"sizes": 8}, "are lists of budgets"),
        ({"strategies": "random"}, "strategies by name"),
        ({"seeds": 2.5}, "seeds must be a whole number"),
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
    eval_sets()["single"].to_json(tmp_path / "eval.jsonl")
    RULE.save_pretrained(tmp_path / "rule")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    code = main(
        ["compare", str(tmp_path / "scored.jsonl"), "--rule", f"mine={tmp_path / 'rule'},drop=1", "--tokens", "150",
         "--recipe", str(tmp_path / "recipe.yaml"), "--eval-set", f"single={tmp_path / 'eval.jsonl'}",
         "--output-dir", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 1 and "has no option 'drop'" in capsys.readouterr().err
    code = main(
        ["compare", str(tmp_path / "scored.jsonl"), "--rule", f"mine={tmp_path / 'rule'}", "--tokens", "150",
         "--parts", "4", "--random-at", "--no-whole-pool", "--recipe", str(tmp_path / "recipe.yaml"),
         "--eval-set", f"single={tmp_path / 'eval.jsonl'}", "--output-dir", str(tmp_path / "out")]
    )  # fmt: skip
    assert code == 0
    assert "single (fitted to), tokens=150: mine is " in capsys.readouterr().out
    assert "| longest |" in (tmp_path / "out/comparison.md").read_text()
    assert (tmp_path / "out/comparison.png").stat().st_size > 10_000


def test_the_command_puts_the_evidence_into_the_card_of_a_selection(model, tmp_path, capsys, trained):
    import yaml

    scored().to_parquet(tmp_path / "scored.parquet")
    eval_sets()["single"].to_json(tmp_path / "eval.jsonl")
    Selector(RULE).select(scored(), size=8).save_to_disk(tmp_path / "curated")
    LossEstimator.from_coefficients({"reward": 1.0}).save_pretrained(tmp_path / "other")
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def command(rule: str, attach: str) -> int:
        given = ["compare", "scored.parquet", "--rule", f"mine={rule}", "--size", "4", "--no-usual", "--parts", "4",
                 "--random-at", "--no-whole-pool", "--recipe", "recipe.yaml", "--eval-set", "single=eval.jsonl",
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
    assert "single (fitted to), size=4: mine is " in top and "checked" not in top
    assert Selection.load(tmp_path / "curated").sections[0].figures.keys() == {"comparison.png"}
