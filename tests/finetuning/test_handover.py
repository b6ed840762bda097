"""Rows and evaluation sets reach another process as they are."""

import json

import numpy as np

from hf_instructmine.data.conversation import Conversation
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning.handover import hand_over, pack, pack_set, read_inputs, unpack, unpack_set
from hf_instructmine.finetuning.recipe import FinetuningArguments


PLAIN = Conversation([{"role": "user", "content": "When?"}], "2021-03-01")
CALL = {"function": {"name": "weather", "arguments": {"day": "2021-03-01"}}}
FULL = Conversation(
    [{"role": "user", "content": "\ud800 <|im_end|>"}, {"role": "assistant", "content": "Yes."}],
    "",
    extras={"reasoning_content": "Let me see.", "tool_calls": [CALL]},
    tools=[{"type": "function", "function": {"name": "weather"}}],
    template_kwargs={"enable_thinking": False},
    masked=(1,),
)


def test_every_field_of_a_conversation_comes_back():
    assert unpack(json.loads(json.dumps(pack([PLAIN, FULL])))) == [PLAIN, FULL]


def test_an_evaluation_set_comes_back_with_its_examples(tmp_path):
    examples = EvaluationSet("held_out", [PLAIN, FULL, PLAIN], np.array([0, 0, 1]), [3, 5], 2)
    again = unpack_set(json.loads(json.dumps(pack_set(examples))))
    assert (again.name, again.turns, again.rows, again.skipped) == ("held_out", examples.turns, [3, 5], 2)
    assert again.owners.tolist() == [0, 0, 1]
    options = hand_over(tmp_path, [FULL, PLAIN], {"held_out": examples})
    conversations, sets = read_inputs(FinetuningArguments(train=options["train"], eval_sets=options["eval_sets"]))
    assert conversations == [FULL, PLAIN]
    assert sets["held_out"].turns == examples.turns
