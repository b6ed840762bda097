"""Losses on evaluation sets: by name, with references of one's own, in nats per token and bits per byte."""

import json
import math

import numpy as np
import pytest
from datasets import Dataset
from tiny_models import CHATML, byte_tokenizer, causal_model

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation import losses
from hf_instructmine.evaluation.losses import measure, open_sets, ratio
from hf_instructmine.models.loading import ModelSource


TURNS = [
    {"question_id": 1, "category": "maths", "turns": ["1 + 1?", "Twice that?"], "reference": ["2", "4"]},
    {"question_id": 2, "category": "roleplay", "turns": ["Be a cat.", "Now a dog."], "reference": None},
    {"question_id": 3, "category": "maths", "turns": ["2 + 2?", "Half?"], "reference": ["Vier — 4", "2"]},
]


@pytest.fixture(scope="module")
def loaded():
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    model = causal_model("llama", tokenizer)
    return ModelSource.of(model, tokenizer, "AutoModelForCausalLM", None)[1]


def test_both_turns_are_measured_and_questions_without_a_reference_left_out():
    held = open_sets({"mt_bench": TURNS})["mt_bench"]
    assert [turn.response for turn in held.examples.turns] == ["2", "4", "Vier — 4", "2"]
    assert [message["role"] for message in held.examples.turns[1].prompt] == ["user", "assistant", "user"]
    assert (held.examples.skipped, held.categories) == (1, ["maths", "maths"])


def test_references_by_question_id_in_any_order_and_of_fastchats_form():
    answers = [
        {"question_id": 3, "choices": [{"index": 0, "turns": ["four", "two"]}]},
        {"question_id": 2, "choices": [{"index": 0, "turns": ["Miaow.", "Woof."]}]},
    ]
    held = open_sets({"mt_bench": TURNS}, {"mt_bench": answers})["mt_bench"]
    assert [turn.response for turn in held.examples.turns] == ["Miaow.", "Woof.", "four", "two"]
    assert held.categories == ["roleplay", "maths"]


def test_references_from_a_file_by_row_and_from_a_column(tmp_path):
    rows = [{"instruction": "Say yes.", "input": "", "output": "Yes", "human": "Yes, of course."}] * 2
    (tmp_path / "answers.jsonl").write_text("\n".join(json.dumps({"answer": text}) for text in ("Aye", "Yea")))
    by_file = open_sets({"mine": rows}, {"mine": str(tmp_path / "answers.jsonl")})["mine"]
    by_column = open_sets({"mine": rows}, {"mine": "column:human"})["mine"]
    assert [turn.response for turn in by_file.examples.turns] == ["Aye", "Yea"]
    assert [turn.response for turn in by_column.examples.turns] == ["Yes, of course."] * 2


def test_references_for_questions_that_have_none():
    held = open_sets({"mine": [{"prompt": "a"}, {"prompt": "b"}]}, {"mine": [{"answer": "x"}, {"answer": "y"}]})[
        "mine"
    ]
    assert [turn.response for turn in held.examples.turns] == ["x", "y"]


@pytest.mark.parametrize(
    "references, told",
    [
        ({"other": []}, "references are given for 'other', which is none of mt_bench"),
        ({"mt_bench": "column:absent"}, "has no column 'absent'"),
        ({"mt_bench": [{"question_id": 9, "answer": "a"}]}, "answer question 9, which it does not have"),
        ({"mt_bench": [{"question_id": 1, "answer": "a"}] * 2}, "answer one twice"),
        ({"mt_bench": [{"answer": "a"}]}, "1 rows for 3 questions, and no id in common"),
        ({"mt_bench": [{"question_id": 1, "said": "a"}]}, "of which none holds answers"),
    ],
)
def test_references_that_do_not_fit_are_refused_in_one_line(references, told):
    with pytest.raises(InstructMineError) as error:
        open_sets({"mt_bench": TURNS}, references)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["mt_bench", "self_instruct"])
def test_without_a_network_a_set_by_name_is_refused_in_one_line(name):
    with pytest.raises(InstructMineError, match=f"'{name}' cannot be had from the Hub .*; give a file of it") as error:
        open_sets([name])
    assert "\n" not in str(error.value)


def test_the_hubs_rows_become_ours(monkeypatch):
    held = {
        "HuggingFaceH4/mt_bench_prompts": [
            {"prompt": ["a", "b"], "prompt_id": 7, "category": "maths", "reference": ["c", "d"]},
            {"prompt": ["a", "b"], "prompt_id": 8, "category": "writing", "reference": []},
        ],
        "yizhongw/self_instruct": [
            {"id": "task_0", "motivation_app": "M", "instruction": "i", "instances": {"input": [""], "output": ["o"]}}
        ],
    }
    monkeypatch.setattr("datasets.load_dataset", lambda path, **_: Dataset.from_list(held[path]))
    sets = open_sets(["mt_bench", "self_instruct"])
    assert [turn.response for turn in sets["mt_bench"].examples.turns] == ["c", "d"]
    assert sets["mt_bench"].examples.skipped == 1
    assert [turn.response for turn in sets["self_instruct"].examples.turns] == ["o"]


def test_nats_a_token_and_bits_a_byte(loaded):
    held = open_sets({"mt_bench": TURNS})["mt_bench"]
    record = measure(loaded, held, 2048)
    assert record["bytes"] == [2, 11]  # "2" + "4", and "Vier — 4" + "2", whose dash has three bytes
    nats, bits = ratio(record, "nats/token"), ratio(record, "bits/byte")
    assert nats.value == pytest.approx(sum(record["nll"]) / sum(record["tokens"]))
    assert bits.value == pytest.approx(sum(record["nll"]) / math.log(2) / 13)
    assert nats.scores.mean() == pytest.approx(nats.value)
    assert ratio(record, "nats/token", [1]).value == pytest.approx(record["nll"][1] / record["tokens"][1])


def test_a_response_that_is_cut_counts_the_bytes_that_are_left(loaded):
    rows = [{"prompt": "Count.", "completion": "1 2 3 4 5 6 7 8 9 " * 20}]
    whole, cut = (measure(loaded, open_sets({"mine": rows})["mine"], length) for length in (2048, 64))
    assert (whole["truncated"], cut["truncated"]) == (0, 1)
    assert whole["bytes"] == [len(rows[0]["completion"].encode())]
    assert cut["bytes"][0] < 100 < whole["bytes"][0]
    assert ratio(cut, "bits/byte").value == pytest.approx(ratio(whole, "bits/byte").value, rel=0.25)


def test_a_resample_of_the_scores_moves_as_the_ratio_does():
    rng = np.random.default_rng(0)
    record = {"nll": rng.gamma(2, 40, 500).tolist(), "tokens": rng.integers(10, 200, 500).tolist()}
    found = ratio(record, "nats/token")
    drawn = rng.integers(0, 500, (400, 500))
    exact = np.array(record["nll"])[drawn].sum(1) / np.array(record["tokens"])[drawn].sum(1)
    assert found.scores[drawn].mean(1).std() == pytest.approx(exact.std(), rel=0.05)


def test_the_real_sets_have_their_numbers(shared_data):
    sources = {"mt_bench": "mt_bench", "self_instruct": "self_instruct_252"}
    sets = open_sets([f"{name}={shared_data}/eval/{file}.jsonl" for name, file in sources.items()])
    assert {name: len(held.examples.rows) for name, held in sets.items()} == {"mt_bench": 40, "self_instruct": 252}
    assert len(sets["mt_bench"].examples.turns) == 75
    assert sets["mt_bench"].categories.count("math") == 10


def test_the_names_on_the_hub_are_told_where_a_set_has_no_source():
    with pytest.raises(InstructMineError, match="by name alone there are mt_bench and self_instruct"):
        open_sets(["mine"])
    assert set(losses.ON_HUB) == {"mt_bench", "self_instruct"}
