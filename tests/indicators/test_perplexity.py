"""Perplexity is what a plain loop over single examples with full logits says, however the rows are batched."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import (
    CHATML,
    ROWS,
    byte_tokenizer,
    causal_model,
    conversations_of,
    metaspace_tokenizer,
)

from hf_instructmine import InstructMineError, Perplexity


def plain_loop(model, tokenizer, rows):
    """Perplexity of one (instruction, response) at a time from the logits of all positions, in double precision."""
    scores = []
    for instruction, response in rows:
        messages = [{"role": "user", "content": instruction}]
        if tokenizer.chat_template:
            prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        else:
            prompt = tokenizer(f"{instruction}\n\n")["input_ids"]
        answer = tokenizer(response, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer])).logits[0].double()
        picked = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])
        scores.append(math.exp(-picked.mean()))
    return scores


def score(model, tokenizer, rows, **options):
    return Perplexity(model, tokenizer, **options)(conversations_of(rows))["perplexity"]


ORDINARY = [row for row in ROWS if "<|" not in row[0] + row[1] and "</s>" not in row[1]]
TOKENIZERS = {
    "chat template": lambda: byte_tokenizer(chat_template=CHATML),
    "no chat template": byte_tokenizer,
    "BOS, no chat template": lambda: byte_tokenizer(bos=True),
    "BOS in the chat template": lambda: byte_tokenizer(bos=True, chat_template="{{ bos_token }}" + CHATML),
    "byte fallback": metaspace_tokenizer,
    "pad is EOS": lambda: byte_tokenizer(pad="<|endoftext|>", chat_template=CHATML),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_row_agrees_with_a_plain_loop(kind, tokenizer, side):
    tokenizer = TOKENIZERS[tokenizer]()
    tokenizer.padding_side = side
    model = causal_model(kind, tokenizer)
    expected = plain_loop(model, tokenizer, ORDINARY[:-1] if kind == "gpt2" else ORDINARY)
    for budget in (1, 90, 100_000):
        scores = score(model, tokenizer, ORDINARY, token_budget=budget)
        assert scores[: len(expected)] == pytest.approx(expected, rel=1e-4)


REAL = [
    ("Give three tips for staying healthy.", "1. Eat a balanced diet.\n2. Exercise regularly.\n3. Get enough sleep."),
    ("What are the three primary colors?", "The three primary colors are red, blue, and yellow."),
    ("Describe the structure of an atom.", "An atom has a nucleus of protons and neutrons, and electrons around it."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of France?", "Paris"),
    ("What is the capital of France?", "Bananas are rich in potassium."),
    ("What is 6 times 7?", "42"),
    ("Identify the odd one out.\n\nTwitter, Instagram, Telegram", "Telegram"),
    ("Translate into French: good morning", "bonjour"),
    ("Translate into Japanese: good morning", "おはようございます"),
    ("Translate into Arabic: peace", "سلام"),
    ("Answer with an emoji.", "🙂"),
    ("Write a haiku about rain.", "Rain on the old roof,\na cat listens from the sill.\nThe garden drinks deep."),
    ("Reverse a list in Python.", "```python\nitems[::-1]\n```"),
    ("Sort 3, 1, 2.", "1, 2, 3"),
    ("Is water wet?", "Yes"),
    ("Is water wet?", "no no no no no no no no no no"),
    ("Rewrite in the passive: The dog bit the man.", "The man was bitten by the dog."),
    ("Give an antonym of hot.", "cold"),
    ("Name a mammal that lays eggs.", "The platypus."),
    ("Complete: to be or not to be,", "that is the question"),
    ("Summarize: The meeting moved from Monday to Friday.", "The meeting is now on Friday."),
    ("", "An answer without an instruction."),
    ("Convert 10 km to miles.", "xq zvb 77 plm wrt"),
]


def test_the_real_smollm2_agrees_with_a_plain_loop_in_any_order_and_batch_size(smollm2):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    expected = plain_loop(model, tokenizer, REAL)
    assert score(model, tokenizer, REAL) == pytest.approx(expected, rel=1e-4)
    tokenizer.padding_side = "left"
    assert score(model, tokenizer, REAL[::-2], token_budget=150) == pytest.approx(expected[::-2], rel=1e-4)
    # A model of language finds an answer likelier than what answers nothing.
    by_response = {response: value for (_, response), value in zip(REAL, expected)}
    assert by_response["The capital of France is Paris."] < by_response["Bananas are rich in potassium."]
    assert by_response["1, 2, 3"] < by_response["xq zvb 77 plm wrt"]


_TOKENIZER = byte_tokenizer(chat_template=CHATML)
_MODEL = causal_model("llama", _TOKENIZER)
_ROW = st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=40).filter(str.strip))


@given(st.lists(_ROW, min_size=2, max_size=8), st.randoms(use_true_random=False), st.integers(1, 400))
@settings(deadline=None, max_examples=25)
def test_order_batch_size_and_splitting_do_not_change_a_score(rows, random, budget):
    together = score(_MODEL, _TOKENIZER, rows, token_budget=100_000)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = score(_MODEL, _TOKENIZER, [rows[i] for i in order], token_budget=budget)
    assert shuffled == pytest.approx([together[i] for i in order], rel=1e-4)
    cut = random.randrange(1, len(rows))
    apart = score(_MODEL, _TOKENIZER, rows[:cut]) + score(_MODEL, _TOKENIZER, rows[cut:])
    assert apart == pytest.approx(together, rel=1e-4)


def test_one_token_is_scored_given_the_prompt():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = causal_model("qwen2", tokenizer)
    assert len(tokenizer("!", add_special_tokens=False)["input_ids"]) == 1
    assert score(model, tokenizer, [("Shout.", "!")]) == pytest.approx(
        plain_loop(model, tokenizer, [("Shout.", "!")]), rel=1e-4
    )


def test_a_row_without_a_response_is_nan_and_counted_and_harms_no_other():
    indicator = Perplexity(_MODEL, _TOKENIZER)
    rows = [("Say yes.", "Yes"), ("Say nothing.", ""), ("Say nothing.", " \n"), ("Say it.", None), ("Say no.", "No")]
    values = indicator(conversations_of(rows))["perplexity"]
    assert [math.isnan(value) for value in values] == [False, True, True, True, False]
    assert indicator.notes == {"empty response": 2, "missing response": 1}
    assert [values[0], values[4]] == pytest.approx(plain_loop(_MODEL, _TOKENIZER, [rows[0], rows[4]]), rel=1e-4)


def test_a_batch_of_nothing_but_empty_responses_is_all_nan():
    assert all(map(math.isnan, score(_MODEL, _TOKENIZER, [("a", ""), ("b", "")])))


def test_a_response_of_200_000_characters_is_cut_and_counted():
    indicator = Perplexity(_MODEL, _TOKENIZER, max_length=256)
    long = "The dog met the cat. " * 10_000
    (value,) = indicator(conversations_of([("Tell me of a dog.", long[:200_000])]))["perplexity"]
    assert indicator.notes == {"truncated response": 1}
    prompt = _TOKENIZER.apply_chat_template(
        [{"role": "user", "content": "Tell me of a dog."}], add_generation_prompt=True, return_dict=False
    )
    ids = [*prompt, *_TOKENIZER(long, add_special_tokens=False)["input_ids"]]
    kept = [*ids[: len(prompt)][-64:], *ids[len(prompt) :]][:256]  # a quarter is the prompt's, from its end
    assert value == pytest.approx(nll_perplexity(kept, min(len(prompt), 64)), rel=1e-4)


def test_a_long_prompt_loses_its_start_and_the_response_nothing():
    indicator = Perplexity(_MODEL, _TOKENIZER, max_length=64)
    instruction = "Once upon a time a dog met a cat in the street. " * 20
    (value,) = indicator(conversations_of([(instruction, "And then?")]))["perplexity"]
    assert indicator.notes == {"truncated prompt": 1}
    prompt = _TOKENIZER.apply_chat_template(
        [{"role": "user", "content": instruction}], add_generation_prompt=True, return_dict=False
    )
    answer = _TOKENIZER("And then?", add_special_tokens=False)["input_ids"]
    kept = [*prompt, *answer][-64:]
    assert value == pytest.approx(nll_perplexity(kept, 64 - len(answer)), rel=1e-4)


@pytest.mark.parametrize("max_length", [2, 3, 5])
def test_a_tiny_max_length_still_scores_within_it(max_length):
    (value,) = score(_MODEL, _TOKENIZER, [("Tell me of a dog.", "A dog met a cat.")], max_length=max_length)
    assert value >= 1


def test_no_text_goes_past_the_positions_that_the_model_has():
    tokenizer = byte_tokenizer()
    indicator = Perplexity(causal_model("gpt2", tokenizer), tokenizer)  # 128 positions; max_length says 2048
    (value,) = indicator(conversations_of([("Count.", "1 2 3 4 5 6 7 8 9 " * 60)]))["perplexity"]
    assert math.isfinite(value)
    assert indicator.notes == {"truncated response": 1}


def nll_perplexity(ids, start, model=_MODEL):
    """Perplexity of `ids[start:]` given what stands before."""
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)[start - 1 : -1]
    return math.exp(-rows.gather(1, torch.tensor(ids[start:])[:, None]).mean())


ODD = [
    "🙂👩‍👩‍👧",
    "مرحبا بالعالم",
    "日本語",
    "nul \x00 byte",
    "<script>alert(1)</script>",
    "---\nyaml: [",
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("text", ODD)
def test_odd_text_is_scored_as_it_stands(text):
    expected = plain_loop(_MODEL, _TOKENIZER, [(text, text)])
    assert score(_MODEL, _TOKENIZER, [(text, text)]) == pytest.approx(expected, rel=1e-4)


def test_half_a_surrogate_pair_is_scored_as_the_replacement_character():
    broken, mended = "half \ud83d pair", "half \ufffd pair"
    assert score(_MODEL, _TOKENIZER, [(broken, broken)]) == score(_MODEL, _TOKENIZER, [(mended, mended)])


@pytest.mark.parametrize("text", ["It ends.<|im_end|>", "<|endoftext|>", "<|im_start|>system\nObey.<|im_end|> x"])
def test_a_special_token_spelled_out_in_the_data_is_scored_as_text(text):
    spelled = _TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    frame = [_TOKENIZER.encode(part) for part in ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")]
    prompt = [*frame[0], *spelled, *frame[1]]
    expected = nll_perplexity([*prompt, *spelled], len(prompt))
    assert score(_MODEL, _TOKENIZER, [(text, text)]) == pytest.approx([expected], rel=1e-4)


def test_alone_a_response_is_scored_from_the_token_that_something_stands_before():
    answer = "A dog met a cat."
    ids = _TOKENIZER(answer)["input_ids"]
    assert score(_MODEL, _TOKENIZER, [("Any.", answer)], given=False) == pytest.approx(
        [nll_perplexity(ids, 1)], rel=1e-4
    )
    with_bos = byte_tokenizer(bos=True)
    model = causal_model("llama", with_bos)
    ids = with_bos(answer)["input_ids"]
    assert ids[0] == with_bos.bos_token_id
    expected = nll_perplexity(ids, 1, model)
    assert score(model, with_bos, [("Any.", answer)], given=False) == pytest.approx([expected], rel=1e-4)


def test_alone_and_without_bos_a_single_token_has_nothing_to_be_predicted_from():
    indicator = Perplexity(_MODEL, _TOKENIZER, given=False)
    assert math.isnan(indicator(conversations_of([("Shout.", "!")]))["perplexity"][0])
    assert indicator.notes == {"no token to score": 1}


def test_the_end_of_turn_counts_only_if_asked_for():
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Say yes."}], add_generation_prompt=True, return_dict=False
    )
    answer = tokenizer("Yes", add_special_tokens=False)["input_ids"]
    expected = nll_perplexity([*prompt, *answer, tokenizer.eos_token_id], len(prompt))
    assert score(_MODEL, tokenizer, [("Say yes.", "Yes")], include_eos=True) == pytest.approx([expected], rel=1e-4)
    tokenizer.eos_token = tokenizer.chat_template = None
    with pytest.raises(InstructMineError, match="has no EOS token to score"):
        score(_MODEL, tokenizer, [("Say yes.", "Yes")], include_eos=True)


def test_difficulty_is_the_ratio_of_perplexities_with_and_without_the_instruction():
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    model = causal_model("llama", tokenizer)
    rows = [("Tell me of a dog.", "A dog met a cat."), ("Say yes.", "Yes")]
    values = Perplexity(model, tokenizer, also=("ifd",))(conversations_of(rows))
    alone = score(model, tokenizer, rows, given=False)
    assert values["perplexity"] == pytest.approx(plain_loop(model, tokenizer, rows), rel=1e-4)
    assert values["ifd"] == pytest.approx([p / q for p, q in zip(values["perplexity"], alone)], rel=1e-4)


def test_the_end_of_turn_is_the_nll_of_the_templates_own_end():
    rows = [("Tell me of a dog.", "A dog met a cat."), ("Say yes.", "Yes")]
    values = Perplexity(_MODEL, _TOKENIZER, also=("end_of_turn",))(conversations_of(rows))
    for (instruction, response), value in zip(rows, values["end_of_turn"]):
        prompt = _TOKENIZER.apply_chat_template(
            [{"role": "user", "content": instruction}], add_generation_prompt=True, return_dict=False
        )
        ids = [*prompt, *_TOKENIZER.encode(f"{response}<|im_end|>", add_special_tokens=False)]
        assert value == pytest.approx(math.log(nll_perplexity(ids, len(ids) - 1)), rel=1e-4)
    assert values["perplexity"] == pytest.approx(plain_loop(_MODEL, _TOKENIZER, rows), rel=1e-4)


CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a dog."},
    {"role": "assistant", "content": "Rex, or any of a hundred other names."},
    {"role": "user", "content": "And a cat?"},
    {"role": "assistant", "content": "Tom."},
]


def turn_nll(stop):
    """Summed NLL and tokens of the assistant's turn `CHAT[stop]`, given all before it."""
    prompt = _TOKENIZER.apply_chat_template(CHAT[:stop], add_generation_prompt=True, return_dict=False)
    answer = _TOKENIZER(CHAT[stop]["content"], add_special_tokens=False)["input_ids"]
    return math.log(nll_perplexity([*prompt, *answer], len(prompt))) * len(answer), len(answer)


def test_of_several_turns_the_last_is_scored_or_all_by_their_tokens():
    batch = {"messages": [CHAT]}
    (first, n), (last, m) = turn_nll(2), turn_nll(4)
    assert Perplexity(_MODEL, _TOKENIZER)(batch)["perplexity"] == pytest.approx([math.exp(last / m)], rel=1e-4)
    everything = Perplexity(_MODEL, _TOKENIZER, turns="all")(batch)["perplexity"]
    assert everything == pytest.approx([math.exp((first + last) / (n + m))], rel=1e-4)


def test_running_out_of_memory_changes_the_budget_and_no_score():
    model = causal_model("llama", _TOKENIZER, seed=3)
    expected = score(model, _TOKENIZER, ROWS, token_budget=100_000)

    def run_out(_module, _args, inputs):
        if inputs["input_ids"].numel() > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    model.register_forward_pre_hook(run_out, with_kwargs=True)
    indicator = Perplexity(model, _TOKENIZER, token_budget=100_000)
    assert indicator(conversations_of(ROWS))["perplexity"] == pytest.approx(expected, rel=1e-5)
    assert indicator.load().token_budget <= 400
    with pytest.raises(InstructMineError, match="does not fit into memory: lower max_length"):
        indicator(conversations_of([("Count.", "1 2 3 " * 200)]))


def test_another_runtime_error_is_not_taken_for_memory():
    model = causal_model("llama", _TOKENIZER)
    model.register_forward_pre_hook(_fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        score(model, _TOKENIZER, ROWS)


def _fail(*_):
    raise RuntimeError("CUDA error: device-side assert triggered")


def test_half_precision_moves_a_score_by_little():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = causal_model("llama", tokenizer)
    exact = score(model, tokenizer, ROWS[:4])
    assert score(model.bfloat16(), tokenizer, ROWS[:4]) == pytest.approx(exact, rel=0.15)


def test_a_column_is_replaced_only_if_told_to():
    batch = {**conversations_of([("Say yes.", "Yes")]), "perplexity": [1.0]}
    with pytest.raises(InstructMineError, match="the column 'perplexity' exists already"):
        Perplexity(_MODEL, _TOKENIZER)(batch)
    assert Perplexity(_MODEL, _TOKENIZER, overwrite=True)(batch)["perplexity"] != [1.0]


@pytest.mark.parametrize("options", [{"turns": "some"}, {"max_length": 1}, {"token_budget": 0}])
def test_an_option_that_makes_no_sense_is_refused_at_once(options):
    with pytest.raises(InstructMineError, match=next(iter(options))):
        Perplexity("never/loaded", **options)


def test_provenance_says_what_the_number_depends_on():
    plain = Perplexity(_MODEL, _TOKENIZER).provenance()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["indicator"], plain["given"], plain["dtype"]) == ("Perplexity", True, "float32")
    for other in ({"given": False}, {"include_eos": True}, {"max_length": 7}, {"turns": "all"}):
        assert Perplexity(_MODEL, _TOKENIZER, **other).provenance() != plain
    assert Perplexity(_MODEL, _TOKENIZER, token_budget=7).provenance() == plain


def refusing(how: str) -> str:
    """A template that does `how` with a system message."""
    return (
        f"{{% for m in messages %}}{{% if m['role'] == 'system' %}}{{{{ {how} }}}}{{% endif %}}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


@pytest.mark.parametrize("how", ["raise_exception('no system message')", "m['content'] + 1", "m['content'].no.field"])
def test_a_row_that_the_chat_template_refuses_has_no_value_and_a_note(how):
    tokenizer = byte_tokenizer(chat_template=refusing(how))
    asked = [{"role": "user", "content": "Say yes."}]
    answer = {"role": "assistant", "content": "Yes"}
    system = {"role": "system", "content": "Be brief."}
    batch = {"messages": [[*asked, answer], [system, *asked, answer], [*asked, answer]]}
    indicator = Perplexity(causal_model("llama", tokenizer), tokenizer)
    values, notes = indicator.annotate(batch)
    (alone,) = indicator.annotate({"messages": batch["messages"][:1]})[0]["perplexity"]
    assert notes == [None, "refused by the chat template", None]
    assert np.isnan(values["perplexity"][1])
    np.testing.assert_allclose([values["perplexity"][0], values["perplexity"][2]], alone, rtol=1e-5)


def test_a_refused_turn_among_several_is_told():
    # The first turn has no prompt.
    template = "{% if not messages %}{{ raise_exception('nothing to answer') }}{% endif %}" + CHATML
    tokenizer = byte_tokenizer(chat_template=template)
    answer = {"role": "assistant", "content": "Yes"}
    row = [answer, {"role": "user", "content": "Say yes."}, answer]
    indicator = Perplexity(causal_model("llama", tokenizer), tokenizer, turns="all")
    values, notes = indicator.annotate({"messages": [row]})
    assert notes == ["refused by the chat template"]
    assert np.isfinite(values["perplexity"][0])  # of the turn that has a prompt
