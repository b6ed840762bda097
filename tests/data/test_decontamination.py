"""Evaluation prompts are found in a pool by 8-grams, and short ones as a whole."""

import numpy as np
import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.data import decontamination
from hf_instructmine.data.conversation import read_conversations
from hf_instructmine.data.decontamination import Overlap, find_contaminated, split_words
from hf_instructmine.data.evaluation_sets import EvaluationSet


WORDS = [f"word{letter}" for letter in "abcdefghijklmnop"]


def rows(*prompts: str) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), "completion": ["an answer"] * len(prompts)})


def text(first: int, last: int) -> str:
    return " ".join(WORDS[first:last])


@pytest.mark.parametrize(
    "trained, share",
    [
        (text(0, 16), 1.0),  # all of it
        (f"Please answer: {text(0, 16).upper()}!", 1.0),  # among other words, in other letters
        (text(0, 9), 9 / 16),  # two 8-grams cover nine of sixteen words
        (text(7, 16), 9 / 16),
        (text(0, 8), None),  # one 8-gram covers half, which is not more than half
        (text(0, 7), None),  # no 8-gram
        (f"{text(0, 7)} x {text(7, 14)}", None),  # nor here, though fourteen words are the same
        (f"{text(0, 8)} x {text(8, 16)}", 1.0),  # two that touch
        (" ".join(reversed(WORDS)), None),
    ],
)
def test_more_than_half_of_the_prompt_has_to_be_covered_by_8_grams(trained, share):
    found = find_contaminated(rows("something else", trained), {"test": rows("another", text(0, 16))}).found
    assert found == ([] if share is None else [Overlap(1, "test", 1, share)])


@pytest.mark.parametrize(
    "trained, found",
    [("What is 2+3?", True), ("what is  2+3", True), ("What is 2+4?", False), ("So, what is 2+3?", False)],
)
def test_a_prompt_of_fewer_than_8_words_counts_as_a_whole(trained, found):
    overlaps = find_contaminated(rows(trained), {"sums": rows("What is 2+3?")})
    assert overlaps.counts == {"sums": int(found)}


def test_the_share_is_of_one_row_not_of_the_pool():
    pool = rows(text(0, 8), text(8, 16))
    assert find_contaminated(pool, {"test": rows(text(0, 16))}).counts == {"test": 0}


def test_the_best_match_of_each_set_is_told_once_a_row():
    sets = {"a": rows(text(0, 16), text(0, 9)), "b": rows("nothing of it")}
    overlaps = find_contaminated(rows(text(0, 9), "other", text(0, 9)), sets)
    assert overlaps.found == [Overlap(0, "a", 1, 1.0), Overlap(2, "a", 1, 1.0)]
    assert overlaps.rows.tolist() == [0, 2]
    assert overlaps.prompts == {"a": 2, "b": 1}
    assert str(overlaps) == "a in 2 rows, b in 0 rows"


def test_users_turns_are_compared_and_system_prompts_are_not():
    def chat(*turns):
        return {"messages": [{"role": role, "content": content} for role, content in turns]}

    system = ("system", text(0, 16))
    pool = Dataset.from_list(
        [
            chat(system, ("user", "hello"), ("assistant", "a")),
            chat(("user", "hm"), ("assistant", "b"), ("user", "Say why not"), ("assistant", text(0, 16))),
            chat(("user", text(0, 16)), ("assistant", "c"), ("user", "go on"), ("assistant", "d")),
        ]
    )
    evaluation = Dataset.from_list([chat(system, ("user", "say why not"), ("assistant", "e"))])
    assert find_contaminated(pool, {"x": evaluation}).rows.tolist() == [1]
    assert find_contaminated(pool, {"x": rows(text(0, 16))}).rows.tolist() == [2]


def test_an_evaluation_set_that_was_read_is_taken_as_it_is():
    examples = rows("unrelated", text(0, 16))
    read = EvaluationSet.read("test", examples)
    pool = rows(text(2, 16))
    assert find_contaminated(pool, {"t": read}).found == find_contaminated(pool, {"t": examples}).found
    assert find_contaminated(pool, {"t": read}).found == [Overlap(0, "t", 1, 14 / 16)]


def test_words_are_lower_case_with_digits_and_operators_and_han_characters_are_words():
    assert split_words("Is x+1 > 3.5, (Yes/No)?\n") == ["is", "x+1", ">", "3", "5", "yes/no"]
    assert split_words("今天天气好吗？Yes") == [*"今天天气好吗", "yes"]
    assert split_words("Ge\u0301nie") == split_words("g\u00e9nie")
    han = "請用繁體中文寫一首關於秋天的短詩"
    assert find_contaminated(rows(f"你好。{han}"), {"zh": rows(han)}).counts == {"zh": 1}


def test_columns_name_the_prompt_of_the_pool():
    pool = Dataset.from_dict({"ask": [text(0, 16)], "tell": ["a"]})
    columns = {"prompt": "ask", "response": "tell"}
    assert find_contaminated(pool, {"x": rows(text(0, 16))}, columns).rows.tolist() == [0]


def test_a_set_without_prompts_is_refused():
    with pytest.raises(InstructMineError, match="the evaluation set 'x' has no prompt to look for"):
        find_contaminated(rows("a"), {"x": rows("", " ?! ")})


def test_it_agrees_with_the_definition_on_random_texts():
    rng = np.random.default_rng(0)
    pool = [" ".join(rng.choice(list("ab"), rng.integers(1, 40))) for _ in range(60)]
    asked = [" ".join(rng.choice(list("ab"), rng.integers(4, 24))) for _ in range(20)]

    def share(prompt: str, row: str) -> float:
        p, r = prompt.split(), row.split()
        if len(p) < 8:
            return float(p == r)
        grams = {tuple(r[i : i + 8]) for i in range(len(r) - 7)}
        hit = [any(tuple(p[s : s + 8]) in grams for s in range(max(0, t - 7), t + 1)) for t in range(len(p))]
        return float(np.mean(hit))

    expected = {i: max(share(prompt, row) for prompt in asked) for i, row in enumerate(pool)}
    found = {o.row: o.share for o in find_contaminated(rows(*pool), {"x": rows(*asked)}).found}
    assert found == {row: pytest.approx(value) for row, value in expected.items() if value > 0.5}
    assert 3 < len(found) < 57


def test_of_a_pool_the_text_columns_alone_are_read_a_few_rows_at_a_time(monkeypatch):
    read = []
    monkeypatch.setattr(decontamination, "_CHUNK", 2)
    monkeypatch.setattr(
        decontamination,
        "read_conversations",
        lambda batch, *given, **more: (read.append(batch), read_conversations(batch, *given, **more))[1],
    )
    pool = rows("one", text(0, 16), "two", "three", text(2, 15)).add_column("vector", [[0.5]] * 5)
    found = find_contaminated(pool, {"test": rows(text(0, 16)).add_column("more", ["x"])}).found
    assert [overlap.row for overlap in found] == [1, 4]
    assert [len(batch["prompt"]) for batch in read] == [2, 2, 1]
    assert {name for batch in read for name in batch} == {"prompt", "completion"}
