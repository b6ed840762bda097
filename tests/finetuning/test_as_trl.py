"""What is learnt of a row is, token for token, what TRL's trainer prepares of it, under each template it ships."""

import json
from datetime import datetime

import pytest
import transformers.utils.chat_template_utils as rendering
from chat_templates import TEMPLATES, tokenizer_with
from datasets import Dataset
from jinja2 import TemplateError
from tiny_models import causal_model
from trl import SFTConfig, SFTTrainer, data_utils

from hf_instructmine import InstructMineError
from hf_instructmine.data.conversation import Conversation
from hf_instructmine.finetuning.training_data import encode_training_set
from hf_instructmine.models.loading import LoadedModel
from hf_instructmine.models.rendering import FROZEN_DATE


if not hasattr(data_utils, "common_prefix_length"):
    reason = (
        "this release of TRL learns the wrong tokens where a prompt is no beginning of its turn; newer ones do not"
    )
    pytest.skip(reason, allow_module_level=True)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oulu"}}}]
FOUND = {"role": "tool", "name": "weather", "content": "5"}
TEXT = '{"city": "Oulu"}'


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


ROWS = {
    "single turn": Conversation([user("Name a river.")], "The Elbe."),
    "blanks round the texts": Conversation([user(" Name a river.\n")], " The Elbe.\n"),
    "several turns": Conversation([user("Name a river."), assistant("The Elbe."), user("Another.")], "The Oder."),
    "system": Conversation([{"role": "system", "content": "Be brief."}, user("Name a river.")], "The Elbe."),
    "reasoning": Conversation([user("1 + 1?")], "2", extras={"reasoning_content": "One and one."}),
    "tools": Conversation([user("Weather up north?")], "Let me look.", tools=TOOLS),
    "tool call": Conversation([user("Weather up north?")], "", extras={"tool_calls": CALL}, tools=TOOLS),
    "after a tool": Conversation(
        [
            user("Weather up north?"),
            assistant("", tool_calls=CALL),
            {"role": "tool", "name": "weather", "content": "5"},
        ],
        "It is 5 degrees.",
        tools=TOOLS,
    ),
}
IN_PARTS = ("idefics3", "llava_next", "smolvlm")  # these write contents that are lists of parts alone


def as_trl_reads_it(name, message, as_text=True):
    if name.startswith(IN_PARTS):
        return {**message, "content": [{"type": "text", "text": message["content"]}]}
    if as_text and name == "deepseekv3" and message.get("tool_calls"):  # joins the arguments to a text
        calls = [{**c, "function": {**c["function"], "arguments": TEXT}} for c in message["tool_calls"]]
        return {**message, "tool_calls": calls}
    return message


def row_for_trl(name, conversation, keys=("prompt", "completion")):
    as_text = len(keys) == 2  # its twin that marks the assistant's turns writes them itself
    prompt = [as_trl_reads_it(name, m, as_text) for m in conversation.prompt]
    completion = [as_trl_reads_it(name, m, as_text) for m in conversation.completion]
    texts = {"prompt": prompt, "completion": completion} if len(keys) == 2 else {"messages": [*prompt, *completion]}
    return {**texts, **({"tools": json.dumps(conversation.tools)} if conversation.tools else {})}


def prepared_by_trl(tokenizer, model, rows, folder, **options):
    """Ids and labels of each row, from the trainer itself. Rows of one kind share a trainer: a dataset would fill in
    fields that only others have."""
    args = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, max_length=None, report_to="none", dataset_num_proc=None,
        disable_tqdm=True, loss_type="nll", **options,
    )  # fmt: skip
    prepared = {}
    for names in group_by_fields(rows):
        dataset = Dataset.from_list([rows[name] for name in names])
        trainer = SFTTrainer(model=model, args=args, train_dataset=dataset, processing_class=tokenizer)
        prepared.update(zip(names, zip(trainer.train_dataset["input_ids"], trainer.train_dataset["labels"])))
    return prepared


def group_by_fields(rows):
    groups = {}
    for name, row in rows.items():
        fields = [sorted(row), *(sorted(m) for part in row.values() if isinstance(part, list) for m in part)]
        groups.setdefault(str(sorted(map(str, {str(f) for f in fields}))), []).append(name)
    return groups.values()


@pytest.fixture(autouse=True)
def one_date(monkeypatch):
    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return FROZEN_DATE

    monkeypatch.setattr(rendering, "datetime", Frozen)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_last_turn_is_what_trl_learns_of_it(name, tmp_path):
    tokenizer = tokenizer_with(TEMPLATES[name])
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    ours = {}
    for kind, conversation in ROWS.items():
        try:
            encoded = encode_training_set(loaded, [conversation], None)
            ours[kind] = (encoded.input_ids[0], encoded.labels[0])
        except InstructMineError as error:
            assert is_refused_rightly(name, tokenizer, conversation), (kind, error)
    assert {"single turn", "blanks round the texts", "several turns", "reasoning"} <= set(ours)
    rows = {kind: row_for_trl(name, ROWS[kind]) for kind in ours}
    for kind, expected in prepared_by_trl(tokenizer, loaded.model, rows, tmp_path).items():
        assert tokenizer.decode(ours[kind][0]) == tokenizer.decode(expected[0]), kind
        assert ours[kind] == expected, kind


def is_refused_rightly(name, tokenizer, conversation):
    """Whether the template raises, or writes a turn that ends before its tool call."""
    messages = [as_trl_reads_it(name, m) for m in [*conversation.prompt, *conversation.completion]]
    try:
        text = tokenizer.apply_chat_template(messages, tools=conversation.tools, tokenize=False)
    except (TemplateError, TypeError, ValueError):
        return True
    return "tool_calls" in conversation.extras and "Oulu" not in text


@pytest.mark.parametrize("name", TEMPLATES)
def test_all_assistant_turns_are_those_that_trl_learns(name, tmp_path):
    tokenizer = tokenizer_with(TEMPLATES[name])
    loaded = LoadedModel(causal_model("llama", tokenizer), tokenizer)
    kinds = ["single turn", "blanks round the texts", "several turns", "system", "after a tool"]
    kinds = [kind for kind in kinds if not is_refused_rightly(name, tokenizer, ROWS[kind])]
    rows = {kind: row_for_trl(name, ROWS[kind], ("messages",)) for kind in kinds}
    try:
        expected = prepared_by_trl(tokenizer, loaded.model, rows, tmp_path, assistant_only_loss=True)
    except ValueError as error:
        assert "not patchable" in str(error) or "generation" in str(error), error
        pytest.skip("TRL has no twin of this template that marks the assistant's turns")
    for kind in kinds:
        try:
            ours = encode_training_set(loaded, [ROWS[kind]], None, all_turns=True)
        except InstructMineError as error:  # TRL teaches the turn without its call
            assert "does not write the tool calls" in str(error) and "Oulu" not in tokenizer.decode(expected[kind][0])
            continue
        assert (ours.input_ids[0], ours.labels[0]) == expected[kind], kind
