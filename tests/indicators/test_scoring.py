"""Scoring a pool in shards: what is finished is kept and never done again, whatever happens in between."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from tiny_models import CHATML, ROWS, byte_tokenizer, causal_model, save, t5_model, unigram_tokenizer

from hf_instructmine import (
    MTLD,
    InputLength,
    InstructMineError,
    OutputLength,
    Perplexity,
    UniEval,
    get_provenance,
    score,
)
from hf_instructmine.data.inputs import load_pool
from hf_instructmine.data.texts import pool_digest


SHARD = 256
WORDS = ["the", "a", "dog", "cat", "met", "in", "street", "and", "looked", "at", "each", "other", "then", "went"]


def pool_of(rows: int, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(1, 40))) for _ in range(rows)]
    return Dataset.from_dict({"instruction": [f"Question {i}?" for i in range(rows)], "output": texts})


def shards(folder: Path) -> dict[str, int]:
    """Every shard that is there, and when it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob(".columns/*/*.parquet")}


def equal(one: Dataset, other: Dataset) -> bool:
    return one.column_names == other.column_names and all(
        np.array_equal(one[name][:], other[name][:], equal_nan=name in get_provenance(one))
        for name in one.column_names
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("tokenizers") / "tiny"
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    tokenizer = byte_tokenizer(chat_template=CHATML)
    return save(tmp_path_factory.mktemp("models") / "tiny", causal_model("llama", tokenizer), tokenizer)


# --- What it returns ----------------------------------------------------------------------------------------------


def test_the_pool_gains_a_column_per_indicator_and_changes_nothing_else(tokenizer):
    pool = pool_of(5).add_column("source", ["web"] * 5)
    scored = score(pool, [MTLD(), OutputLength(tokenizer)])
    assert scored.column_names == ["instruction", "output", "source", "mtld", "output_length"]
    assert scored.remove_columns(["mtld", "output_length"]).to_dict() == pool.to_dict()
    assert scored["mtld"][:] == MTLD()(pool[:])["mtld"]
    assert {scored.features[name].dtype for name in ("mtld", "output_length")} == {"float64"}


def test_several_shards_hold_the_rows_in_their_order():
    pool = pool_of(2 * SHARD + 10)
    scored = score(pool, [MTLD()])
    assert scored["instruction"][:] == pool["instruction"][:]
    assert scored["mtld"][:] == MTLD()(pool[:])["mtld"]


def test_a_view_of_a_pool_is_scored_as_its_rows():
    pool = pool_of(20).shuffle(seed=1).select(range(10))
    assert score(pool, [MTLD()])["mtld"][:] == MTLD()(pool[:])["mtld"]


def test_pools_of_several_layouts_are_scored_row_by_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"instruction": "q", "output": "one two"}))
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one two three"}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": talk}))
    (tmp_path / "c.jsonl").write_text(json.dumps({"question": "q", "answer": "one two three four"}))
    pool = load_pool([str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "c.jsonl")])
    scored = score(pool, [MTLD()], tmp_path / "scored")
    assert scored["mtld"][:] == [2, 3, 4]
    assert scored[1]["messages"] == talk


def test_columns_and_turns_are_the_indicators_own():
    pool = Dataset.from_dict({"q": ["a"], "best": ["one two"], "worst": ["one"]})
    assert score(pool, [MTLD(columns={"prompt": "q", "response": "best"})])["mtld"][:] == [2]


# --- What is counted ----------------------------------------------------------------------------------------------


def test_rows_without_a_value_stay_are_nan_and_are_counted(tmp_path, tokenizer):
    pool = Dataset.from_dict({"prompt": list("abcde"), "completion": ["one two", "", None, "42", "two"]})
    scored = score(pool, [MTLD(), OutputLength(tokenizer)], tmp_path)
    assert np.isnan(scored["mtld"][:]).tolist() == [False, True, True, True, False]
    report = json.loads((tmp_path / "report.json").read_text())
    notes = {"empty response": 1, "missing response": 1}
    assert report["mtld"] == {"rows": 5, "nan": 3, "notes": {**notes, "no word": 1}}
    assert report["output_length"] == {"rows": 5, "nan": 2, "notes": notes}


def test_columns_that_are_not_read_are_named_once(tmp_path, caplog):
    pool = Dataset.from_dict({"prompt": ["a"], "completion": ["one two"], "thinking": ["three"], "id": [7]})
    score(pool, [MTLD()], tmp_path)
    line = "not read, though they may carry text or meaning: 'thinking'; read the reasoning with columns="
    assert sum(line in record.message for record in caplog.records) == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["unread_columns"] == ["thinking"] and report.keys() == {"mtld", "unread_columns"}
    score(pool, [MTLD(columns={"reasoning": "thinking"})], tmp_path / "read")
    assert json.loads((tmp_path / "read/report.json").read_text()).keys() == {"mtld"}


def test_truncated_rows_are_counted_over_all_shards(tmp_path, model):
    pool = pool_of(SHARD + 20)
    score(pool, [Perplexity(model, max_length=64)], tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())["perplexity"]
    scored = Perplexity(model, max_length=64)
    scored(pool[:])
    assert report["notes"] == dict(scored.notes)
    assert report["notes"]["truncated response"] > 0
    assert report["nan"] == 0


def test_what_is_counted_is_said(caplog):
    score(Dataset.from_dict({"prompt": ["a", "b"], "completion": ["one", ""]}), [MTLD()])
    assert [record.message for record in caplog.records] == ["mtld: 2 rows, 1 without a value (1 empty response)"]


# --- What is kept -------------------------------------------------------------------------------------------------

KILLED_RUN = """
import sys, time
from pathlib import Path
import numpy as np
from datasets import Dataset
from hf_instructmine import score
from hf_instructmine.indicators.base import Indicator

class Slow(Indicator):
    '''Number of characters; writes down every row that it is given.'''
    names = ("characters",)
    def score(self, conversations):
        time.sleep(float(sys.argv[4]))
        with open(sys.argv[3], "a") as file:
            file.writelines(f"{c.prompt_text}\\n" for c in conversations)
        return np.array([[len(c.response)] for c in conversations], float), np.ones(len(conversations)), [
            "long" if len(c.response) > 100 else None for c in conversations
        ]
    def provenance(self):
        return {"indicator": "Slow"}

if __name__ == "__main__":
    score(Dataset.from_parquet(sys.argv[1]), [Slow()], sys.argv[2])
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    pool = pool_of(7 * SHARD + 100)
    pool.to_parquet(tmp_path / "pool.parquet")
    (tmp_path / "run.py").write_text(KILLED_RUN)

    def run(folder, log, pause):
        arguments = [tmp_path / "pool.parquet", tmp_path / folder, tmp_path / log, pause]
        return subprocess.Popen([sys.executable, tmp_path / "run.py", *map(str, arguments)], stderr=subprocess.DEVNULL)

    process = run("killed", "before", 0.3)
    deadline = time.monotonic() + 60
    while len(shards(tmp_path / "killed")) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = shards(tmp_path / "killed")
    assert 3 <= len(kept) < 8
    assert not (tmp_path / "killed" / "data").exists()

    assert run("killed", "after", 0).wait() == 0
    assert run("whole", "all", 0).wait() == 0
    again = (tmp_path / "after").read_text().splitlines()
    assert len(again) == len(pool) - SHARD * len(kept)
    assert len((tmp_path / "all").read_text().splitlines()) == len(pool)
    assert kept.items() <= shards(tmp_path / "killed").items()
    resumed, whole = (load_dataset(str(tmp_path / name), split="train") for name in ("killed", "whole"))
    assert equal(resumed, whole)
    assert (tmp_path / "killed/report.json").read_text() == (tmp_path / "whole/report.json").read_text()


def test_a_finished_run_scores_nothing_again(tmp_path, model):
    pool = pool_of(SHARD + 10)
    first = score(pool, [Perplexity(model)], tmp_path)
    before = shards(tmp_path)
    again = Perplexity(model)
    assert equal(score(pool, [again], tmp_path), first)
    assert shards(tmp_path) == before
    assert again._loaded is None


def test_another_indicator_costs_only_itself_and_joins_the_others(tmp_path, model):
    pool = pool_of(SHARD + 10)
    one = score(pool, [Perplexity(model)], tmp_path)
    before = shards(tmp_path)
    both = score(pool, [MTLD()], tmp_path)
    assert before.items() <= shards(tmp_path).items()
    assert both["perplexity"][:] == one["perplexity"][:]
    assert get_provenance(both).keys() == {"perplexity", "mtld"}
    assert json.loads((tmp_path / "report.json").read_text()).keys() == {"perplexity", "mtld"}
    assert equal(load_dataset(str(tmp_path), split="train"), both)
    loads_nothing = Perplexity(model)
    assert score(pool, [MTLD(), loads_nothing], tmp_path)["perplexity"][:] == one["perplexity"][:]
    assert loads_nothing._loaded is None


def test_further_columns_of_the_same_model_are_not_taken_for_those_that_are_there(tmp_path, model):
    pool = pool_of(5)
    plain = score(pool, [Perplexity(model)], tmp_path)
    more = score(pool, [Perplexity(model, also=("ifd",))], tmp_path)
    assert more["perplexity"][:] == pytest.approx(plain["perplexity"][:], rel=1e-4)
    assert np.isfinite(more["ifd"][:]).all()


def test_a_part_of_the_dimensions_is_another_run(tmp_path):
    tokenizer = unigram_tokenizer()
    folder = save(tmp_path / "t5", t5_model(tokenizer, tied=True), tokenizer)
    score(pool_of(3), [UniEval(folder, dimensions=("naturalness",))], tmp_path / "scored")
    score(pool_of(3), [UniEval(folder, dimensions=("naturalness", "coherence"))], tmp_path / "scored")
    assert {"naturalness", "coherence"} <= set(load_dataset(str(tmp_path / "scored"), split="train").column_names)


def test_scores_of_another_text_are_not_taken_for_those_that_are_there(tmp_path):
    pool = Dataset.from_dict({"q": ["a"], "best": ["one two"], "worst": ["one"]})
    for name, expected in (("best", 2), ("worst", 1)):
        assert score(pool, [MTLD(columns={"prompt": "q", "response": name})], tmp_path)["mtld"][:] == [expected]


def test_processes_change_nothing(tmp_path, model):
    pool = pool_of(SHARD + 50)
    pool = pool.map(lambda row, i: {"output": "" if i % 50 == 0 else row["output"]}, with_indices=True)
    alone = score(pool, [Perplexity(model)], tmp_path / "one")
    assert equal(score(pool, [Perplexity(model)], tmp_path / "two", num_proc=2), alone)
    assert (tmp_path / "one/report.json").read_text() == (tmp_path / "two/report.json").read_text()


def test_the_result_opens_with_the_usual_tools_and_the_kept_shards_are_no_part_of_it(tmp_path):
    pool = pool_of(SHARD + 5)
    scored = score(pool, [MTLD()], tmp_path)
    assert shards(tmp_path)
    splits = load_dataset(str(tmp_path))
    assert list(splits) == ["train"]
    assert equal(splits["train"], scored)
    assert equal(load_pool([str(tmp_path)]), scored)


def test_large_results_are_split_into_files(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_instructmine.indicators.scored_folder._ROWS_PER_FILE", 100)
    scored = score(pool_of(250), [MTLD()], tmp_path)
    assert len(list((tmp_path / "data").iterdir())) == 3
    assert equal(load_dataset(str(tmp_path), split="train"), scored)
    assert equal(score(pool_of(250), [MTLD()], tmp_path), scored)
    smaller = score(pool_of(50), [MTLD()], tmp_path, overwrite=True)
    assert len(list((tmp_path / "data").iterdir())) == 1
    assert equal(load_dataset(str(tmp_path), split="train"), smaller)


# --- Whose folder, whose column -----------------------------------------------------------------------------------


def test_a_column_is_replaced_only_where_asked():
    pool = pool_of(3).add_column("mtld", [0.0] * 3)
    with pytest.raises(InstructMineError, match=r"^the pool has a column 'mtld' already: .*overwrite=True"):
        score(pool, [MTLD()])
    assert score(pool, [MTLD()], overwrite=True)["mtld"][:] == MTLD()(pool_of(3)[:])["mtld"]


def test_a_column_made_otherwise_in_an_earlier_run_is_replaced_only_where_asked(tmp_path):
    first = score(pool_of(3), [MTLD()], tmp_path)
    message = r"holds a column 'mtld' that was made otherwise \(there: threshold=0.72; now: threshold=0.5\)"
    with pytest.raises(InstructMineError, match=message):
        score(pool_of(3), [MTLD(0.5)], tmp_path)
    assert equal(load_dataset(str(tmp_path), split="train"), first)
    score(pool_of(3), [MTLD(0.5)], tmp_path, overwrite=True)
    assert get_provenance(load_dataset(str(tmp_path), split="train"))["mtld"]["threshold"] == 0.5


def test_the_scores_of_another_pool_are_replaced_only_where_asked(tmp_path, tokenizer):
    first = score(pool_of(3), [MTLD(), InputLength(tokenizer)], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InstructMineError, match="holds the scores of another pool") as error:
        score(pool_of(3, seed=1), [MTLD()], tmp_path)
    assert "\n" not in str(error.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    second = score(pool_of(3, seed=1), [MTLD()], tmp_path, overwrite=True)
    assert "input_length" not in second.column_names
    assert not equal(second, first)
    assert equal(load_dataset(str(tmp_path), split="train"), second)


def test_a_run_killed_in_its_first_instant_is_gone_on_with(tmp_path):
    (tmp_path / ".columns").mkdir()
    (tmp_path / ".columns/.pool.json.4711").write_text('{"rows')
    assert len(score(pool_of(3), [MTLD()], tmp_path)) == 3


def test_a_folder_that_holds_other_files_is_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InstructMineError, match=r"holds other files \('thesis.txt', …\): choose an empty output_dir"):
        score(pool_of(3), [MTLD()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    score(pool_of(3), [MTLD()], tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_two_indicators_of_one_column_are_refused():
    with pytest.raises(InstructMineError, match="two indicators make the column 'mtld'"):
        score(pool_of(3), [MTLD(), MTLD(0.5)])


@pytest.mark.parametrize("num_proc", [0, -1])
def test_some_process_is_needed(num_proc):
    with pytest.raises(InstructMineError, match=f"num_proc={num_proc} scores nothing"):
        score(pool_of(3), [MTLD()], num_proc=num_proc)


def test_no_indicator():
    with pytest.raises(InstructMineError, match="no indicator was given"):
        score(pool_of(3), [])


def test_a_bad_row_is_named_by_its_number_in_the_pool_before_any_model_loads(tmp_path):
    talks = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]] * (2 * SHARD)
    talks[SHARD + 44] = [{"role": "wizard", "content": "q"}]
    pool = Dataset.from_dict({"messages": talks})
    for indicator in (MTLD(), Perplexity("nobody/no-such-model")):
        with pytest.raises(InstructMineError, match=rf"^row {SHARD + 44}, column 'messages': .* role 'wizard'"):
            score(pool, [indicator], tmp_path)
    assert not list(tmp_path.iterdir())


# --- Small parts --------------------------------------------------------------------------------------------------


def test_the_digest_is_of_names_values_and_order(tmp_path):
    pool = pool_of(2000)
    pool.to_json(tmp_path / "pool.jsonl")
    pool.to_csv(tmp_path / "pool.csv")
    for name in ("pool.jsonl", "pool.csv"):
        assert pool_digest(load_pool([str(tmp_path / name)])) == pool_digest(pool)
    changed = [
        pool.shuffle(seed=0),
        pool.select(range(1999)),
        pool.rename_column("output", "response"),
        pool.map(lambda row, i: {"output": row["output"] + "!" if i == 1500 else row["output"]}, with_indices=True),
    ]
    assert len({pool_digest(other) for other in [pool, *changed]}) == 5


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on the size of a file stands for a full disk")
def test_a_full_disk_is_one_line_and_what_was_scored_is_kept(tmp_path):
    import resource

    pool = pool_of(SHARD + 10)
    pool = pool.add_column("long", ["x" * 200] * len(pool))  # the shards are small, the scored pool is not
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(InstructMineError, match=r"cannot write '.*': .*what is finished is kept"):
            score(pool, [MTLD()], tmp_path / "scored")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    kept = shards(tmp_path / "scored")
    assert len(kept) == 2
    score(pool, [MTLD()], tmp_path / "scored")
    assert shards(tmp_path / "scored") == kept


@pytest.mark.parametrize("format", ["numpy", "pandas", "arrow", "torch"])
def test_the_format_of_a_pool_changes_nothing(format, tmp_path):
    messages = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in ROWS[:4]]
    pool = Dataset.from_dict({"messages": messages})
    plain = score(pool, [MTLD()], output_dir=tmp_path / "plain")
    formatted = score(pool.with_format(format), [MTLD()], output_dir=tmp_path / "formatted")
    np.testing.assert_array_equal(np.array(formatted.with_format(None)["mtld"]), np.array(plain["mtld"]))


def test_rows_that_the_chat_template_refuses_are_told_before_a_model_runs(caplog, monkeypatch):
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    tokenizer = byte_tokenizer(chat_template=template + "<|{{ m.role }}|>{{ m.content }}{% endfor %}")
    indicator = Perplexity(causal_model("llama", tokenizer), tokenizer)
    told = []
    monkeypatch.setattr(
        Perplexity, "score", lambda self, c: told.extend(r.getMessage() for r in caplog.records) or 1 / 0
    )
    pool = Dataset.from_dict({"prompt": ["a"] * 3, "completion": ["b"] * 3, "system": [None, "c", "d"]})
    with pytest.raises(ZeroDivisionError):
        score(pool, [indicator])
    expected = "perplexity: 2 of 3 rows will have no value, the first of them row 1: the chat template of "
    assert [line[: len(expected)] for line in told] == [expected] and "no system" in told[0]
