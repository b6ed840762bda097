"""`instructmine sweep`: from a scored pool to recorded runs, once."""

import gc
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_sweep
import yaml
from datasets import load_dataset
from tiny_sweep import LAST_LAYERS, RECIPE

from hf_instructmine import get_provenance, load_runs
from hf_instructmine.cli.main import main
from hf_instructmine.data.provenance import set_provenance
from hf_instructmine.outputs.records import Records
from hf_instructmine.sweep.manifest import DESIGN, MIXTURES, recipe_of


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A scored pool, an evaluation set and a recipe."""
    gc.freeze()
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    pool = tiny_sweep.pool().add_column("mtld", rng.uniform(10, 90, 24))
    set_provenance(pool, {"mtld": {"indicator": "MTLD", "threshold": 0.72}}).to_parquet(folder / "pool.parquet")
    tiny_sweep.evaluation_sets()["single"].to_json(folder / "single.jsonl")
    model = tiny_sweep.save_model(folder / "model")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **LAST_LAYERS, "model_name_or_path": model}))
    return folder


def sweep(files: Path, output_dir: Path, *more: str) -> int:
    given = [files / "pool.parquet", "--recipe", files / "recipe.yaml", "--eval-set", f"single={files}/single.jsonl"]
    size = ["--num-runs", "4", "--replicates", "1", "--subset-size", "6", "--output-dir", output_dir]
    return main([str(argument) for argument in ["sweep", *given, *size, *more]])


def test_a_sweep_from_the_command_line(files, tmp_path, capsys, trained, hub):
    assert sweep(files, tmp_path / "sweep") == 0
    out = capsys.readouterr().out
    assert out.startswith("4 mixtures and 1 replicate of 6 rows, from 24 rows")
    assert "warning:" in out  # four runs tell little, and the design says so
    assert "5 of 5 runs done, 0 failed, 0 running, 0 to do" in out
    assert f"Next: instructmine fit {tmp_path / 'sweep'}" in out
    runs = load_runs(tmp_path / "sweep")
    assert get_provenance(runs) == {"mtld": {"indicator": "MTLD", "threshold": 0.72}}
    assert len(set(runs["mixture_id"])) == 4 and len(trained) == 5

    assert main(["sweep", "--status", str(tmp_path / "sweep")]) == 0
    assert capsys.readouterr().out.startswith("5 of 5 runs done")

    # Again: the same design, which is not told again, and nothing to train. Another one is refused.
    trained.clear()
    Records(tmp_path / "sweep").path_of("mixture-002-seed2").unlink()
    assert sweep(files, tmp_path / "sweep") == 0
    assert "mixtures and" not in capsys.readouterr().out
    assert trained == ["mixture-002-seed2"]
    assert sweep(files, tmp_path / "sweep", "--seed", "3", "--method", "tilted") == 1
    err = capsys.readouterr().err
    assert "holds a sweep of another design (method: d-optimal → tilted; seed: 0 → 3): choose another" in err

    assert main(["push", str(tmp_path / "sweep"), "me/runs"]) == 0
    assert load_dataset("me/runs", split="train")["mixture_id"][:] == runs["mixture_id"][:]


def test_a_design_that_was_left_half_written_is_made_again(files, tmp_path, trained):
    folder = tmp_path / "sweep"
    folder.mkdir()
    (folder / MIXTURES).write_bytes(b"PAR1 whole, but of a design that was not noted down")
    (folder / f".{DESIGN}.4711").write_text("{")
    assert sweep(files, folder) == 0
    assert len(trained) == 5


def test_options_may_stand_in_a_file(files, tmp_path, trained):
    options = {
        "input": str(files / "pool.parquet"), "recipe": str(files / "recipe.yaml"), "num-runs": 2, "replicates": 0,
        "subset_size": 5, "eval_set": [f"single={files}/single.jsonl"], "output_dir": str(tmp_path / "sweep"),
        "method": "dirichlet",
    }  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(options))
    assert main(["sweep", "--config", str(tmp_path / "sweep.yaml")]) == 0
    assert trained == ["mixture-000-seed0", "mixture-001-seed1"]


def test_the_design_is_for_the_sources_and_indicators_asked_for(files, tmp_path, trained):
    asked = ["--indicators", "mtld", "--num-candidates", "50"]
    assert sweep(files, tmp_path / "sweep", "--sources", "a", *asked) == 0
    request = Records(tmp_path / "sweep").read(tmp_path / "sweep" / DESIGN)["request"]
    assert (request["sources"], request["indicators"], request["num_candidates"]) == (["a"], ["mtld"], 50)
    assert all(row["a"] == 1 for row in load_runs(tmp_path / "sweep")["proportions"])
    assert sweep(files, tmp_path / "sweep", *asked) == 1  # a sweep of another design


def test_a_dry_run_shows_the_design_and_what_it_takes_and_writes_nothing(files, tmp_path, capsys, trained):
    folder = tmp_path / "sweep"
    assert sweep(files, folder, "--dry-run", "--set", "budget=steps", "max_steps=3") == 0
    out = capsys.readouterr().out
    assert out.startswith("4 mixtures and 1 replicate of 6 rows, from 24 rows")
    told = r"Would train 5 finetunes on 6 rows each, of 3 steps each; about \d+ s one after another on this machine"
    assert re.search(told, out) and "Nothing was written." in out
    assert not folder.exists() and trained == ["timed-0-seed0", "timed-1-seed1"]


def test_a_dry_run_looks_at_the_design_that_is_there(files, tmp_path, capsys, trained):
    assert sweep(files, tmp_path / "sweep") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")}
    capsys.readouterr()
    assert sweep(files, tmp_path / "sweep", "--dry-run") == 0
    assert f"The design is that of {tmp_path / 'sweep'}" in capsys.readouterr().out
    assert sweep(files, tmp_path / "sweep", "--dry-run", "--num-runs", "3") == 1
    assert "--num-runs: 4 → 3): choose another --output-dir, undo the change, or delete" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")} == before


def test_what_is_set_wins_over_the_recipe_and_is_a_part_of_it(files, tmp_path, capsys, trained):
    assert sweep(files, tmp_path / "sweep", "--set", "learning_rate=3e-3", "budget=steps", "max_steps=2") == 0
    kept = recipe_of(Records(tmp_path / "sweep").read(tmp_path / "sweep/sweep.json"))
    assert (kept.settings["learning_rate"], kept.settings["max_steps"]) == (3e-3, 2)
    assert set(load_runs(tmp_path / "sweep")["steps"]) == {2}
    capsys.readouterr()
    assert sweep(files, tmp_path / "sweep") == 1  # another recipe
    assert "recipe (budget: 'steps' → None)" in capsys.readouterr().err
    assert sweep(files, tmp_path / "other", "--set", "learning_rat=1") == 1
    err = capsys.readouterr().err
    assert "the recipe has the unknown option 'learning_rat': did you mean 'learning_rate'?" in err


def test_what_is_wrong_is_one_line_and_leaves_no_folder(files, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", str(files / "pool.parquet")])
    assert stopped.value.code == 2
    assert "recipe is missing (here or in --config)" in capsys.readouterr().err
    for more, told in (
        (["--recipe", str(tmp_path / "none.yaml")], "cannot read the recipe"),
        (["--eval-set", "single"], "is not of the form name=file-or-id"),
        (["--subset-size", "99"], "99"),
        (["--method", "dirichle"], "--method dirichle is unknown: did you mean 'dirichlet'? known are dirichlet, "),
        (["--executor", "loca"], "executor must be one of inline, "),
        (["--set", "max_steps"], "--set 'max_steps' is not of the form KEY=VALUE"),
    ):
        assert sweep(files, tmp_path / "sweep", *more) == 1
        err = capsys.readouterr().err
        assert told in err and err.startswith("instructmine sweep: ") and err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_of_failures_alone_ends_with_1(files, tmp_path):
    wild = yaml.safe_load((files / "recipe.yaml").read_text()) | {"learning_rate": 1e30, "max_grad_norm": 0.0}
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump(wild))
    assert sweep(files, tmp_path / "sweep", "--recipe", str(tmp_path / "wild.yaml")) == 1
    assert set(load_runs(tmp_path / "sweep")["status"]) == {"failed"}
