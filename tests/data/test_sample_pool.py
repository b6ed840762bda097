import json
import re
from collections import Counter
from importlib.resources import files

import pytest

from hf_instructmine.data.sample_pool import DAMAGES, load_sample_evaluation, load_sample_pool


KINDS = ("explain", "howto", "rewrite", "reason", "create")
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=SEEDS)
def pool(request):
    return load_sample_pool(seed=request.param).to_list()


@pytest.fixture(scope="module")
def evaluation():
    return load_sample_evaluation().to_list()


def good(rows):
    return [row for row in rows if row["source"] in KINDS]


def damaged_pairs(rows, source):
    """Each damaged row of a source with the good row it was made from; the instruction identifies it."""
    originals = {row["instruction"]: row for row in good(rows)}
    return [(row, originals[row["instruction"]]) for row in rows if row["source"] == source]


def prompt_ngrams(row, n=8):
    words = re.findall(r"\w+", f"{row['instruction']} {row['input']}".lower())
    return {tuple(words[i : i + n]) for i in range(len(words) - n + 1)}


def test_counts(pool):
    assert DAMAGES == ("truncated", "mismatched", "repeated", "off_topic", "gibberish")
    assert Counter(row["source"] for row in pool) == dict.fromkeys(KINDS + DAMAGES, 40)


def test_columns():
    columns = ["instruction", "input", "output", "source"]
    assert load_sample_pool().column_names == columns
    assert load_sample_evaluation().column_names == columns


def test_same_seed_same_pool():
    assert load_sample_pool(seed=3).to_list() == load_sample_pool(seed=3).to_list()
    assert load_sample_pool().to_list() == load_sample_pool(seed=0).to_list()


def test_another_seed_changes_damage_and_order_but_not_the_good_rows():
    def texts(rows):
        return {tuple(row.values()) for row in rows}

    first, second = load_sample_pool(seed=0).to_list(), load_sample_pool(seed=1).to_list()
    assert texts(good(first)) == texts(good(second))
    assert good(first) != good(second)
    for source in DAMAGES:
        assert texts(row for row in first if row["source"] == source) != texts(
            row for row in second if row["source"] == source
        )


def test_sources_are_mixed(pool):
    assert len({row["source"] for row in pool[:50]}) > 5


def test_no_text_is_empty(pool, evaluation):
    for row in pool + evaluation:
        assert row["instruction"].strip()
        assert row["output"].strip()


def test_instructions_and_answers_are_distinct(pool, evaluation):
    rows = good(pool) + evaluation
    assert len({row["instruction"] for row in rows}) == 248
    assert len({row["output"] for row in rows}) == 248


def test_answers_have_ordinary_lengths(pool, evaluation):
    lengths = [len(row["output"].split()) for row in good(pool) + evaluation]
    assert min(lengths) >= 10
    assert max(lengths) <= 250


@pytest.mark.parametrize("source", DAMAGES)
def test_damage_changes_the_answer_and_nothing_else(pool, source):
    pairs = damaged_pairs(pool, source)
    assert len({row["instruction"] for row, _ in pairs}) == 40
    for row, original in pairs:
        assert row["input"] == original["input"]
        assert row["output"] != original["output"]


def test_truncated_stops_in_mid_sentence(pool):
    for row, original in damaged_pairs(pool, "truncated"):
        assert original["output"].startswith(row["output"])
        share = len(row["output"].split()) / len(original["output"].split())
        assert 0.15 <= share <= 0.5
        rest = original["output"][len(row["output"]) :]
        assert rest[0] == " "
        assert not row["output"].endswith(("!", "?", ":"))
        # A full stop only remains after the number of a list item whose text is cut off.
        assert not row["output"].endswith(".") or row["output"].split()[-1].rstrip(".").isdigit()


def test_mismatched_answers_another_question(pool):
    answers = {row["output"]: row["instruction"] for row in good(pool)}
    for row, _ in damaged_pairs(pool, "mismatched"):
        assert answers[row["output"]] != row["instruction"]


def test_repeated_is_the_opening_many_times(pool):
    for row, original in damaged_pairs(pool, "repeated"):
        output = row["output"]
        openings = {times: output[: (len(output) + 1) // times - 1] for times in range(5, 11)}
        assert any(
            output == " ".join([opening] * times) and original["output"].startswith(opening)
            for times, opening in openings.items()
        )


def test_off_topic_is_unrelated_to_the_question(pool):
    pairs = damaged_pairs(pool, "off_topic")
    for row, original in pairs:
        assert row["output"] not in original["output"]
        assert row["output"].endswith(".")
    # The same few statements stand under many different questions.
    sentences = Counter(sentence for row, _ in pairs for sentence in re.split(r"(?<=\.) ", row["output"]))
    assert len(sentences) <= 20
    assert sum(sentences.values()) >= 40


def test_gibberish_is_the_answer_scrambled(pool):
    forms = Counter()
    for row, original in damaged_pairs(pool, "gibberish"):
        scrambled, answer = row["output"], original["output"]
        if sorted(scrambled.split()) == sorted(answer.split()):
            forms["words"] += 1
        elif sorted(scrambled) == sorted(answer):
            forms["letters"] += 1
        else:
            forms["random"] += 1
            assert re.sub(r"\w", "x", scrambled) == re.sub(r"\w", "x", answer)
        in_place = sum(a == b for a, b in zip(scrambled.split(), answer.split()))
        assert in_place < 0.5 * len(answer.split())
    assert set(forms) == {"words", "letters", "random"}


def test_evaluation_rows(evaluation):
    assert len(evaluation) == 48
    assert {row["source"] for row in evaluation} == {"evaluation"}


def test_evaluation_is_disjoint_from_the_pool(pool, evaluation):
    assert not {row["instruction"] for row in pool} & {row["instruction"] for row in evaluation}
    pool_ngrams = set().union(*map(prompt_ngrams, pool))
    for row in evaluation:
        assert not prompt_ngrams(row) & pool_ngrams


@pytest.mark.parametrize("name", ["examples.jsonl", "evaluation.jsonl"])
def test_files_are_utf8_json_lines(name):
    content = files("hf_instructmine").joinpath("data", name).read_bytes()
    assert content.endswith(b"\n")
    for line in content.decode("utf-8").removesuffix("\n").split("\n"):
        row = json.loads(line)
        assert list(row) == ["instruction", "input", "output", "source"]
        assert all(isinstance(text, str) for text in row.values())
