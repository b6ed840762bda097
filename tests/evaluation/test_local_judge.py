"""A local model as a judge: by the probabilities of its verdicts, and by what it writes."""

import math

import pytest
import torch
from tiny_models import CHATML, byte_tokenizer, causal_model, save

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.generation import Answer, Generator
from hf_instructmine.evaluation.local_judge import LocalJudge, _conversation
from hf_instructmine.evaluation.prompts import ask_pair, ask_single
from hf_instructmine.evaluation.questions import read_questions
from hf_instructmine.models.chat import Chat


(QUESTION,) = read_questions([{"prompt": "Name a colour."}])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    tokenizer = byte_tokenizer(chat_template=CHATML)
    return save(tmp_path_factory.mktemp("judge"), causal_model("llama", tokenizer), tokenizer)


def pair(form="letter", **options):
    return ask_pair(QUESTION, ["Red."], ["Blue or red."], form=form, seed=0, **options)


@pytest.mark.parametrize("ties", [True, False])
def test_the_likeliest_verdict_is_that_of_the_logits(tiny, ties):
    judge = LocalJudge(tiny)
    inquiry = pair(ties=ties)
    ((_, verdict),) = judge.verdicts([inquiry])
    loaded = judge._model()
    ids = Chat(loaded.tokenizer).encode_prompt(_conversation(inquiry))
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([ids])).logits[0, -1]
    tokens = [loaded.tokenizer.convert_tokens_to_ids(letter) for letter in inquiry.choices]
    shares = logits[tokens].softmax(0)
    assert verdict.value == list(inquiry.choices.values())[int(shares.argmax())]
    assert verdict.share == pytest.approx(float(shares.max()), abs=1e-4)


def test_a_rating_is_the_likeliest_of_ten(tiny):
    ((_, verdict),) = LocalJudge(tiny).verdicts([ask_single(QUESTION, ["Red."], form="letter", seed=0)])
    assert verdict.value in range(1, 11) and 0.1 <= verdict.share <= 1


def test_what_it_writes_is_read_strictly_and_asked_once_more(tiny, monkeypatch):
    written = iter(['{"verdict": "B"}', "A, I think.", "Hm.", '{"verdict": "tie"}', "Hm."])
    monkeypatch.setattr(Generator, "answer", lambda self, prompts, keys: [Answer(next(written)) for _ in prompts])
    found = dict(LocalJudge(tiny, by="text", batch_size=1).verdicts([pair("json")] * 3))
    told = [(found[i].value, found[i].problem, found[i].asked) for i in range(3)]
    assert told == [(0.0, None, 1), (0.5, None, 2), (None, "malformed", 2)]


def test_a_random_model_writes_no_verdict(tiny):
    judge = LocalJudge(tiny, by="text")
    judge.decoding = type(judge.decoding)(8)
    ((_, verdict),) = judge.verdicts([pair("json")])
    assert verdict.value is None and verdict.problem in ("cut", "malformed") and verdict.asked == 2


def test_what_can_be_no_judge_is_refused(tmp_path, tiny):
    tokenizer = byte_tokenizer()
    plain = save(tmp_path / "plain", causal_model("llama", tokenizer), tokenizer)
    with pytest.raises(InstructMineError, match="has no chat template"):
        LocalJudge(plain).check()
    with pytest.raises(InstructMineError, match="judge_by must be"):
        LocalJudge(tiny, by="feeling")


def test_a_text_beyond_the_models_positions_is_too_long(tmp_path):
    tokenizer = byte_tokenizer(chat_template=CHATML)
    judge = LocalJudge(save(tmp_path / "short", causal_model("gpt2", tokenizer), tokenizer))  # 128 positions
    ((_, verdict),) = judge.verdicts([pair()])
    assert (verdict.value, verdict.problem) == (None, "too long")


def test_models_are_judged_by_a_local_model_and_the_answers_are_kept(tiny, tmp_path, answer_file):
    models = {"base": answer_file("base", "Red.", "Two."), "rule": answer_file("rule", "Blue.", "Four.")}
    prompts = [{"prompt": "Name a colour."}, {"prompt": "Add 2 and 2."}]
    found = him.judge(models, prompts, tiny, tmp_path / "out")
    assert found.preferences["rule"].pairs == 2 and found.usage is None
    again = him.judge(models, prompts, tiny, tmp_path / "out")
    assert again.to_dict() == found.to_dict()
    assert math.isfinite(again.preferences["rule"].win_rate.value)
