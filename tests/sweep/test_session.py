"""A sweep is recorded once and for all: whatever kills it, whatever fails in it, and whoever shares it."""

import gc
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_sweep
from datasets import Dataset, load_dataset
from tiny_sweep import LAST_LAYERS, LORA, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, LossEstimator, get_provenance, load_runs, run_sweep
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.data.provenance import set_provenance
from hf_instructmine.outputs.records import Records
from hf_instructmine.sweep import executors
from hf_instructmine.sweep.card import push_runs
from hf_instructmine.sweep.request import describe_set
from hf_instructmine.sweep.runs import pure_error, sweep_status


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    gc.freeze()  # the trainer collects garbage once a run: not among all that pytest has imported
    return {**RECIPE, **LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path_factory.mktemp("model"))}


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """Three mixtures, the first of them twice."""
    folder = tmp_path_factory.mktemp("finished") / "sweep"
    run_sweep(pool(), mixtures(), recipe, evaluation_sets(), folder)
    return folder


@pytest.fixture
def sweep(finished, tmp_path) -> Path:
    """A copy of it, to do things to."""
    return shutil.copytree(finished, tmp_path / "sweep")


def start(*arguments: str) -> subprocess.CompletedProcess:
    script = Path(__file__).parents[1] / "killed_sweep.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_killed_at_twenty_random_instants_it_ends_as_if_nothing_had_happened(tmp_path):
    done = start("kill", str(tmp_path), "20")
    assert done.returncode == 0, done.stderr
    kills = json.loads((tmp_path / "kills.json").read_text())
    assert sum(kills) == 20
    uninterrupted = load_runs(tmp_path / "uninterrupted", examples=True)
    assert len(uninterrupted) == 8 and set(uninterrupted["status"]) == {"done"}
    for number in range(len(kills)):
        folder = tmp_path / f"killed-{number}"
        assert comparable(load_runs(folder, examples=True)) == comparable(uninterrupted)
        left = {path.name for path in folder.iterdir()}
        assert left == {"sweep.json", "planned.json", "base.json", "runs", "locks"}


def test_sweeps_at_the_same_time_share_the_runs(tmp_path):
    done = start("together", str(tmp_path), "3")
    assert done.returncode == 0, done.stderr
    names = [f"mixture-{k:03d}-seed{k}" for k in range(6)] + ["mixture-000-seed6", "mixture-001-seed7"]
    assert sorted((tmp_path / "trained").read_text().split()) == sorted(names)
    assert len(load_runs(tmp_path / "sweep")) == 8


def test_a_second_call_trains_nothing(sweep, recipe, trained):
    before = load_runs(sweep)
    assert list(run_sweep(pool(), mixtures(), recipe, evaluation_sets(), sweep)) == list(before)
    assert trained == []


def test_only_what_is_missing_is_trained_and_the_model_is_as_fresh(sweep, finished, recipe, trained):
    for run_id in ("mixture-001-seed1", "mixture-000-seed3"):
        Records(sweep).path_of(run_id).unlink()
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), sweep)
    assert trained == ["mixture-001-seed1", "mixture-000-seed3"]
    assert comparable(runs) == comparable(load_runs(finished))


@pytest.mark.parametrize("damage", [lambda data: data[:100], lambda data: data.replace(b'"loss', b'"lost', 1)])
def test_a_damaged_record_is_reported_and_run_again(sweep, finished, recipe, trained, caplog, damage):
    path = Records(sweep).path_of("mixture-001-seed1")
    path.write_bytes(damage(path.read_bytes()))
    assert len(load_runs(sweep)) == 3
    caplog.clear()
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), sweep)
    assert [r.getMessage() for r in caplog.records if "damaged" in r.getMessage()] == [
        f"'{path}' is damaged: it counts as missing"
    ]
    assert trained == ["mixture-001-seed1"]
    assert comparable(runs) == comparable(load_runs(finished))


def test_another_recipe_pool_or_evaluation_set_is_refused_and_named(sweep, recipe, trained):
    other_pool = pool().map(lambda row: {"completion": row["completion"] + "!"})
    fewer = {"single": evaluation_sets()["single"]}
    for arguments, named in (
        (
            (pool(), mixtures(), {**recipe, "learning_rate": 2e-3}, evaluation_sets()),
            r"recipe \(learning_rate: 0.001 → 0.002\)",
        ),
        ((other_pool, mixtures(), recipe, evaluation_sets()), r"pool \(24 rows, xxh64:\w+ → 24 rows, xxh64:\w+\)"),
        ((pool(), mixtures(), recipe, fewer), r"evaluation sets \(multi: 3 examples, \w+ → None\)"),
    ):
        with pytest.raises(
            InstructMineError, match=rf"another sweep \({named}\): choose another output_dir, or undo the change"
        ):
            run_sweep(*arguments, sweep)
    assert trained == []


@pytest.mark.parametrize("kept", ["name", "path"])
def test_a_sweep_is_gone_on_with_where_its_models_folder_was_moved(recipe, tmp_path, trained, kept):
    here = shutil.copytree(recipe["model_name_or_path"], tmp_path / "here" / "model")
    runs = {"model_name_or_path": str(here), "output_dir": str(tmp_path / "out")}
    run_sweep(pool(), mixtures(1, 0), {**recipe, **runs}, evaluation_sets(), tmp_path / "sweep")
    assert str(tmp_path) not in (tmp_path / "sweep" / "sweep.json").read_text()
    if kept == "path":  # as earlier versions did
        records = Records(tmp_path / "sweep")
        path = records.folder / "sweep.json"
        manifest = records.read(path)
        records.write(path, {**manifest, "recipe": {**manifest["recipe"], **runs}})
    (tmp_path / "there").mkdir()
    moved = {**recipe, "model_name_or_path": str(shutil.move(here, tmp_path / "there" / "model"))}
    trained.clear()
    again = run_sweep(pool(), mixtures(1, 1), moved, evaluation_sets(), tmp_path / "sweep")
    assert trained == ["mixture-000-seed1"]
    assert len(set(again["recipe_hash"])) == len(set(again["base_model"])) == 1


def test_a_base_model_of_other_weights_is_refused(recipe, tmp_path):
    from transformers import AutoModelForCausalLM

    copy = shutil.copytree(recipe["model_name_or_path"], tmp_path / "model")
    recipe = {**recipe, "model_name_or_path": str(copy)}
    run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    model = AutoModelForCausalLM.from_pretrained(copy)
    model.lm_head.weight.data[0, 0] += 1
    model.save_pretrained(copy)
    with pytest.raises(InstructMineError, match=r"another sweep \(base model \(weights: xxh64:\w+ → xxh64:\w+\)"):
        run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")


def test_mixtures_designed_anew_are_refused(sweep, recipe, trained):
    # The second design has other seeds, too: its runs have other names, but would pose as replicates.
    for other in (mixtures(num_runs=3, seed=1), mixtures(num_runs=3, seed=100)):
        with pytest.raises(InstructMineError, match="'mixture-000' of other rows: the mixtures were designed anew"):
            run_sweep(pool(), other, recipe, evaluation_sets(), sweep)
    assert trained == []


def test_other_seeds_and_further_mixtures_extend_a_sweep(sweep, recipe, trained):
    again = mixtures(1, 0).map(lambda row: {"seed": 7})
    runs = run_sweep(pool(), again, recipe, evaluation_sets(), sweep)
    assert trained == ["mixture-000-seed7"]
    assert sorted(zip(runs["mixture_id"], runs["seed"])) == [
        ("mixture-000", 0), ("mixture-000", 3), ("mixture-000", 7), ("mixture-001", 1), ("mixture-002", 2),
    ]  # fmt: skip
    assert sweep_status(sweep).startswith("5 of 5 runs done")


def test_a_run_that_diverges_is_recorded_and_may_be_tried_again(recipe, tmp_path, trained, caplog):
    wild = {**recipe, "learning_rate": 5.0, "max_grad_norm": 0.0}
    runs = run_sweep(pool(), mixtures(2, 0), wild, evaluation_sets(), tmp_path / "sweep")
    assert runs["status"][:] == ["failed", "failed"]
    base = json.loads((tmp_path / "sweep" / "base.json").read_text())
    for reason, loss in zip(runs["reason"], runs["loss_single"]):
        assert reason.startswith("diverged: the loss on 'single' is ")
        assert loss > max(base["losses"]["single"], math.log(base["vocabulary"]))
    assert "run mixture-000-seed0 failed: diverged" in caplog.text

    trained.clear()
    run_sweep(pool(), mixtures(2, 0), wild, evaluation_sets(), tmp_path / "sweep")
    assert trained == []
    run_sweep(pool(), mixtures(2, 0), wild, evaluation_sets(), tmp_path / "sweep", retry_failed=True)
    assert trained == ["mixture-000-seed0", "mixture-001-seed1"]


def test_a_loss_that_is_no_number_is_a_failure(recipe, tmp_path):
    wild = {**recipe, "learning_rate": 1e30, "max_grad_norm": 0.0}
    runs = run_sweep(pool(), mixtures(1, 0), wild, evaluation_sets(), tmp_path / "sweep")
    assert runs["status"][:] == ["failed"]
    assert "lower the learning rate" in runs["reason"][0]
    assert runs["loss_single"][:] == [None]


@pytest.mark.parametrize("adapters", [{}, LORA], ids=["last layers", "LoRA"])
def test_a_run_out_of_memory_leaves_nothing_behind_in_the_next(recipe, tmp_path, monkeypatch, adapters):
    import torch

    from hf_instructmine.finetuning import trainer

    settings = {**recipe, **adapters, "learning_rate": 1e-3}  # at which no run diverges
    if adapters:
        settings.pop("train_last_layers")
    undisturbed = run_sweep(pool(), mixtures(), settings, evaluation_sets(), tmp_path / "undisturbed")
    step = trainer.Trainer.training_step

    def out_of_memory(self, *args, **kwargs):
        if self.args.seed == 1 and self.state.global_step == 2:  # adapters are in, weights have changed
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.Trainer, "training_step", out_of_memory)
    runs = run_sweep(pool(), mixtures(), settings, evaluation_sets(), tmp_path / "sweep")
    failed = {row["mixture_id"]: row["reason"] for row in runs if row["status"] == "failed"}
    assert failed == {"mixture-001": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"}
    others = [row for row in comparable(undisturbed) if row["mixture_id"] != "mixture-001"]
    assert [row for row in comparable(runs) if row["status"] == "done"] == others

    monkeypatch.setattr(trainer.Trainer, "training_step", step)
    runs = run_sweep(pool(), mixtures(), settings, evaluation_sets(), tmp_path / "sweep", retry_failed=True)
    assert comparable(runs) == comparable(undisturbed)


def test_an_interrupt_is_no_failure_of_the_run(recipe, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(executors.Inline, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    with pytest.raises(InstructMineError, match="holds no finished run"):
        load_runs(tmp_path / "sweep")
    assert sweep_status(tmp_path / "sweep") == "0 of 4 runs done, 0 failed, 0 running, 4 to do"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk to fill")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_the_sweep_in_one_line_and_costs_no_finished_run(small_disk, recipe, finished, monkeypatch):
    ballast, train = small_disk / "ballast", executors.Inline.run

    def fill(self, indices, seed, folder):
        if seed == 2:
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free))
        return train(self, indices, seed, folder)

    monkeypatch.setattr(executors.Inline, "run", fill)
    with pytest.raises(InstructMineError) as error:
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), small_disk / "sweep")
    assert "\n" not in str(error.value)
    assert "No space left on device; what is finished is kept: mend it and start again" in str(error.value)
    assert load_runs(small_disk / "sweep")["mixture_id"][:] == ["mixture-000", "mixture-001"]

    ballast.unlink()
    monkeypatch.setattr(executors.Inline, "run", train)
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), small_disk / "sweep")
    assert comparable(runs) == comparable(load_runs(finished))


def test_checkpoints_are_kept_where_the_recipe_asks_for_them(recipe, tmp_path, finished):
    from transformers import AutoModelForCausalLM

    assert not (finished / "work").exists() and not (finished / "checkpoints").exists()
    run_sweep(pool(), mixtures(1, 0), {**recipe, "save_strategy": "epoch"}, evaluation_sets(), tmp_path / "sweep")
    kept = tmp_path / "sweep" / "checkpoints" / "mixture-000-seed0"
    assert sorted(path.name for path in kept.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-6"]
    assert AutoModelForCausalLM.from_pretrained(kept / "checkpoint-6").config.num_hidden_layers == 4


def test_what_cannot_be_run_is_refused_before_a_model_loads(recipe, tmp_path):
    def refused(message: str, **changed) -> None:
        arguments = {"pool": pool(), "mixtures": mixtures(), "recipe": recipe, "eval_sets": evaluation_sets()}
        with pytest.raises(InstructMineError, match=message):
            run_sweep(**{**arguments, **changed}, output_dir=tmp_path / "sweep")
        assert not (tmp_path / "sweep").exists()

    one = {"mixture_id": ["m"], "seed": [0], "indices": [[1, 2]]}
    refused("the mixtures have no column 'indices'", mixtures=mixtures().remove_columns("indices"))
    refused("the mixtures have no row", mixtures=mixtures().select([]))
    refused("mixture 'm' is empty", mixtures=Dataset.from_dict({**one, "indices": [[]]}))
    refused("names row 24 of a pool of 24 rows", mixtures=Dataset.from_dict({**one, "indices": [[1, 24]]}))
    refused("names row -1 of a pool", mixtures=Dataset.from_dict({**one, "indices": [[-1, 3]]}))
    refused("'m-seed0' stands twice", mixtures=Dataset.from_dict({k: v * 2 for k, v in one.items()}))
    twice = {"mixture_id": ["m", "m"], "seed": [0, 1], "indices": [[1], [2]]}
    refused("'m' stands twice in the mixtures, with other rows", mixtures=Dataset.from_dict(twice))
    refused("mixture_id '../m' must be letters", mixtures=Dataset.from_dict({**one, "mixture_id": ["../m"]}))
    refused("the seed of mixture 'm' is None", mixtures=Dataset.from_dict({**one, "seed": [None]}))
    refused("executor must be one of inline, accelerate, ray", executor="slurm")
    refused("no evaluation set was given", eval_sets={})
    refused("the evaluation set's name 'a b'", eval_sets={"a b": evaluation_sets()["single"]})
    unanswered = Dataset.from_dict({"prompt": ["Why?"], "completion": [""]})
    refused("no row of the evaluation set 'empty' has a reference", eval_sets={"empty": unanswered})
    blank = pool().map(lambda row, i: {"completion": "" if i == 9 else row["completion"]}, with_indices=True)
    with_nine = Dataset.from_dict({**one, "indices": [[8, 9]]})
    refused("row 9 of the pool is in a mixture but cannot be learnt from: empty", pool=blank, mixtures=with_nine)
    refused("the recipe names no model", recipe={"use_cpu": True})


def test_rows_outside_all_mixtures_may_be_bad(recipe, tmp_path):
    used = {i for indices in mixtures(1, 0)["indices"] for i in indices}
    unused = next(i for i in range(24) if i not in used)
    blank = pool().map(lambda row, i: {"completion": "" if i == unused else row["completion"]}, with_indices=True)
    runs = run_sweep(blank, mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    assert runs["status"][:] == ["done"]


def test_the_table_of_runs_says_what_each_was_and_gave(finished):
    runs = load_runs(finished, examples=True)
    assert runs["mixture_id"][:] == ["mixture-000", "mixture-000", "mixture-001", "mixture-002"]
    design = {(row["mixture_id"], row["seed"]): row for row in mixtures()}
    for row in runs:
        assert row["indices"] == design[row["mixture_id"], row["seed"]]["indices"]
        assert (row["status"], row["reason"], row["executor"]) == ("done", None, "inline")
        assert (row["steps"], row["epochs"], row["processes"], row["budget"]) == (6, 2.0, 1, "epochs")
        assert row["seconds"] >= row["seconds_training"] + row["seconds_evaluating"] > 0
        for name in ("single", "multi"):
            total, tokens = sum(row[f"example_nll_{name}"]), sum(row[f"example_tokens_{name}"])
            assert row[f"loss_{name}"] == pytest.approx(total / tokens, rel=1e-5)
            assert row[f"loss_{name}"] < row[f"base_loss_{name}"]
        assert len(row["example_nll_single"]) == 6 and len(row["example_nll_multi"]) == 3
        assert json.loads(row["versions"])["trl"]
        assert row["base_model"] == Path(json.loads((finished / "sweep.json").read_text())["base_model"]["model"]).name
    assert load_runs(finished).column_names == [n for n in runs.column_names if not n.startswith("example_")]


def test_replicates_differ_by_their_seed_alone(finished):
    runs = load_runs(finished)
    first, again = (row for row in runs if row["mixture_id"] == "mixture-000")
    assert first["indices_hash"] == again["indices_hash"] and first["train_tokens"] == again["train_tokens"]
    assert first["loss_single"] != again["loss_single"]
    between, within = pure_error(runs, "loss_single")
    assert within == pytest.approx(abs(math.log(first["loss_single"] / again["loss_single"])) / math.sqrt(2))
    assert between > 0


def test_provenance_travels_from_the_mixtures_to_the_runs(recipe, tmp_path):
    made = {"reward": {"indicator": "Reward", "model": "tiny"}}
    runs = run_sweep(pool(), set_provenance(mixtures(1, 0), made), recipe, evaluation_sets(), tmp_path / "sweep")
    assert get_provenance(runs) == made
    otherwise = set_provenance(mixtures(1, 0), {"reward": {"indicator": "Reward", "model": "other"}})
    with pytest.raises(InstructMineError, match="holds mixtures whose 'reward' was made otherwise"):
        run_sweep(pool(), otherwise, recipe, evaluation_sets(), tmp_path / "sweep")


def test_a_table_of_failures_alone_has_the_types_of_any_other(sweep, finished):
    records = Records(sweep)
    for run_id, record in records.all().items():
        result = {"losses": {}, "examples": {}, "seconds": 1.0}
        records.write(records.path_of(run_id), {**record, "status": "failed", "reason": "why", "result": result})
    failed, done = load_runs(sweep, examples=True), load_runs(finished, examples=True)
    assert failed.features == done.features
    assert failed.column_names == done.column_names
    assert failed["loss_single"][:] == [None] * 4


def test_a_rule_can_be_fitted_to_the_runs(recipe, tmp_path):
    # Not that it would be a good one.
    with_failure = mixtures(6, 1)
    runs = run_sweep(pool(), with_failure, recipe, evaluation_sets(), tmp_path / "sweep")
    rule = LossEstimator.fit(runs, target="loss_single", indicators=["reward"], select="none", seed=0)
    assert rule.indicators == ["reward"]
    assert len(rule.predict(pool())) == 24


def test_the_status_tells_what_is_done_failed_running_and_missing(sweep):
    records = Records(sweep)
    for run_id in ("mixture-001-seed1", "mixture-000-seed3"):
        records.path_of(run_id).unlink()
    record = records.read(records.path_of("mixture-002-seed2"))
    records.write(records.path_of("mixture-002-seed2"), {**record, "status": "failed", "reason": "MemoryError: full"})
    with Records(sweep).lock("mixture-001-seed1"):
        told = sweep_status(sweep).splitlines()
    assert told[0] == "1 of 4 runs done, 1 failed, 1 running, 1 to do"
    assert "s a run: about" in told[1] and told[1].endswith("seconds left on one worker")
    assert told[2:4] == ["  running  mixture-001-seed1", "  failed   mixture-002-seed2: MemoryError: full"]
    assert told[4].startswith("  done     mixture-000-seed0: multi 5.") and len(told) == 5


def test_the_status_of_no_sweep_is_an_error(tmp_path):
    with pytest.raises(InstructMineError, match="holds no sweep"):
        sweep_status(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_one_bar(recipe, tmp_path, capfd):
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    out, err = capfd.readouterr()
    assert out == ""
    bars = [part for part in err.replace("\n", "\r").split("\r") if part.startswith("Finetuning:")]
    assert any(" 1/2 " in bar and "mixture-000-seed0" in bar for bar in bars)
    assert " 2/2 " in bars[-1]


def test_runs_are_pushed_with_a_card_and_without_paths_of_this_machine(hub, sweep, recipe, tmp_path):
    records = Records(sweep)
    record = records.read(records.path_of("mixture-002-seed2"))
    hostile = f"OSError: cannot read '{tmp_path}/secret/x.json' | <script>alert(1)</script> {{{{ 7 * 7 }}}}"
    record |= {"status": "failed", "reason": hostile, "result": {"losses": {}, "examples": {}, "seconds": 1.0}}
    records.write(records.path_of("mixture-002-seed2"), record)
    assert push_runs(sweep, "me/runs", private=True) == "me/runs"
    repo = hub.dataset("me/runs")
    assert repo.private and hub.commits_made("me/runs") == 1
    again = load_dataset("me/runs", split="train")
    assert comparable(again, "reason") == comparable(load_runs(sweep, examples=True), "reason")
    card = repo.files["README.md"].decode()
    for text in (card, repo.files["data/train-00000-of-00001.parquet"].decode("latin-1")):
        assert str(tmp_path) not in text and str(Path(recipe["model_name_or_path"]).parent) not in text
    assert "<script>" not in card and "{{" not in card
    assert "| learning\\_rate | 0.001 |" in card
    assert "3 runs are done, 1 failed" in card
    assert f"| {Path(recipe['model_name_or_path']).name} |" in card.replace("\\_", "_")
    assert all(f"| mixture-{k:03d} |" in card for k in range(3))


def test_nothing_of_a_sweep_is_pushed_where_there_is_nothing(hub, tmp_path):
    with pytest.raises(InstructMineError, match="holds no finished run"):
        push_runs(tmp_path, "me/runs")
    assert hub.requests == []


def test_the_digest_of_an_evaluation_set_is_what_it_was_and_knows_reasoning_and_tools():
    def digest_of(**row):
        return describe_set(EvaluationSet.read("set", Dataset.from_list([row])))

    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]
    plain = digest_of(messages=talk)
    assert plain == digest_of(prompt="?", completion="Yes.") == "1 examples, 2c6542a3714dfb7a"
    thought = digest_of(messages=[talk[0], {**talk[1], "thinking": "Hm."}])
    assert len({plain, thought, digest_of(messages=talk, tools='[{"name": "f"}]')}) == 3
