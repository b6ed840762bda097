"""The verbs that use a rule say what it is worth; where it says "do not", at once and on stderr, and they go on."""

import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from simulated_runs import simulated_runs

import hf_instructmine as him
from hf_instructmine.cli.main import main


DO_NOT = "The rule mine: Do not select by it: a random choice of the same size is as good a bet."
NOTHING = "The rule hand-set is hand-set: nothing is known of how well it predicts."
EARLIER = Path(__file__).parents[1] / "written_before"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A scored pool, a rule of pure noise, and one set by hand."""
    monkeypatch.chdir(tmp_path)
    rows = {"prompt": list("abcd"), "completion": list("efgh"), "mtld": [1.0, 2.0, 3.0, 4.0]}
    Dataset.from_dict(rows).to_parquet("pool.parquet")
    him.LossEstimator.fit(
        simulated_runs(n=40, seed=1, effect=0.0),
        indicators=["mtld"], select="none", name="mine", permutations=50, bootstraps=20,
    ).save_pretrained("worthless")  # fmt: skip
    him.LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained("by-hand")


def run(command: str, capsys) -> tuple[str, str]:
    """What the command prints, and says on stderr, each on one line."""
    assert main(command.split()) == 0
    said = capsys.readouterr()
    return " ".join(said.out.split()), " ".join(said.err.split())


def test_select_goes_on_with_a_rule_that_says_do_not_and_tells_it_on_both_streams(files, capsys):
    with pytest.warns(UserWarning, match="extrapolates"):
        out, err = run("select pool.parquet --rule worthless --size 2 --output-dir curated", capsys)
    assert f"warning: {DO_NOT}" in err and DO_NOT in out[:200]
    assert len(load_dataset("curated", split="train")) == 2
    assert f"> {DO_NOT}" in Path("curated/README.md").read_text("utf-8").split("\n## ")[0]


def test_select_by_a_hand_set_rule_says_that_nothing_is_known(files, capsys):
    out, err = run("select pool.parquet --rule by-hand --size 2 --output-dir curated", capsys)
    assert NOTHING in out and "warning" not in err


def test_push_says_it_before_it_pushes(files, capsys, hub):
    with pytest.warns(UserWarning, match="extrapolates"):
        run("select pool.parquet --rule worthless --size 2 --output-dir curated", capsys)
    out, err = run("push curated me/curated", capsys)
    assert out.startswith(DO_NOT) and "The selection lies beyond the runs" in out and f"warning: {DO_NOT}" in err
    assert out.endswith("Pushed curated: load_dataset('me/curated') opens it")


def test_push_of_what_an_earlier_version_saved_says_what_can_be_known(files, capsys, hub):
    shutil.copytree(EARLIER / "curated", "curated")
    out, err = run("push curated me/curated", capsys)
    assert "The rule by perplexity: " in out and "warning: 'curated' was saved by an earlier version" in err
    Path("curated/estimator.json").unlink()
    out, _ = run("push curated me/curated", capsys)
    assert out.startswith("Which rule chose these rows is not known: the folder holds none.")


def test_search_size_says_it_before_hours_of_finetunes_and_in_its_report(files, capsys, monkeypatch):
    monkeypatch.setattr(
        him, "search_size", lambda scored, **_: Dataset.from_parquet(str(EARLIER / "search/trials.parquet"))
    )
    Path("recipe.yaml").write_text("model_name_or_path: some/model\nuse_cpu: true\nbf16: false\n")
    Path("out").mkdir()
    training = "--recipe recipe.yaml --eval-set single=pool.parquet --min-size 1 --output-dir out"
    out, err = run(f"search-size pool.parquet --rule worthless {training}", capsys)
    assert f"warning: {DO_NOT}" in err and out.startswith(DO_NOT)
