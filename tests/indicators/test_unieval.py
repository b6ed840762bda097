"""A UniEval score is the share of Yes against No in the full softmax of the reference, for one text at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ROWS, conversations_of, save, t5_model, unigram_tokenizer
from transformers import T5Tokenizer

from hf_instructmine import InstructMineError, UniEval


DIMENSIONS = ("naturalness", "coherence", "understandability")
TOKENIZER = unigram_tokenizer()
ORDINARY = [row for row in ROWS if "</s>" not in row[1]]
MODELS = {"tied": t5_model(TOKENIZER, tied=True), "untied": t5_model(TOKENIZER, tied=False)}
MODEL = MODELS["untied"]


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def question(dimension, response, history):
    """The text that the reference gives its tokenizer."""
    if dimension == "coherence":
        asked = "question: Is this a coherent response given the dialogue history? </s> response: "
        return f"{asked}{response} </s> dialogue history: {history}"
    kind = {"naturalness": "a natural", "understandability": "an understandable"}[dimension]
    return f"question: Is this {kind} response in the dialogue? </s> response: {response}"


def reference_score(model, ids):
    """P(Yes) / (P(Yes) + P(No)) from two entries of a softmax over the whole vocabulary."""
    yes, no = (TOKENIZER(word)["input_ids"][0] for word in ("Yes", "No"))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), labels=torch.tensor([[no]])).logits[0, 0].double()
    probabilities = logits.softmax(-1)
    return (probabilities[yes] / (probabilities[yes] + probabilities[no])).item()


def score(model, rows, **options):
    return UniEval(model, TOKENIZER, **options)(conversations_of(rows))


def test_every_dimension_agrees_with_the_reference(model):
    expected = {
        d: [reference_score(model, TOKENIZER(question(d, r, f"{p}\n\n"))["input_ids"]) for p, r in ORDINARY]
        for d in DIMENSIONS
    }
    assert max(expected["coherence"]) - min(expected["coherence"]) > 0.05  # there is something to agree about
    for budget in (1, 200, 100_000):
        scores = score(model, ORDINARY, token_budget=budget)
        assert list(scores) == list(DIMENSIONS)
        for dimension in DIMENSIONS:
            assert scores[dimension] == pytest.approx(expected[dimension], rel=1e-4)


def test_a_folder_scores_as_the_model_that_was_saved_there(model, tmp_path):
    folder = save(tmp_path, model, TOKENIZER)
    assert UniEval(folder)(conversations_of(ORDINARY)) == score(model, ORDINARY)


def test_the_history_is_the_prompts_turns_each_on_its_line():
    seen = []
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a dog."},
        {"role": "assistant", "content": "Rex."},
        {"role": "user", "content": "And a cat?"},
        {"role": "assistant", "content": "Tom."},
    ]
    handle = MODEL.encoder.register_forward_pre_hook(
        lambda _module, _args, inputs: seen.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    UniEval(MODEL, TOKENIZER, dimensions=("coherence",))({"messages": [chat]})
    handle.remove()
    history = "Be brief.\nName a dog.\nRex.\nAnd a cat?\n\n"
    assert seen == [TOKENIZER(question("coherence", "Tom.", history))["input_ids"]]


def test_only_the_dimensions_asked_for_are_scored():
    everything = score(MODEL, ORDINARY)
    some = score(MODEL, ORDINARY, dimensions=("understandability", "coherence"))
    assert list(some) == ["understandability", "coherence"]
    for dimension, values in some.items():
        assert values == pytest.approx(everything[dimension], rel=1e-5)
    assert list(score(MODEL, ORDINARY, dimensions="coherence")) == ["coherence"]


@pytest.mark.parametrize("dimensions", [("engagingness",), (), ("coherence", "coherence")])
def test_an_unknown_dimension_is_refused_naming_the_known(dimensions):
    with pytest.raises(InstructMineError, match="choose some of 'naturalness', 'coherence', 'understandability'"):
        UniEval("never/loaded", dimensions=dimensions)


@pytest.mark.parametrize("text", ["a </s> b", "</s></s>", "full-width ＜/s＞", "<pad> <unk> {} {0}"])
def test_the_encoder_sees_the_templates_end_tokens_and_no_others(text):
    seen = []
    handle = MODEL.encoder.register_forward_pre_hook(
        lambda _module, _args, inputs: seen.append(inputs["input_ids"][0].tolist()), with_kwargs=True
    )
    score(MODEL, [(text, text)], token_budget=1)
    handle.remove()
    assert sorted(ids.count(TOKENIZER.eos_token_id) for ids in seen) == [2, 2, 3]
    assert all(TOKENIZER.pad_token_id not in ids for ids in seen)


def words(text):
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def coherence_ids(response, history):
    """The question with a response and a history that are given as ids."""
    head = words("question: Is this a coherent response given the dialogue history? </s> response:")
    return [*head, *response, *words("</s> dialogue history:"), *history, TOKENIZER.eos_token_id]


@pytest.mark.parametrize(
    ("prompt_words", "response_words", "note"),
    [(5, 400, "truncated response"), (400, 5, "truncated prompt"), (400, 400, "truncated response")],
)
def test_a_long_response_leaves_the_history_its_half(prompt_words, response_words, note):
    history, response = "dog " * prompt_words, "cat " * response_words
    room = 200 - len(coherence_ids([], []))
    if note == "truncated prompt":
        kept = coherence_ids(words(response), words(history)[: room - len(words(response))])
    else:
        kept_response = words(response)[: max(room - len(words(history)), room // 2)]
        kept = coherence_ids(kept_response, words(history)[: room - len(kept_response)])
    assert len(kept) == 200
    indicator = UniEval(MODEL, TOKENIZER, dimensions=("coherence",), max_length=200)
    scores = indicator(conversations_of([(history, response)]))["coherence"]
    assert scores == pytest.approx([reference_score(MODEL, kept)], rel=1e-4)
    assert indicator.notes == {note: 1}


def test_a_response_of_200_000_characters_is_cut_where_the_reference_cuts_it():
    long = ("the dog and the cat " * 10_000)[:200_000]
    indicator = UniEval(MODEL, TOKENIZER, dimensions=("naturalness",))
    scores = indicator(conversations_of([("Count.", long)]))["naturalness"]
    cut = TOKENIZER(question("naturalness", long, ""), max_length=1024, truncation=True)["input_ids"]
    assert scores == pytest.approx([reference_score(MODEL, cut)], rel=1e-4)
    assert indicator.notes == {"truncated response": 1}


def test_a_length_without_room_for_the_question_is_refused():
    with pytest.raises(InstructMineError, match="max_length=20 is too small: the question takes"):
        score(MODEL, [("Count.", "1 2 3 " * 20)], max_length=20)


def test_rows_without_a_response_are_nan_and_counted():
    indicator = UniEval(MODEL, TOKENIZER)
    values = indicator(conversations_of([("Say yes.", "Yes"), ("Say nothing.", " "), ("Say it.", None)]))
    for column in values.values():
        assert [math.isnan(value) for value in column] == [False, True, True]
    assert indicator.notes == {"empty response": 1, "missing response": 1}


def test_text_that_the_tokenizer_does_not_know_still_has_a_score():
    for column in score(MODEL, [("日本", "東京"), ("🙂", "\u200b\u200b")]).values():
        assert all(0 <= value <= 1 for value in column)


def test_all_turns_are_averaged_by_their_tokens():
    chat = [
        {"role": "user", "content": "What is the cat"},
        {"role": "assistant", "content": "the capital of the dog"},
        {"role": "user", "content": "story"},
        {"role": "assistant", "content": "street"},
    ]
    pairs = [(chat[0]["content"], chat[1]["content"]), (chat[2]["content"], chat[3]["content"])]
    one, two = score(MODEL, pairs)["naturalness"]
    n, m = (len(words(response)) for _, response in pairs)
    (mean,) = UniEval(MODEL, TOKENIZER, turns="all")({"messages": [chat]})["naturalness"]
    assert mean == pytest.approx((n * one + m * two) / (n + m), rel=1e-5)


_ROW = st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=40).filter(str.strip))


@given(st.lists(_ROW, min_size=2, max_size=6), st.randoms(use_true_random=False), st.integers(1, 600))
@settings(deadline=None, max_examples=15)
def test_order_and_batch_size_do_not_change_a_score(rows, random, budget):
    together = score(MODEL, rows, token_budget=100_000)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = score(MODEL, [rows[i] for i in order], token_budget=budget)
    for dimension in DIMENSIONS:
        assert shuffled[dimension] == pytest.approx([together[dimension][i] for i in order], rel=1e-4)


def test_running_out_of_memory_changes_no_score():
    model = t5_model(TOKENIZER, tied=True)
    expected = score(model, ORDINARY)

    def run_out(_module, _args, inputs):
        if inputs["input_ids"].numel() > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.encoder.register_forward_pre_hook(run_out, with_kwargs=True)
    indicator = UniEval(model, TOKENIZER, token_budget=100_000)
    for dimension, values in indicator(conversations_of(ORDINARY)).items():
        assert values == pytest.approx(expected[dimension], rel=1e-5)
    assert indicator.load().token_budget <= 400


def test_a_failed_batch_leaves_the_models_head_as_it_was():
    model = t5_model(TOKENIZER, tied=True)
    before = reference_score(model, [5, 6, 7, 1])
    handle = model.decoder.register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        score(model, ORDINARY)
    handle.remove()
    assert reference_score(model, [5, 6, 7, 1]) == before


def _fail(*_):
    raise RuntimeError("CUDA error: device-side assert triggered")


@pytest.mark.filterwarnings("ignore")  # PEFT warns of the merge, which is what this test compares with
def test_an_adapted_head_is_used_as_it_is():
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=64, target_modules=["lm_head", "q"], init_lora_weights=False)
    adapter = get_peft_model(t5_model(TOKENIZER, tied=False), config).eval()
    passed = score(adapter, ORDINARY)
    merged = score(adapter.merge_and_unload(), ORDINARY)
    for dimension in DIMENSIONS:
        assert passed[dimension] == pytest.approx(merged[dimension], rel=1e-3)


def test_a_tokenizer_that_does_not_know_yes_is_refused():
    pieces = [(piece, value) for piece, value in TOKENIZER._vocab_scores if piece not in ("▁Yes", "▁No")]
    blind = T5Tokenizer(vocab=pieces, extra_ids=0)
    assert blind.tokenize("Yes")[0] == blind.tokenize("No")[0] == "▁"
    with pytest.raises(InstructMineError, match="does not tell Yes from No by their first token"):
        UniEval(MODEL, blind)(conversations_of(ORDINARY))


def test_provenance_is_the_same_whichever_dimensions_were_scored_together():
    alone = UniEval(MODEL, TOKENIZER, dimensions=("coherence",)).provenance()
    assert alone == UniEval(MODEL, TOKENIZER).provenance()
    assert (alone["indicator"], alone["max_length"]) == ("UniEval", 1024)


def test_reasoning_is_part_of_the_response():
    def batch(**message):
        talk = [{"role": "user", "content": "Say yes."}, {"role": "assistant", **message}]
        return {"messages": [talk]}

    apart = UniEval(MODEL, TOKENIZER)(batch(content="Yes", thinking="Sleep well."))
    together = UniEval(MODEL, TOKENIZER)(batch(content="Sleep well.\n\nYes"))
    assert apart == together != UniEval(MODEL, TOKENIZER)(batch(content="Yes"))


def test_an_answer_that_is_not_a_number_is_noted(monkeypatch):
    from hf_instructmine.indicators import unieval

    monkeypatch.setattr(unieval, "yes_probabilities", lambda loaded, sequences: [float("nan")] * len(sequences))
    values, notes = UniEval(MODEL, TOKENIZER).annotate(conversations_of([("Say yes.", "Yes"), ("Say yes.", "")]))
    assert all(math.isnan(x) for column in values.values() for x in column)
    assert notes == ["the model's answer is not a number", "empty response"]
