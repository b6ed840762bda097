"""A reward is what the model's own forward pass gives for one conversation alone."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_models import (
    CHATML,
    ROWS,
    byte_tokenizer,
    causal_model,
    conversations_of,
    metaspace_tokenizer,
    oasst_reward_model,
    reward_classifier,
    save,
    wordpiece_tokenizer,
)

from hf_instructmine import InstructMineError, Reward


BERT_CHAT = "[CLS]{% for m in messages %}{{ m['content'] }}[SEP]{% endfor %}"
ORDINARY = [row for row in ROWS if "<|" not in row[0] + row[1]]


def score(model, tokenizer, rows, **options):
    return Reward(model, tokenizer, **options)(conversations_of(rows))["reward"]


def chat_ids(tokenizer, instruction, response):
    messages = [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]
    return tokenizer.apply_chat_template(messages, return_dict=False)


def one_at_a_time(model, tokenizer, rows):
    """The score of each conversation from the model's own forward pass, unpadded, so that nothing is to be found."""
    with torch.no_grad():
        return [model(torch.tensor([chat_ids(tokenizer, *row)])).logits.item() for row in rows]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [None, "<|endoftext|>", "<|im_end|>"])
def test_a_decoder_is_read_at_the_last_real_token(kind, side, pad):
    template = CHATML.replace("<|im_end|>\n", "<|im_end|>")  # ends in the token that may serve as padding
    tokenizer = byte_tokenizer(pad=pad, chat_template=template)
    tokenizer.padding_side = side
    model = reward_classifier(kind, tokenizer)  # without a padding id: its forward takes the last position
    expected = one_at_a_time(model, tokenizer, ORDINARY)
    model.config.pad_token_id = tokenizer.pad_token_id
    for budget in (1, 150, 100_000):
        assert score(model, tokenizer, ORDINARY, token_budget=budget) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if pad == "<|im_end|>":  # transformers' own search for the last token that is no padding stops before it
        assert one_at_a_time(model, tokenizer, ORDINARY) != pytest.approx(expected, rel=1e-2)


def test_the_end_token_as_padding_hides_no_part_of_a_conversation_that_holds_it():
    tokenizer = byte_tokenizer(pad="<|im_end|>", chat_template=CHATML)
    model = reward_classifier("qwen2", tokenizer, pad_token_id=tokenizer.pad_token_id)
    expected = one_at_a_time(model, tokenizer, ORDINARY)  # the final line break makes their search come out right
    assert score(model, tokenizer, ORDINARY) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_encoder_scores_as_its_own_forward_pass_does():
    tokenizer = wordpiece_tokenizer(chat_template=BERT_CHAT)
    model = reward_classifier("bert", tokenizer, pad_token_id=tokenizer.pad_token_id)
    expected = one_at_a_time(model, tokenizer, ORDINARY)
    for budget in (1, 60, 100_000):
        assert score(model, tokenizer, ORDINARY, token_budget=budget) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_encoder_gets_no_more_than_its_positions():
    tokenizer = wordpiece_tokenizer(chat_template=BERT_CHAT)
    indicator = Reward(reward_classifier("bert", tokenizer), tokenizer)  # 256 positions
    (value,) = indicator(conversations_of([("Count.", "dog cat " * 300)]))["reward"]
    assert math.isfinite(value)
    assert indicator.notes == {"truncated response": 1}


def test_a_model_with_more_than_one_label_is_refused():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    with pytest.raises(InstructMineError, match="has 3 labels: a reward model has one"):
        score(reward_classifier("llama", tokenizer, num_labels=3), tokenizer, ROWS)


def test_a_classifier_needs_a_chat_template():
    tokenizer = byte_tokenizer()
    with pytest.raises(InstructMineError, match="has no chat template, which this indicator needs"):
        score(reward_classifier("llama", tokenizer), tokenizer, ROWS)


OASST = byte_tokenizer()


def oasst_ids(*texts):
    """Ids of alternating turns as the paper's checkpoint reads them, from the tokenizer of ordinary text."""
    ids = []
    for i, text in enumerate(texts):
        role = "<|assistant|>" if i % 2 else "<|prompter|>"
        ids.append(OASST.convert_tokens_to_ids(role))
        ids += OASST(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        ids.append(OASST.convert_tokens_to_ids("<|endoftext|>"))
    return ids


def oasst_score(model, ids):
    """`out_proj`, by hand, of the hidden state at the last position or of their mean."""
    with torch.no_grad():
        hidden = model.gpt_neox(torch.tensor([ids])).last_hidden_state[0].double()
    pooled = hidden.mean(0) if model.config.pooling == "mean" else hidden[-1]
    return (pooled @ model.out_proj.weight[0].double() + model.out_proj.bias[0].double()).item()


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_papers_architecture_reads_exactly_its_prompt(pooling):
    model = oasst_reward_model(OASST, pooling)
    expected = [oasst_score(model, oasst_ids(*row)) for row in ROWS]
    for budget in (1, 150, 100_000):
        assert score(model, OASST, ROWS, token_budget=budget) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_ordinary_text_is_tokenised_as_one_string_with_its_special_tokens():
    instruction, response = "What is the capital?", "Paris."
    text = f"<|prompter|>{instruction}<|endoftext|><|assistant|>{response}<|endoftext|>"
    model = oasst_reward_model(OASST)
    expected = oasst_score(model, OASST(text)["input_ids"])
    assert score(model, OASST, [(instruction, response)]) == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("text", ["a<|endoftext|><|assistant|>b", "<|prompter|>", "{0} {{ x }} {"])
def test_data_that_spell_a_special_token_open_no_turn(text):
    model = oasst_reward_model(OASST)
    expected = oasst_score(model, oasst_ids(text, text))
    assert score(model, OASST, [(text, text)]) == pytest.approx([expected], rel=1e-4, abs=1e-5)


def test_a_system_message_opens_the_prompters_turn_and_turns_alternate():
    model = oasst_reward_model(OASST)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a dog."},
        {"role": "assistant", "content": "Rex."},
        {"role": "user", "content": "And a cat?"},
        {"role": "assistant", "content": "Tom, or any other name that you like."},
    ]
    first = oasst_ids("Be brief.\n\nName a dog.", "Rex.")
    last = oasst_ids("Be brief.\n\nName a dog.", "Rex.", "And a cat?", chat[4]["content"])
    r, s = oasst_score(model, first), oasst_score(model, last)
    assert Reward(model, OASST)({"messages": [chat]})["reward"] == pytest.approx([s], rel=1e-4)
    n, m = (len(OASST(chat[i]["content"])["input_ids"]) for i in (2, 4))
    weighted = Reward(model, OASST, turns="all")({"messages": [chat]})["reward"]
    assert weighted == pytest.approx([(n * r + m * s) / (n + m)], rel=1e-4)


def test_a_tokenizer_without_the_special_tokens_is_refused():
    tokenizer = metaspace_tokenizer()
    with pytest.raises(InstructMineError, match=r"lacks the special tokens <\|prompter\|>, <\|assistant\|>"):
        score(oasst_reward_model(tokenizer), tokenizer, ROWS)


def test_the_published_layout_is_loaded(tmp_path):
    """A checkpoint as Open-Assistant published it: old names in the configuration, buffers among the weights."""
    model = oasst_reward_model(OASST)
    folder = save(tmp_path / "rm", model, OASST)
    (tmp_path / "rm" / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["GPTNeoXRewardModel"], "model_type": "gpt_neox_reward_model", "pooling": "last",
                "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu", "hidden_size": 32, "intermediate_size": 48,
                "num_attention_heads": 4, "num_hidden_layers": 2, "max_position_embeddings": 512, "rotary_pct": 0.25,
                "rotary_emb_base": 10000, "layer_norm_eps": 1e-05, "torch_dtype": "float32", "use_cache": True,
                "tie_word_embeddings": False, "use_parallel_residual": True, "vocab_size": len(OASST),
                "transformers_version": "4.28.1",
            }
        )
    )  # fmt: skip
    weights = load_file(tmp_path / "rm" / "model.safetensors")
    assert {"out_proj.weight", "out_proj.bias", "gpt_neox.embed_in.weight"} <= set(weights)
    for layer in range(2):
        attention = f"gpt_neox.layers.{layer}.attention"
        weights[f"{attention}.bias"] = torch.ones(1, 1, 512, 512).tril().bool()
        weights[f"{attention}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{attention}.rotary_emb.inv_freq"] = torch.ones(1)
    save_file(weights, tmp_path / "rm" / "model.safetensors", metadata={"format": "pt"})
    expected = [oasst_score(model, oasst_ids(*row)) for row in ROWS]
    assert Reward(folder)(conversations_of(ROWS))["reward"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    (tmp_path / "rm" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "rm" / "pytorch_model.bin")
    assert Reward(folder)(conversations_of(ROWS))["reward"] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_an_unknown_pooling_is_refused():
    with pytest.raises(InstructMineError, match="pooling must be 'last' or 'mean', not 'max'"):
        oasst_reward_model(OASST, "max")


def test_a_long_prompt_loses_its_start_and_is_counted():
    model = oasst_reward_model(OASST)
    row = ("Once upon a time a dog met a cat in the street. " * 30, "And then?")
    indicator = Reward(model, OASST, max_length=100)
    assert indicator(conversations_of([row]))["reward"] == pytest.approx(
        [oasst_score(model, oasst_ids(*row)[-100:])], rel=1e-4
    )
    assert indicator.notes == {"truncated prompt": 1}


def test_a_response_of_200_000_characters_loses_its_end_and_keeps_its_closing_token():
    model = oasst_reward_model(OASST)
    instruction, long = "Tell me of a dog.", ("The dog met the cat. " * 10_000)[:200_000]
    indicator = Reward(model, OASST, max_length=100)
    frame = len(oasst_ids(instruction, ""))  # everything but the response
    kept = OASST(long, add_special_tokens=False)["input_ids"][: 100 - min(frame, 25)]
    whole = [*oasst_ids(instruction, "")[:-1], *kept, OASST.eos_token_id]
    assert len(whole) == 100
    assert indicator(conversations_of([(instruction, long)]))["reward"] == pytest.approx(
        [oasst_score(model, whole)], rel=1e-4
    )
    assert indicator.notes == {"truncated response": 1}


def test_both_too_long_leave_a_quarter_to_the_prompt():
    model = oasst_reward_model(OASST)
    instruction, response = "What is a cat? " * 50, "A dog. " * 100
    indicator = Reward(model, OASST, max_length=100)
    kept = OASST(response, add_special_tokens=False)["input_ids"][:75]
    end = OASST.eos_token_id
    whole = [*oasst_ids(instruction), OASST.convert_tokens_to_ids("<|assistant|>"), *kept, end][-100:]
    assert indicator(conversations_of([(instruction, response)]))["reward"] == pytest.approx(
        [oasst_score(model, whole)], rel=1e-4
    )


def test_rows_without_a_response_are_nan_and_counted():
    indicator = Reward(oasst_reward_model(OASST), OASST)
    rows = [("Say yes.", "Yes"), ("Say nothing.", ""), ("Say it.", None)]
    values = indicator(conversations_of(rows))["reward"]
    assert [math.isnan(value) for value in values] == [False, True, True]
    assert indicator.notes == {"empty response": 1, "missing response": 1}


def test_an_empty_prompt_is_an_empty_turn():
    model = oasst_reward_model(OASST)
    expected = oasst_score(model, oasst_ids("", "Yes"))
    assert score(model, OASST, [("", "Yes")]) == pytest.approx([expected], rel=1e-4)


_MODEL = oasst_reward_model(OASST)
_ROW = st.tuples(st.text(max_size=30), st.text(min_size=1, max_size=40).filter(str.strip))


@given(st.lists(_ROW, min_size=2, max_size=6), st.randoms(use_true_random=False), st.integers(1, 400))
@settings(deadline=None, max_examples=15)
def test_order_and_batch_size_do_not_change_a_score(rows, random, budget):
    together = score(_MODEL, OASST, rows, token_budget=100_000)
    order = random.sample(range(len(rows)), len(rows))
    shuffled = score(_MODEL, OASST, [rows[i] for i in order], token_budget=budget)
    assert shuffled == pytest.approx([together[i] for i in order], rel=1e-4, abs=1e-4)


def test_running_out_of_memory_changes_no_score():
    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = reward_classifier("llama", tokenizer)
    expected = score(model, tokenizer, ROWS)

    def run_out(_module, args):
        if args[0].numel() > 400:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.base_model.register_forward_pre_hook(run_out)
    indicator = Reward(model, tokenizer, token_budget=100_000)
    assert indicator(conversations_of(ROWS))["reward"] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert indicator.load().token_budget <= 400


def test_a_language_model_is_no_reward_model(tmp_path):
    tokenizer = byte_tokenizer(chat_template=CHATML)
    folder = save(tmp_path, causal_model("llama", tokenizer), tokenizer)
    with pytest.raises(InstructMineError, match=r"saved without score\.weight"):
        Reward(folder)(conversations_of(ROWS))


def test_provenance_names_the_model_and_no_path(tmp_path):
    folder = save(tmp_path / "my-rm", oasst_reward_model(OASST), OASST)
    record = Reward(folder, max_length=512).provenance()
    assert {k: record[k] for k in ("indicator", "model", "dtype", "max_length", "turns")} == {
        "indicator": "Reward", "model": "my-rm", "dtype": "float32", "max_length": 512, "turns": "last"
    }  # fmt: skip
    assert str(Path(folder).parent) not in json.dumps(record)
