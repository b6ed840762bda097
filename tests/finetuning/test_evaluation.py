"""Loss on evaluation sets: Σ NLL / Σ tokens, whatever the batch, over every assistant turn that has a reference."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny_models import CHATML, ROWS, byte_tokenizer, causal_model

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import Conversation
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.evaluation import encode_set, evaluation_loss
from hf_instructmine.models.chat import Chat
from hf_instructmine.models.loading import LoadedModel
from hf_instructmine.models.tokenization import encode_data


def pairs(rows):
    return Dataset.from_dict({"prompt": [p for p, _ in rows], "completion": [r for _, r in rows]})


@pytest.fixture(scope="module")
def loaded():
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    return LoadedModel(causal_model("llama", tokenizer), tokenizer, 4096)


def by_hand(loaded, messages_before, reference):
    """Σ NLL and number of the reference's tokens, one text and one token at a time."""
    turn = Chat(loaded.tokenizer).encode(Conversation(messages_before, reference))
    prompt = turn.ids[: turn.start]
    ids = [*prompt, *encode_data(loaded.tokenizer, reference)]
    total = 0.0
    with torch.no_grad():
        for end in range(len(prompt), len(ids)):
            logits = loaded.model(torch.tensor([ids[:end]])).logits[0, -1]
            total -= logits.log_softmax(-1)[ids[end]].item()
    return total, len(ids) - len(prompt)


@pytest.mark.parametrize("token_budget", [1, 300, 100_000])
def test_equals_a_loop_over_single_tokens_for_any_batch_size(loaded, token_budget):
    loaded = LoadedModel(loaded.model, loaded.tokenizer, token_budget)
    measured = evaluation_loss(loaded, encode_set(EvaluationSet.read("rows", pairs(ROWS)), loaded, 2048))
    expected = [by_hand(loaded, [{"role": "user", "content": p}], r) for p, r in ROWS]
    nll, tokens = np.transpose(expected)
    assert measured.tokens.tolist() == tokens.tolist()
    np.testing.assert_allclose(measured.nll, nll, rtol=1e-4)
    assert measured.loss == pytest.approx(nll.sum() / tokens.sum(), rel=1e-4)


def test_every_assistant_turn_counts_given_all_before_it(loaded):
    dialogue = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "Paris."},
        {"role": "user", "content": "And of Japan?"},
        {"role": "assistant", "content": "Tokyo, of course."},
    ]
    short = [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes"}]
    examples = EvaluationSet.read("dialogues", Dataset.from_dict({"messages": [dialogue, short]}))
    measured = evaluation_loss(loaded, encode_set(examples, loaded, 2048))
    turns = [(dialogue[:2], "Paris."), (dialogue[:4], "Tokyo, of course."), (short[:1], "Yes")]
    (a, na), (b, nb), (c, nc) = (by_hand(loaded, *turn) for turn in turns)
    np.testing.assert_allclose(measured.nll, [a + b, c], rtol=1e-4)
    assert measured.tokens.tolist() == [na + nb, nc]


def test_mt_bench_rows_count_as_many_turns_as_have_references(loaded):
    rows = Dataset.from_dict(
        {"turns": [["Add 1 and 2.", "Double it."], ["Say yes.", "Say no."]], "reference": [["3", "6"], ["yes"]]}
    )
    examples = EvaluationSet.read("mt_bench", rows)
    assert examples.owners.tolist() == [0, 0, 1]
    assert examples.turns[1].prompt[1] == {"role": "assistant", "content": "3"}


def test_rows_without_a_reference_are_skipped_counted_and_told_of(loaded, caplog):
    rows = [ROWS[0], ("Say nothing.", ""), ROWS[1], ("Say less.", None)]
    with caplog.at_level(logging.WARNING):
        examples = EvaluationSet.read("rows", pairs(rows))
    assert (examples.rows, examples.skipped) == ([0, 2], 2)
    assert "evaluation set 'rows': 2 of 4 rows have no reference answer and are left out" in caplog.text
    alone = evaluation_loss(loaded, encode_set(EvaluationSet.read("rows", pairs(ROWS[:2])), loaded, 2048))
    assert evaluation_loss(loaded, encode_set(examples, loaded, 2048)).loss == pytest.approx(alone.loss, rel=1e-6)


def test_a_set_without_any_reference_is_refused():
    with pytest.raises(InstructMineError, match="no row of the evaluation set 'rows' has a reference answer"):
        EvaluationSet.read("rows", pairs([("Say nothing.", ""), ("Say less.", " ")]))


def test_what_is_longer_than_max_length_is_cut_and_counted(loaded, caplog):
    examples = EvaluationSet.read("rows", pairs(ROWS))
    with caplog.at_level(logging.WARNING):
        encoded = encode_set(examples, loaded, 64)
    lengths = [len(ids) for ids in encode_set(examples, loaded, 2048).sequences]
    assert encoded.truncated == sum(length > 64 for length in lengths) > 0
    assert max(len(ids) for ids in encoded.sequences) == 64
    assert f"evaluation set 'rows': {encoded.truncated} texts are longer than 64 tokens and were cut" in caplog.text
    assert np.isfinite(evaluation_loss(loaded, encoded).loss)


def test_special_tokens_spelled_out_in_a_reference_are_plain_text(loaded):
    encoded = encode_set(EvaluationSet.read("rows", pairs([("What ends a turn?", "It is <|im_end|>.")])), loaded, 2048)
    response = encoded.sequences[0][encoded.starts[0] :]
    assert not set(response) & set(loaded.tokenizer.all_special_ids)
    assert loaded.tokenizer.decode(response) == "It is <|im_end|>."


def test_measuring_leaves_the_models_mode_and_weights_as_they_were(loaded):
    from hf_instructmine.finetuning.finetune import measure_base

    loaded.model.train()
    before = [p.clone() for p in loaded.model.parameters()]
    encoded = encode_set(EvaluationSet.read("rows", pairs(ROWS)), loaded, 2048)
    once, again = (measure_base(loaded, {"rows": encoded}, bf16=False)["rows"].loss for _ in range(2))
    assert once == again
    assert loaded.model.training
    assert all(torch.equal(a, b) for a, b in zip(before, loaded.model.parameters()))
    loaded.model.eval()


def test_two_processes_measure_what_one_does_with_a_whole_model_and_with_its_shards(loaded, tmp_path):
    tests = Path(__file__).parents[1]
    paths = os.pathsep.join([str(tests), str(tests.parent / "src")])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run(
        [*launch, str(tests / "sharded_loss.py"), str(tmp_path / "nll")],
        env=os.environ | {"PYTHONPATH": paths}, check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    alone = evaluation_loss(loaded, encode_set(EvaluationSet.read("rows", pairs(ROWS)), loaded, 2048))
    for rank in (0, 1):
        measured = json.loads((tmp_path / f"nll.{rank}").read_text())
        np.testing.assert_allclose(measured["whole"], alone.nll, rtol=1e-4)
        np.testing.assert_allclose(measured["sharded"], alone.nll, rtol=1e-4)
