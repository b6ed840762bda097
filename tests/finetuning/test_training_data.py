"""What is learnt of a subset: which turns, under which arguments of the chat template, and what is told of it."""

import logging

import pytest
from datasets import Dataset
from tiny_finetunes import SETTINGS, finetuned, tiny_base
from tiny_models import CHATML, byte_tokenizer, causal_model

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import Conversation
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.finetuning.training_data import MASKED, encode_training_set, read_training_data
from hf_instructmine.models.loading import LoadedModel


CHAT = [
    {"role": "user", "content": "Name a river."},
    {"role": "assistant", "content": "The Elbe."},
    {"role": "user", "content": "Another."},
    {"role": "assistant", "content": "The Oder."},
]
ASKED = "{{ 'Think.' if thinks else '' }}" + CHATML


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base"))


def learnt(loaded, subset):
    return [loaded.tokenizer.decode([label for label in labels if label != MASKED]) for labels in subset.labels]


def test_one_turn_or_all_of_them_are_learnt():
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    rows = read_training_data(Dataset.from_list([{"messages": CHAT}]))
    assert learnt(loaded, encode_training_set(loaded, rows, None)) == ["The Oder.<|im_end|>\n"]
    both = encode_training_set(loaded, rows, None, all_turns=True)
    assert learnt(loaded, both) == ["The Elbe.<|im_end|>\nThe Oder.<|im_end|>\n"]
    cut = encode_training_set(loaded, rows, len(both.input_ids[0]) - 6, all_turns=True)
    assert (cut.input_ids[0], cut.truncated) == (both.input_ids[0][:-6], 1)


def test_a_recipe_trains_on_all_assistant_turns_and_counts_their_tokens(base, tmp_path):
    rows = Dataset.from_list([{"messages": CHAT}] * 4)
    last, _ = finetuned(base, tmp_path / "last", rows)
    every, _ = finetuned(base, tmp_path / "every", rows, assistant_only_loss=True)
    # One row is four turns: the first answer counts beside the last.
    assert last.subset_tokens < every.subset_tokens < 2.5 * last.subset_tokens
    assert every.losses != last.losses


@pytest.mark.parametrize("kwargs", [{"thinks": True}, '{"thinks": true}'])
def test_arguments_of_the_chat_template_come_from_the_recipe(base, tmp_path, kwargs):
    (tmp_path / "asked.jinja").write_text(ASKED)
    template = {"chat_template_path": str(tmp_path / "asked.jinja")}
    recipe = Recipe({**SETTINGS, **template, "model_name_or_path": base, "chat_template_kwargs": kwargs})
    loaded = load_base(recipe.arguments())
    subset = encode_training_set(loaded, [Conversation(CHAT[:1], "The Elbe.")], None)
    assert loaded.tokenizer.decode(subset.input_ids[0]).startswith("Think.<|im_start|>user\n")
    own = Conversation(CHAT[:1], "The Elbe.", template_kwargs={"thinks": False})
    assert "Think." not in loaded.tokenizer.decode(encode_training_set(loaded, [own], None).input_ids[0])
    with pytest.raises(InstructMineError, match="chat_template_kwargs of the recipe cannot set 'tools'"):
        Recipe({**recipe.settings, "chat_template_kwargs": {"tools": []}}).arguments()
    assert Recipe({**recipe.settings, "chat_template_kwargs": None}).hash != recipe.hash


def test_what_the_template_does_not_write_is_counted_and_told(caplog):
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    thought = Conversation(CHAT[:1], "The Elbe.", extras={"reasoning_content": "Rivers flow."})
    with caplog.at_level(logging.WARNING):
        encode_training_set(loaded, [thought, thought, Conversation(CHAT[:1], "The Oder.")], None)
    (record,) = caplog.records
    assert record.getMessage() == "training data: 2 texts: reasoning not written as given by the chat template"


def test_a_tool_call_that_the_template_does_not_write_is_no_row_to_learn_from():
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    call = {"function": {"name": "weather", "arguments": {}}}
    rows = [Conversation(CHAT[:1], "The Elbe."), Conversation(CHAT[:1], "", extras={"tool_calls": [call]})]
    with pytest.raises(InstructMineError, match=r"row 1 of .*does not write the tool calls.*; drop it first"):
        encode_training_set(loaded, rows, None)


def test_a_text_has_no_more_tokens_than_the_model_has_positions():
    tokenizer = byte_tokenizer(eos="<|im_end|>", chat_template=CHATML)
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    row = Conversation(CHAT[:3], "The Oder.")
    most = loaded.model.config.max_position_embeddings = len(encode_training_set(loaded, [row], None).input_ids[0]) - 4
    for all_turns in (False, True):
        encoded = encode_training_set(loaded, [row], None, all_turns)
        assert (len(encoded.input_ids[0]), encoded.truncated) == (most, 1)


def test_what_the_tokenizer_lacks_is_no_fault_of_a_row():
    tokenizer = byte_tokenizer()
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(InstructMineError, match=r"^the tokenizer '.*' has no EOS token"):
        encode_training_set(loaded, [Conversation(CHAT[:1], "The Elbe.")], None)
    with pytest.raises(InstructMineError, match=r"^the tokenizer '.*' .* no chat template, .*set chat_template_path$"):
        encode_training_set(loaded, [Conversation(CHAT[:1], "The Elbe.")], None, all_turns=True)
