"""The path without finetunes: what is scored for a rule or a strategy, and what is said of the choice."""

import json

import numpy as np
import pytest
import tiny_sweep
from datasets import Dataset
from test_mine import rows

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.cli.main import main
from hf_instructmine.mining.needs import needed


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_sweep.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pool() -> Dataset:
    return Dataset.from_list(rows(30))


def test_a_strategy_scores_its_column_alone_and_the_card_says_no_rule(pool, model, tmp_path):
    selection = him.mine(pool, model, size=6, output_dir=tmp_path / "all", strategy="longest")
    scored = him.score(pool, him.OutputLength(tokenizer=model))
    assert sorted(selection.dataset["output_length"]) == np.sort(scored["output_length"])[-6:].tolist()
    assert set(selection.dataset.column_names) == {"messages", "output_length"}
    assert "No rule" in str(him.Selection.load(tmp_path / "all" / "curated").card)
    assert (tmp_path / "all" / "report.html").is_file() and not (tmp_path / "all" / "sweep").exists()


def test_random_scores_nothing(pool, tmp_path):
    selection = him.mine(pool, size=6, output_dir=tmp_path / "all", strategy="random", seed=2)
    assert selection.num_selected == 6 and not (tmp_path / "all" / "scored").exists()


def test_a_rule_is_scored_by_what_its_provenance_names(pool, model, tmp_path):
    made = him.MTLD(threshold=0.5).provenance()
    rule = him.LossEstimator.from_coefficients({"mtld": -1.0}, provenance={"mtld": made})
    shown = []
    selection = him.mine(
        pool, size=5, output_dir=tmp_path / "all", rule=rule, confirm=lambda plan: shown.append(plan) or True,
        described={"license": "mit", "pretty_name": "Mine"},
    )  # fmt: skip
    expected = him.Selector(rule).select(him.score(pool, him.MTLD(threshold=0.5)), size=5)
    assert selection.dataset["mtld"] == expected.dataset["mtld"]
    assert "mtld; about" in str(shown[0]) and "Finetunes:  none" in str(shown[0])
    assert "nothing is known of how well it predicts" in str(selection.card) and selection.license == "mit"
    again = him.mine(pool, size=5, output_dir=tmp_path / "all", rule=rule)
    assert again.dataset.to_list() == selection.dataset.to_list()
    with pytest.raises(InstructMineError, match="holds another path"):
        him.mine(pool, size=6, output_dir=tmp_path / "all", rule=rule)


def test_what_a_rule_needs_is_grouped_by_what_makes_it(model):
    made = needed(
        ["nll", "perplexity", "output_length", "mtld", "pool_knn_3"], {}, [him.NeighborDistance("e", 3)], model
    )
    assert [indicator.names for indicator in made] == [
        ("knn_3",), ("perplexity", "nll"), ("output_length",), ("mtld",),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"rule": "instructmining-v1"},
            "makes output_length, knn_6 is not recorded: give --indicator NeighborDistance,model=MODEL and --model",
        ),
        ({"rule": "instructmining-v2"}, "cannot be scored"),
        ({"strategy": "longest"}, "give --model MODEL"),
        ({"strategy": "longest", "model": "no/such-model"}, "no/such-model"),
        ({"strategy": "longest", "rule": "instructmining-v2"}, "give one of them"),
        ({"strategy": "random", "size": "auto"}, "no size can be searched for"),
        ({"strategy": "random", "size": 31}, "size=31 is above the pool's 30 rows"),
        ({"strategy": "longst"}, "or write a strategy: random"),
        ({"strategy": "highest:mine"}, "no indicator of this package makes 'mine'"),
        ({}, "finetunes need a model and an evaluation set"),
        ({"strategy": "random", "described": {"source_license": ["web=mit"]}}, "the pool has no source 'web'"),
        ({"strategy": "random", "pool": Dataset.from_list([{"a": 1}] * 9)}, "no known layout"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_scored(pool, asked, told, tmp_path):
    with pytest.raises(InstructMineError, match=told) as error:
        him.mine(**{"pool": pool, "size": 5, "output_dir": tmp_path / "all", **asked})
    assert "\n" not in str(error.value) and not (tmp_path / "all").exists()


def test_columns_made_otherwise_are_refused_before_the_pool_is_scored(pool, model, tmp_path):
    rule = him.LossEstimator.from_coefficients(
        {"mtld": -1.0}, provenance={"mtld": him.MTLD(threshold=0.5).provenance()}
    )
    asked = {"pool": pool, "size": 5, "rule": rule, "indicators": [him.MTLD(threshold=0.6)]}
    with pytest.raises(InstructMineError, match="threshold"):
        him.mine(output_dir=tmp_path / "all", **asked)
    assert not (tmp_path / "all" / "scored").exists()
    assert him.mine(output_dir=tmp_path / "all", allow_mismatch=True, **asked).num_selected == 5


def test_the_command_line_and_its_yaml(pool, model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pool.jsonl").write_text("\n".join(map(json.dumps, rows(30))), encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(
        f"input: pool.jsonl\nmodel: {model}\nstrategy: longest\nsize: 4\noutput_dir: all\nlicense: mit\n"
    )
    assert main(["mine", "--config", "mine.yaml", "--dry-run"]) == 0
    assert "Finetunes:  none" in capsys.readouterr().out and not (tmp_path / "all").exists()
    assert main(["mine", "--config", "mine.yaml", "--yes"]) == 0
    out = capsys.readouterr().out
    assert "No rule: the rows are those of the highest output_length" in out and "instructmine compare" in out
    assert him.Selection.load("all/curated").license == "mit"
