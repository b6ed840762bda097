"""MTLD against published vectors, arithmetic by hand and the package `lexicalrichness`."""

import json
import pickle
import string

import pytest
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_instructmine import MTLD, InstructMineError
from hf_instructmine.indicators.mtld import mtld, split_words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("TEST text with some text numbers 42, hyphen-here, and text punctuations.", 14.000000000000004),
        ("only unique terms in this little string", 7),
        ("a a b b c c", 2.0),
        ("a b a b a b", 3.0),
        ("a " * 10, 2.0),
        ("a b c d " * 25, 6.25),
        ("a b c d " * 100, 6.0606060606060606),
        (" ".join(a + b for a in "abcdefghij" for b in "abcdefghij"), 100),
    ],
)
def test_vectors(text, expected):
    assert MTLD()({"prompt": ["-"], "completion": [text]}) == {"mtld": [expected]}


def test_by_hand():
    # Forwards: "a b a" has ratio 2/3, one factor; "c d c" another; "e f" is none. Backwards: f e c d c has 4/5, then
    # a makes it 5/6, b 6/7, and the last a 6/8, which is (1 - 0.75) / 0.28 of a factor.
    words = ["a", "b", "a", "c", "d", "c", "e", "f"]
    assert mtld(words) == pytest.approx((8 / 2 + 8 / (0.25 / 0.28)) / 2, rel=1e-14)


def test_a_ratio_equal_to_the_threshold_completes_a_factor():
    assert mtld(["a", "b", "c", "a"], threshold=0.75) == 4
    assert mtld(["a", "b", "c", "a"], threshold=0.74) == pytest.approx(4 / (0.25 / 0.26))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=60), st.sampled_from([0.5, 0.66, 0.72, 0.75]))
def test_factors_are_counted_as_lexicalrichness_counts_them(words, threshold):
    from lexicalrichness import LexicalRichness

    assert mtld(words, threshold) == LexicalRichness(words, preprocessor=None, tokenizer=None).mtld(threshold)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=string.ascii_letters + string.digits + string.punctuation + " \t\r\n"))
def test_words_of_ascii_text_are_those_of_lexicalrichness(text):
    from lexicalrichness import LexicalRichness

    assert split_words(text) == LexicalRichness(text).wordlist


def test_real_responses_agree_with_lexicalrichness_to_the_last_bit(shared_data):
    from lexicalrichness import LexicalRichness

    pools = {"alpaca": "output", "dolly": "output", "lima": "messages", "p3": "output"}
    texts = []
    for name, column in pools.items():
        with (shared_data / "pool" / f"{name}.jsonl").open() as lines:
            rows = [json.loads(line)[column] for line in lines]
        responses = [row if isinstance(row, str) else row[-1]["content"] for row in rows]
        texts += [text for text in responses if text.isascii() and any(map(str.isalpha, text))][:300]
    assert len(texts) > 1000
    ours = MTLD()({"prompt": texts, "completion": texts})["mtld"]
    assert ours == [LexicalRichness(text).mtld() for text in texts]


def test_a_response_without_a_word_is_nan_and_counted():
    indicator = MTLD()
    values = indicator({"prompt": ["6 * 7?"] * 4, "completion": ["42", "?!", "", "forty-two"]})["mtld"]
    assert [value != value for value in values] == [True, True, True, False]
    assert indicator.notes == {"no word": 2, "empty response": 1}


def test_words_beyond_ascii():
    assert split_words("Été, E\u0301TE\u0301 naïve Straße STRASSE") == ["été", "été", "naïve", "strasse", "strasse"]
    assert split_words("日本語です。カラー!") == ["日", "本", "語", "で", "す", "カ", "ラ", "ー"]
    assert split_words("한국어 텍스트, 사과") == ["한국어", "텍스트", "사과"]
    assert split_words("مرحبا، بالعالم") == ["مرحبا", "بالعالم"]
    assert split_words("“quoted” … it’s • Привет, мир!") == ["quoted", "it", "s", "привет", "мир"]
    assert split_words("٤٢ ½ Ⅷ m² 3rd") == ["m", "rd"]
    assert split_words("state\u2010of\u2011the-art soft\u00adhyphen") == ["stateoftheart", "softhyphen"]


def test_emoji_nul_and_lone_surrogates_are_no_words():
    assert split_words("👍🏽 ❤️ 👩‍🚀 1️⃣ \x00 \ud800 <|im_end|>") == ["im", "end"]


def test_time_is_linear_in_the_text():
    from time import process_time

    def seconds(words):
        text = " ".join(f"{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{chr(97 + i // 676 % 26)}" for i in range(words))
        start = process_time()
        mtld(split_words(text))
        return process_time() - start

    seconds(1000)
    assert min(seconds(160_000) for _ in range(3)) < 40 * max(min(seconds(16_000) for _ in range(3)), 1e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="ab 1.", max_size=12), min_size=1, max_size=8), st.integers(1, 8), st.randoms())
def test_neither_order_nor_batches_change_a_value(texts, size, random):
    whole = MTLD()({"prompt": texts, "completion": texts})["mtld"]
    order = random.sample(range(len(texts)), len(texts))
    parts = []
    for start in range(0, len(texts), size):
        batch = [texts[i] for i in order[start : start + size]]
        parts += MTLD()({"prompt": batch, "completion": batch})["mtld"]
    assert list(map(str, parts)) == [str(whole[i]) for i in order]


def test_turns_are_weighted_by_their_words():
    messages = [("user", "?"), ("assistant", "a a b b c c"), ("user", "?"), ("assistant", "x y")]
    batch = {"messages": [[{"role": role, "content": text} for role, text in messages]]}
    assert MTLD()(batch) == {"mtld": [2.0]}
    assert MTLD(turns="all")(batch) == {"mtld": [(6 * 2.0 + 2 * 2.0) / 8]}


def test_hash_is_of_the_configuration():
    pool = Dataset.from_dict({"prompt": ["-"], "completion": ["a b a"]})
    used = MTLD()
    used({"prompt": ["-"], "completion": ["42"]})
    assert Hasher.hash(used) == Hasher.hash(MTLD()) == Hasher.hash(pickle.loads(pickle.dumps(used)))
    assert Hasher.hash(MTLD(0.7)) != Hasher.hash(MTLD())
    assert pool.map(MTLD(), batched=True)["mtld"][:] == pool.map(used, batched=True)["mtld"][:]


@pytest.mark.parametrize("threshold", [0, 1, -0.5, 72, float("nan")])
def test_a_threshold_that_is_no_ratio_is_refused(threshold):
    with pytest.raises(InstructMineError, match="threshold must be between 0 and 1"):
        MTLD(threshold)


def test_reasoning_and_calls_are_words_of_the_response():
    call = [{"function": {"name": "weather", "arguments": {"city": "Turku"}}}]
    message = {"role": "assistant", "content": "yes", "thinking": "one two", "tool_calls": call}
    batch = {"messages": [[{"role": "user", "content": "?"}, message]]}
    assert MTLD()(batch) == {"mtld": [3 + 5]}


def test_a_row_without_a_value_says_why():
    values, notes = MTLD().annotate({"prompt": ["?"] * 4, "completion": ["a b", "42", "", None]})
    assert [x != x for x in values["mtld"]] == [False, True, True, True]
    assert notes == [None, "no word", "empty response", "missing response"]


@pytest.mark.parametrize("threshold", ["x", None, True])
def test_a_threshold_that_is_no_number_is_one_line(threshold):
    with pytest.raises(InstructMineError, match="threshold must be between 0 and 1, not "):
        MTLD(threshold)
