"""Folders that an earlier version wrote are read and gone on with: see written_before/make.py, which made them."""

import json
import math
import re
import shutil
import warnings
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from written_before import make

import hf_instructmine as him


# Another release of torch may round otherwise.
CLOSE = 1e-3
# By folder: the call that made it, and a record that is deleted for it to be made again.
CALLS = {
    "sweep": (make.sweep, "runs/mixture-001-seed1.json"),
    "failed": (make.failing_sweep, "runs/mixture-000-seed0.json"),
    "sweep-command": (make.sweep_command, "runs/mixture-002-seed5.json"),
    # The last trial, which no later one was suggested from.
    "search": (make.search, "sweep-1bb6b14b6217a65f/runs/select-14-seed22.json"),
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A copy of the folders, to do things to; the calls know them by relative names."""
    copy = shutil.copytree(make.HERE, tmp_path / "here", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(copy)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command sets
    return copy


def written(folder: str) -> dict[str, tuple[int, bytes]]:
    """When each record and each shard was written, and what is in it."""
    kept = [path for name in ("runs/*.json", "base.json", ".columns/*/*.parquet") for path in Path(folder).rglob(name)]
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


def contents(folder: str) -> dict[str, bytes]:
    """Every file but the locks, which are empty."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): path.read_bytes() for path in files}


# --- Going on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", CALLS)
def test_called_again_nothing_is_trained_anew(folder):
    call, _ = CALLS[folder]
    before, everything = written(folder), contents(folder)
    call()
    assert written(folder) == before
    now = contents(folder)
    for state in (everything, now):  # another release of pyarrow may write the same table otherwise
        state.pop("search/trials.parquet", None)
    assert now == everything


@pytest.mark.parametrize("folder", CALLS)
def test_the_run_that_is_missing_alone_is_trained_and_gives_the_same_loss(folder):
    call, missing = CALLS[folder]
    before = written(folder)
    Path(folder, missing).unlink()
    call()
    after = written(folder)
    old, new = (json.loads(state.pop(missing)[1]) for state in (before, after))
    assert after == before
    assert new["result"]["losses"] == pytest.approx(old["result"]["losses"], abs=CLOSE)
    for name in ("mixture", "indices_hash", "recipe_hash", "base_model", "status", "executor"):
        assert new[name] == old[name]
    assert new.keys() == old.keys() and new["result"].keys() == old["result"].keys()


@pytest.mark.parametrize("folder", ["sweep", "search"])
def test_options_that_no_loss_depends_on_may_have_changed(folder, monkeypatch):
    call, missing = CALLS[folder]
    before = written(folder)
    told = make.recipe(logging_steps=7, report_to="none", run_name="again", disable_tqdm=False, save_strategy="no")
    monkeypatch.setattr(make, "recipe", lambda **changed: {**told, **changed})
    call()
    assert written(folder) == before
    Path(folder, missing).unlink()
    call()
    after = written(folder)
    assert json.loads(after[missing][1])["recipe_hash"] == json.loads(before[missing][1])["recipe_hash"]
    assert {name: after[name] for name in before if name != missing} == {
        name: before[name] for name in before if name != missing
    }
    assert after.keys() == before.keys()


def test_runs_that_learnt_other_tokens_are_read_and_not_joined_by_more():
    before = written("sweep-eos")
    runs = of_eos()
    assert written("sweep-eos") == before and len(runs) == 4
    assert him.load_runs("sweep-eos")["loss_single"][0] == 5.766823799521835
    Path("sweep-eos/runs/mixture-001-seed1.json").unlink()
    with pytest.raises(him.InstructMineError, match="'mixture-001-seed1' would learn other tokens: choose another"):
        of_eos()


def test_a_search_called_again_gives_the_recorded_trials():
    before = Dataset.from_parquet("search/trials.parquet")
    assert list(make.search()) == list(before)
    assert list(make.search(num_trials=3))[:22] == list(before)


def test_more_runs_and_indicators_join():
    runs = written("sweep")
    make.sweep(mixtures=make.mixtures(0, 1, 2, 0, 3))
    assert written("sweep").keys() - runs.keys() == {"runs/mixture-003-seed4.json"}
    assert runs.items() <= written("sweep").items()
    shards = written("scored")
    scored = him.score(make.rows("pool"), [him.InputLength("model")], "scored")
    assert shards.items() <= written("scored").items()
    assert {"mtld", "output_length", "perplexity", "input_length"} == him.get_provenance(scored).keys()


def score_again():
    """What the folder's cheap indicators are called with; its perplexity is of other tokens than today's."""
    return him.score(make.rows("pool"), [him.MTLD(), him.OutputLength("model")], "scored")


def test_a_pool_scored_again_reads_every_shard():
    before, earlier = written("scored"), make.scored()
    assert len(before) == 6  # two of each indicator
    scored = score_again()
    assert written("scored") == before
    for name in ("mtld", "output_length", "perplexity"):
        assert str(scored[name][:]) == str(earlier[name][:])  # in which NaN equals NaN
    assert him.get_provenance(scored) == him.get_provenance(earlier)


@pytest.mark.parametrize("indicator", ["mtld", "output_length"])
def test_the_shard_that_is_missing_alone_is_scored_as_after_a_kill(indicator):
    before, earlier = written("scored"), make.scored()
    (missing,) = (name for name in before if name.startswith(f".columns/{indicator}-") and "000000256" in name)
    Path("scored", missing).unlink()
    shutil.rmtree("scored/data")
    for name in ("indicators.json", "report.json"):
        Path("scored", name).unlink()
    scored = score_again()
    after = written("scored")
    assert after.pop(missing)[0] != before.pop(missing)[0]
    assert after == before
    assert scored[indicator][:] == pytest.approx(earlier[indicator][:], rel=CLOSE, nan_ok=True)


# --- What is refused ----------------------------------------------------------------------------------------------


def slower() -> dict:
    return make.recipe(learning_rate=1e-3)


def of_eos(**changed) -> Dataset:
    """The sweep of a version that ended turns in the tokenizer's EOS, whatever the chat template wrote."""
    return make.sweep(output_dir="sweep-eos", **changed)


def of_fewer_rows():
    return make.score(make.rows("pool").select(range(9)))


def with_another_template():
    Path("model/chat_template.jinja").write_text("{{ messages }}")
    return make.sweep()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: make.score(max_length=32), r"'perplexity' .* \(there: max_length=2048, .*; now: max_length=32, "),
        (lambda: make.score(), r"'perplexity' .* \(there: template=None; now: template='as rendered'\): choose"),
        (lambda: of_eos(mixtures=make.mixtures(0, 1, 2, 0, 3)), "ended turns in EOS .*'mixture-003-seed4' would"),
        (of_fewer_rows, r"another pool \(270 rows, xxh64:0f8b97c6df64ced3; this one: 9 rows, "),
        (lambda: make.sweep(recipe=slower()), r"recipe \(learning_rate: 0.02 → 0.001\)"),
        (lambda: make.sweep(eval_sets={"single": make.rows("single")}), r"evaluation sets \(multi: 3 "),
        (lambda: make.sweep(mixtures=make.mixtures(0, step=41)), "a mixture 'mixture-000' of other rows"),
        (with_another_template, r"base model \(weights: xxh64:7438d95530cfe554 → "),
        (lambda: make.failing_sweep(recipe=slower()), r"recipe \(learning_rate: 15.0 → 0.001\); recipe \(max_grad"),
        (make.compare, "'comparison' holds a comparison of an earlier version, where each strategy chose once"),
        (lambda: make.search(recipe=slower()), r"recipe \(cached_trunk: True → None\); recipe \(learning_r"),
        (lambda: make.search(grid_seeds=3), r"grid_seeds: 2 → 3"),
        (lambda: make.search(space={"learning_rate": (1e-3, 9e-2)}), r"space: .*0.05.* → .*0.09"),
        (lambda: make.select().save_to_disk("curated"), r"curated' already holds files \(README.md, data, estimator"),
    ],
    ids=[
        "max_length", "template", "ends of turns",
        "pool", "recipe", "evaluation set", "mixtures", "base model", "recipe of a failure",
        "comparison", "recipe of a search", "grid", "space", "selection",
    ],
)  # fmt: skip
def test_another_request_is_refused_in_a_line_that_names_what_differs(call, told):
    before = {name: contents(name) for name in ("scored", *CALLS, "comparison", "sweep-eos", "curated")}
    with pytest.raises(him.InstructMineError, match=told) as refused:
        call()
    assert "\n" not in str(refused.value)
    assert {name: contents(name) for name in before} == before


def test_the_command_refuses_another_design_and_another_recipe(capsys):
    before = contents("sweep-command")
    assert make.sweep_command("--seed", "3", "--method", "tilted") == 1
    assert "method: d-optimal → tilted; seed: 0 → 3" in capsys.readouterr().err
    Path("recipe.yaml").write_text(Path("recipe.yaml").read_text().replace("0.02", "0.001"))
    assert make.sweep_command() == 1
    assert "recipe (learning_rate: 0.02 → 0.001)" in capsys.readouterr().err
    assert contents("sweep-command") == before


# --- What is read -------------------------------------------------------------------------------------------------


def test_a_scored_pool_is_read():
    scored = make.scored()
    assert scored.column_names == [
        "prompt", "completion", "source", "reward", "mtld", "output_length", "perplexity"
    ]  # fmt: skip
    assert len(scored) == make.ROWS and scored[make.SILENT]["completion"] == ""
    row = scored[0]
    assert (row["mtld"], row["output_length"]) == (17.92, 26.0)
    assert row["perplexity"] == 333.13190697508645
    assert math.isnan(scored[make.SILENT]["perplexity"])
    assert him.get_provenance(scored) == {
        "mtld": {"indicator": "MTLD", "threshold": 0.72, "turns": "last"},
        "output_length": {
            "indicator": "OutputLength", "tokenizer": "model", "tokenizer_digest": "xxh64:12328a510127fd70",
            "turns": "last",
        },
        "perplexity": {
            "indicator": "Perplexity", "model": "model", "weights": "xxh64:7438d95530cfe554", "dtype": "float32",
            "max_length": 2048, "turns": "last", "given": True, "include_eos": False,
        },
    }  # fmt: skip


def test_the_runs_of_a_sweep_are_read():
    runs = him.load_runs("sweep", examples=True)
    assert list(zip(runs["mixture_id"], runs["seed"])) == [
        ("mixture-000", 0), ("mixture-000", 3), ("mixture-001", 1), ("mixture-002", 2)
    ]  # fmt: skip
    row = runs[0]
    assert row["loss_single"] == 5.772667977544996 and row["base_loss_single"] == 5.792676651919329
    assert row["example_nll_multi"] == [142.4341, 153.6429, 176.2025] and row["example_tokens_multi"] == [25, 27, 31]
    assert row["indices"] == [1, 41, 81, 121, 161, 201] and row["reward"] == 101
    assert (row["steps"], row["train_tokens"], row["status"], row["executor"]) == (6, 112, "done", "inline")
    assert (row["base_model"], row["recipe_hash"]) == ("model", "6977f41550d22fdb")
    assert row["indices_hash"] == "1a0af6234039be01"
    assert json.loads(row["versions"])["hf-instructmine"] == "0.1.0.dev0"
    status = him.sweep_status("sweep")
    assert status.startswith("4 of 4 runs done, 0 failed, 0 running, 0 to do")
    assert "mixture-000-seed0: multi 5.6901, single 5.7727 (" in status


def test_a_failed_run_is_read_as_one():
    (row,) = him.load_runs("failed")
    assert row["status"] == "failed" and row["loss_single"] == pytest.approx(6.6522, abs=1e-4)
    assert row["reason"].startswith("diverged: the loss on 'single' is 6.65 after training")
    assert him.sweep_status("failed").startswith("0 of 1 runs done, 1 failed")


def test_the_sweep_of_the_command_is_read_and_a_rule_fitted_to_it(capsys):
    runs = him.load_runs("sweep-command")
    assert runs["subset_size"][:] == [6] * 6 and len(set(runs["mixture_id"])) == 5
    assert set(runs["method"]) == {"d-optimal"}
    assert him.get_provenance(runs) == him.get_provenance(make.scored())
    first = runs[0]
    assert first["loss_single"] == 5.663305772675408
    assert sum(first["proportions"].values()) == pytest.approx(1)
    assert make.instructmine("sweep", "--status", "sweep-command") == 0
    assert capsys.readouterr().out.startswith("6 of 6 runs done, 0 failed")
    fit = ("--indicators", "perplexity", "--select", "none", "--target", "loss_single", "--output-dir", "fitted")
    assert make.instructmine("fit", "sweep-command", *fit) == 0
    fitted, mixtures = (
        him.LossEstimator.from_pretrained("fitted"),
        Dataset.from_parquet("sweep-command/mixtures.parquet"),
    )
    assert fitted.provenance.keys() == {"perplexity"}
    assert him.get_provenance(mixtures) == him.get_provenance(runs)
    assert sorted(zip(mixtures["mixture_id"], mixtures["seed"])) == sorted(zip(runs["mixture_id"], runs["seed"]))


def test_a_comparison_is_read():
    comparison = him.load_comparison("comparison")
    assert comparison.strategies == ["rule", "longest", "random"] and comparison.fitted_on == {"rule": ["single"]}
    assert (comparison.amounts, comparison.eval_sets, comparison.failed) == (["size=8"], ["multi", "single"], [])
    found = {o.strategy: o for o in comparison.outcomes("size=8", "single")}
    assert {name: o.runs for name, o in found.items()} == {"rule": 2, "longest": 2, "random": 3}
    losses = {name: o.loss for name, o in found.items()}
    assert losses == pytest.approx({"random": 5.7147, "rule": 5.7259, "longest": 5.7599}, abs=1e-4)
    assert found["longest"].tokens == 1040 and found["rule"].steps == 8
    assert found["rule"].difference.estimate == pytest.approx(0.0112, abs=1e-4)
    assert comparison.verdict()[1].startswith(
        "single (fitted to), size=8: rule is not shown to differ from random: +0.0112"
    )


def test_a_search_is_read():
    trials = Dataset.from_parquet("search/trials.parquet")
    assert trials["trial"][:] == list(range(22)) and trials["kind"][:] == ["grid"] * 20 + ["search"] * 2
    last = trials[21]
    assert (last["size"], last["learning_rate"], last["seed"]) == (14, 0.00861106, 22)
    assert (last["loss_single"], last["train_tokens"]) == (5.746021169203299, 397)
    assert him.size_report(trials).best_size == 18
    assert len(him.load_runs("search/sweep")) == 20


def test_a_rule_is_read_and_kept_as_it_was():
    rule = him.LossEstimator.from_pretrained("rule")
    assert (rule.name, rule.target) == ("of a known law", "loss_self_instruct + loss_mt_bench")
    assert rule.indicators == ["reward", "mtld"]
    assert (rule.intercept, rule.weights[0]) == (0.24291329423788113, -0.07554604833091726)
    assert (rule.diagnostics.r2, rule.max_leverage) == pytest.approx((0.8505501323367216, 0.4459312854753673))
    rows = {"reward": [1.0, 2.0], "mtld": [60.0, 50.0], "subset_size": [900, 900]}
    assert rule.predict(rows) == pytest.approx([0.27612852, 0.18136876])
    text, again = (json.loads(text) for text in (Path("rule/estimator.json").read_text("utf-8"), rule.to_json()))
    for content in (text, again):
        for name in ("versions", "checksum"):  # of those that are installed, and so of all
            content.pop(name)
    assert again == text


def test_a_rule_that_was_changed_by_hand_is_refused():
    path = Path("rule/estimator.json")
    path.write_text(path.read_text("utf-8").replace('"of a known law"', '"of another law"'), "utf-8")
    with pytest.raises(him.InstructMineError, match="was changed after it was saved"):
        him.LossEstimator.from_pretrained("rule")


def test_a_selection_is_read_and_its_rule_selects_the_same_rows():
    curated = load_dataset("curated", split="train")
    rule = him.LossEstimator.from_pretrained("curated")
    assert rule.name == "by perplexity" and rule.provenance == {
        "perplexity": him.get_provenance(make.scored())["perplexity"]
    }
    assert him.get_provenance(curated) == him.get_provenance(make.scored())
    selection = him.Selector(rule).select(make.scored(), size=12)
    assert selection.dataset["prompt"][:] == curated["prompt"][:]
    assert selection.dataset.column_names == curated.column_names
    assert selection.log_loss == pytest.approx(curated["predicted_log_loss"][:])
    selection.save_to_disk("curated", overwrite=True)
    assert load_dataset("curated", split="train")["prompt"][:] == curated["prompt"][:]


def test_no_path_of_a_machine_is_in_the_folders(here):
    named = re.compile(rb"/(tmp|home|root|work|Users|var)/")
    assert not [path for path in here.rglob("*") if path.is_file() and named.search(path.read_bytes())]
