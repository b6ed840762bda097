"""Lengths in tokens, counted by hand with a tokenizer of one token a word."""

import pickle
import subprocess
import sys

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import InputLength, InstructMineError, OutputLength
from hf_instructmine.models.tokenization import count_tokens, encode_data, tokens_digest


WORDS = ["[UNK]", "</s>", "a", "b", "c", "<", ">", "/", "s"]


def build_tokenizer():
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[<>/]"), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizers") / "tiny"
    tokenizer.save_pretrained(path)
    return str(path)


def test_prompt_and_response_are_counted_apart(tokenizer):
    pool = Dataset.from_dict({"instruction": ["a b", ""], "input": ["c", ""], "output": ["a b c a", "b"]})
    scored = pool.map(InputLength(tokenizer), batched=True).map(OutputLength(tokenizer), batched=True)
    assert scored["input_length"][:] == [3, 0]
    assert scored["output_length"][:] == [4, 1]


def test_an_empty_response_has_no_length_and_is_counted(tokenizer):
    batch = {"prompt": ["a", "b", "a a"], "completion": [" ", None, "c"]}
    for indicator, expected in ((InputLength(tokenizer), 2), (OutputLength(tokenizer), 1)):
        (column,) = indicator(batch).values()
        assert [x != x for x in column] == [True, True, False]
        assert column[2] == expected
        assert indicator.notes == {"empty response": 1, "missing response": 1}


def test_a_batch_of_nothing_but_empty_responses(tokenizer):
    batch = {"prompt": ["a"], "completion": [""]}
    for indicator in (InputLength(tokenizer), OutputLength(tokenizer)):
        (column,) = indicator(batch).values()
        assert column[0] != column[0]


@pytest.mark.parametrize(("turns", "prompt", "response"), [("last", 1 + 2 + 3 + 1, 2), ("all", 1 + 2 + 1, 3 + 2)])
def test_turns(tokenizer, turns, prompt, response):
    roles = ["system", "user", "assistant", "user", "assistant", "user"]
    texts = ["a", "a b", "a b c", "c", "b b", "never read"]
    batch = {"messages": [[{"role": r, "content": t} for r, t in zip(roles, texts)]]}
    assert InputLength(tokenizer, turns=turns)(batch) == {"input_length": [prompt]}
    assert OutputLength(tokenizer, turns=turns)(batch) == {"output_length": [response]}


def test_special_tokens_in_the_data_are_text(tokenizer):
    assert tokenizer("a </s>")["input_ids"] == [WORDS.index("a"), WORDS.index("</s>")]
    assert OutputLength(tokenizer)({"prompt": ["a"], "completion": ["a </s>"]}) == {"output_length": [5]}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab </s>\n\U0001f600é"), max_size=8))
def test_a_batch_counts_as_one_text_at_a_time(tokenizer, texts):
    assert count_tokens(tokenizer, texts) == [len(encode_data(tokenizer, text)) for text in texts]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(alphabet="ab c", max_size=9), min_size=1, max_size=8), st.integers(1, 8), st.randoms())
def test_neither_order_nor_batches_change_a_length(tokenizer, texts, size, random):
    indicator = OutputLength(tokenizer)
    whole = indicator({"prompt": texts, "completion": texts})["output_length"]
    order = random.sample(range(len(texts)), len(texts))
    parts = []
    for start in range(0, len(texts), size):
        batch = [texts[i] for i in order[start : start + size]]
        parts += indicator({"prompt": batch, "completion": batch})["output_length"]
    assert list(map(str, parts)) == [str(whole[i]) for i in order]


def test_a_very_long_response_is_counted_in_full(tokenizer, caplog):
    assert OutputLength(tokenizer)({"prompt": ["a"], "completion": ["a " * 100_000]}) == {"output_length": [100_000]}
    assert not caplog.records


def test_a_tokenizer_is_known_by_what_it_does_and_not_by_how_it_was_called_last(tokenizer):
    fresh = build_tokenizer()
    fresh("a b c", truncation=True, max_length=2)
    assert tokens_digest(fresh) == tokens_digest(tokenizer)
    fresh.add_tokens(["d"])
    assert tokens_digest(fresh) != tokens_digest(tokenizer)


def test_hash_and_pickle_hold_the_configuration_alone(tokenizer, folder):
    for indicator in (InputLength(folder), InputLength(tokenizer)):
        before = Hasher.hash(indicator)
        indicator({"prompt": ["a"], "completion": ["b"]})
        assert Hasher.hash(indicator) == before
        assert len(pickle.dumps(indicator)) < 1000
        assert pickle.loads(pickle.dumps(indicator))({"prompt": ["a b"], "completion": ["c"]}) == {"input_length": [2]}


def test_another_process_hashes_alike(folder):
    code = f"""
from datasets.fingerprint import Hasher
from transformers import AutoTokenizer
from hf_instructmine import OutputLength
print(Hasher.hash(OutputLength({folder!r})), Hasher.hash(OutputLength(AutoTokenizer.from_pretrained({folder!r}))))
"""
    from transformers import AutoTokenizer

    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    loaded = AutoTokenizer.from_pretrained(folder)
    assert printed == [Hasher.hash(OutputLength(folder)), Hasher.hash(OutputLength(loaded))]


def test_worker_processes(tokenizer, folder):
    pool = Dataset.from_dict({"prompt": ["a"] * 4, "completion": ["a", "a b", "c c c", ""]})
    for source in (tokenizer, folder):
        lengths = pool.map(OutputLength(source), batched=True, num_proc=2)["output_length"][:]
        assert lengths[:3] == [1, 2, 3] and lengths[3] != lengths[3]


def test_a_tokenizer_object_that_is_gone_is_asked_for_again():
    sent = pickle.dumps(OutputLength(build_tokenizer_with("gone")))
    with pytest.raises(InstructMineError, match="pass its folder or Hub id"):
        pickle.loads(sent)({"prompt": ["a"], "completion": ["b"]})


def build_tokenizer_with(token):
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([token])
    return tokenizer


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(InstructMineError, match="holds no tokenizer"):
        InputLength(tmp_path)({"prompt": ["a"], "completion": ["b"]})


def test_provenance_names_the_tokenizer_and_no_path(folder):
    from transformers import AutoTokenizer

    record = InputLength(folder, turns="all").provenance()
    assert record == {
        "indicator": "InputLength",
        "tokenizer": "tiny",
        "tokenizer_digest": tokens_digest(AutoTokenizer.from_pretrained(folder)),
        "turns": "all",
    }
    assert InputLength(AutoTokenizer.from_pretrained(folder), turns="all").provenance() == record


def test_a_column_is_not_overwritten_unasked(tokenizer):
    batch = {"prompt": ["a"], "completion": ["b"], "input_length": [7.0]}
    with pytest.raises(InstructMineError, match="'input_length' exists already"):
        InputLength(tokenizer)(batch)
    assert InputLength(tokenizer, overwrite=True)(batch) == {"input_length": [1]}


def test_all_that_the_assistant_writes_counts_and_all_that_it_is_told(tokenizer):
    call = [{"function": {"name": "a", "arguments": {"b": "c"}}}]
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "thinking": "c c c", "tool_calls": call},
        {"role": "tool", "content": "a a"},
        {"role": "assistant", "content": "b b", "thinking": "c c c", "tool_calls": call},
    ]
    in_json = count_tokens(tokenizer, ['{"name": "a", "arguments": {"b": "c"}}', '{"name": "a"}'])
    batch = {"messages": [talk], "tools": ['[{"name": "a"}]']}
    assert OutputLength(tokenizer)(batch) == {"output_length": [2 + 3 + in_json[0]]}
    # Of the earlier turn the call counts, its reasoning does not.
    assert InputLength(tokenizer)(batch) == {"input_length": [1 + 1 + 2 + sum(in_json)]}
    assert OutputLength(tokenizer, turns="all")(batch) == {"output_length": [1 + 2 + 2 * (3 + in_json[0])]}


def test_a_row_without_a_value_says_why(tokenizer):
    messages = [
        [{"role": "user", "content": "a"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0.5}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "thinking": "c"}],
    ]
    for indicator in (InputLength(tokenizer), OutputLength(tokenizer), OutputLength(tokenizer, turns="all")):
        values, notes = indicator.annotate({"messages": messages})
        (column,) = values.values()
        assert [x != x for x in column] == [True, True, True, False]
        assert notes == [
            "missing response", "every assistant turn is masked", "a weight of 0.5, which is neither 0 nor 1", None,
        ]  # fmt: skip
