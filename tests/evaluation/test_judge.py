"""Models before a judge: a complete table or one clear line, and nothing asked or paid for twice."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from openai_stub import KEY, drop, garbage, page, prefer, slow, status
from tiny_models import CHATML, byte_tokenizer, causal_model, save

import hf_instructmine as him
from hf_instructmine import InstructMineError


PROMPTS = [{"prompt": f"Question {i}"} for i in range(4)]
TURNS = [
    {"question_id": 5, "category": "writing", "turns": ["a", "b"], "reference": None},
    {"question_id": 6, "category": "math", "turns": ["c", "d"], "reference": ["C", "D"]},
]
FAST = {"retry_delays": (0.02,) * 6, "timeout": 0.5}


@pytest.fixture
def models(answer_file):
    """The second answers three of four better; both are good at the last."""
    return {
        "base": answer_file("base", "bad", "bad", "bad", "good"),
        "rule": answer_file("rule", "good", "good", "good", "good!"),
    }


def verdicts(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


# --- Pairs --------------------------------------------------------------------------------------------------------


def test_every_pair_is_shown_in_both_orders_and_a_win_needs_both(stub, models, tmp_path):
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert isinstance(found, him.Judgement)
    rule = found.preferences["rule"]
    assert (rule.win, rule.tie, rule.lose, rule.disagreements, rule.unusable) == (3, 1, 0, 0, 0)
    assert len(stub.bodies) == 8
    assert sorted((v["row"], v["order"], v["score"]) for v in verdicts(tmp_path / "out")) == sorted(
        (row, order, 0.5 if row == 3 else 1.0) for row in range(4) for order in ("forward", "backward")
    )
    page = (tmp_path / "out" / "judge.md").read_text()
    assert "rule against base" in page and "win 3, tie 1" in page


def test_a_judge_that_always_takes_the_first_gives_ties_alone(stub, models, tmp_path):
    stub.reply = lambda body: '{"explanation": "", "verdict": "A"}'
    rule = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out").preferences["rule"]
    assert (rule.win, rule.tie, rule.lose, rule.disagreements) == (0, 4, 0, 4)
    assert (rule.position_bias.first.value, rule.position_bias.second.value) == (1.0, 0.0)


def test_turns_are_clustered_by_question_and_references_shown_in_maths_alone(stub, answer_file, tmp_path):
    answers = {
        name: answer_file(name, *([[word] * 2] * 2))
        for name, word in {"one": "bad", "two": "good", "six": "bad"}.items()
    }
    found = him.judge(answers, TURNS, "openai:judge-1", tmp_path / "out", baseline="six")
    assert list(found.preferences) == ["one", "two"]
    two = found.preferences["two"]
    assert (two.pairs, two.questions, two.win) == (4, 2, 4)
    assert set(two.categories) == {"writing", "math"}
    shown = [body["messages"][-1]["content"] for body in stub.bodies]
    assert {("begin: reference answer" in text) for text in shown if "]\na\n[" in text} == {False}
    assert {("begin: reference answer" in text) for text in shown if "]\nc\n[" in text} == {True}


def test_given_references_are_all_shown(stub, models, tmp_path):
    him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", references=[{"reference": "R"}] * 4)
    assert all("reference answer]\nR\n" in body["messages"][-1]["content"] for body in stub.bodies)


def test_each_answer_may_be_rated(stub, models, tmp_path):
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", mode="single")
    assert {name: score.mean for name, score in found.scores.items()} == {"base": 4.5, "rule": 9.0}
    assert found.scores["base"].low <= 4.5 <= found.scores["base"].high
    assert found.differences["rule"].estimate == 4.5
    assert len(stub.bodies) == 8 and "rule less base" in found.summary()
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_a_judge_asked_again_agrees_with_itself_and_another_may_not(stub, models, tmp_path):
    one = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "one")
    again = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "again", seed=1)
    assert (one.agreement(again)["rule"].raw, one.agreement(again)["rule"].pairs) == (1.0, 4)
    stub.reply = lambda body: '{"explanation": "", "verdict": "A"}'
    other = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "other", seed=2)
    assert one.agreement(other)["rule"].raw == 0.25
    with pytest.raises(InstructMineError, match="are of other prompts"):
        one.agreement(replace(other, places=other.places[:3]))


def test_a_mistake_in_a_file_of_answers_leaves_it_and_the_folder_as_they_were(stub, models, tmp_path):
    with models["rule"].open("a") as file:
        file.write('{"row": 4, "turn": 0, "answer": "one too many"}')
    given = models["rule"].read_text()
    with pytest.raises(InstructMineError, match=r"'rule\.jsonl' has one too many \(row 4, turn 0\)"):
        him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert models["rule"].read_text() == given
    assert not stub.bodies and not (tmp_path / "out").exists()
    with pytest.raises(InstructMineError, match=r"the model 'rule': there is no file '.*absent\.jsonl' of answers"):
        him.judge({**models, "rule": tmp_path / "absent.jsonl"}, PROMPTS, "openai:judge-1", tmp_path / "out")


# --- People ---------------------------------------------------------------------------------------------------------


def test_people_tell_what_the_judge_is_worth(stub, models, tmp_path):
    people = [{"row": 0, "score": 1}, {"row": 0, "score": 1}, {"row": 0, "score": 0}, {"row": 1, "score": 1},
              {"row": 2, "score": 0}]  # fmt: skip
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", people=people)
    assert (found.people["rule"].raw, found.people["rule"].pairs) == (pytest.approx(2 / 3), 3)
    # It is right where people hold the rule's answer better, and wrong where they do not: it tells nothing.
    assert found.preferences["rule"].corrected is None
    assert "'rule' has no corrected win rate: no correction by this judge" in found.summary()
    assert "People on rule: the same verdict in 67% of 3 pairs" in found.summary()
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_people_correct_a_judge_that_follows_them(stub, answer_file, tmp_path):
    models = {
        "base": answer_file("base", "bad", "good", "bad", "good"),
        "rule": answer_file("rule", *["good", "bad"] * 2),
    }
    people = [{"row": row, "score": 1 - row % 2} for row in range(4)]
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", people=people)
    assert found.preferences["rule"].corrected.value == found.preferences["rule"].win_rate.value == 0.5
    assert not found.notes


@pytest.mark.parametrize(
    ("people", "told"),
    [
        ([{"row": 9, "score": 1}], "row 0 of people's verdicts: the prompts have no row 9, turn 0"),
        ([{"row": 0, "score": 2}], "row 0 of people's verdicts: score must be 1, 0.5 or 0, not 2"),
        ([{"row": 0, "score": 1, "model": "gpt"}], "row 0 of people's verdicts is of 'gpt': the models are rule"),
        ([{"line": 0, "score": 1}], "people's verdicts have no column 'row': they need row, score"),
        ([{"row": 0, "score": 1}], "people's verdicts on 'rule' are all on one side"),
    ],
)
def test_verdicts_of_people_that_are_of_no_use_are_told_before_any_call(stub, models, tmp_path, people, told):
    with pytest.raises(InstructMineError) as error:
        him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", people=people)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not stub.bodies and not (tmp_path / "out").exists()


# --- What goes wrong on the way -----------------------------------------------------------------------------------


def test_a_table_is_complete_whatever_passes(stub, models, tmp_path):
    faults = [
        status(429),
        status(429, Retry_After="0.1"),
        status(500),
        status(503),
        slow(0.8),
        drop,
        garbage,
        page(502),
    ]
    stub.faults.extend(faults)
    stub.checks.extend([status(503), drop])
    rule = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", **FAST).preferences["rule"]
    assert (rule.win, rule.tie, rule.lose, rule.unusable) == (3, 1, 0, 0)


def test_refusals_and_malformed_verdicts_are_counted_and_never_guessed(stub, models, tmp_path):
    plain = prefer()
    stub.reply = lambda body: "A, clearly." if "Question 0" in body["messages"][-1]["content"] else plain(body)
    stub.message = lambda body: {"refusal": "No."} if "Question 1" in body["messages"][-1]["content"] else {}
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert found.problems == {"malformed": 2, "refused": 2} and found.asked_again == 4
    rule = found.preferences["rule"]
    assert (rule.win, rule.tie, rule.unusable) == (1, 1, 2)
    assert "2 malformed, 2 refused" in found.summary()


def test_a_judge_without_any_verdict_is_one_line(stub, models, tmp_path):
    stub.reply = lambda body: "Both are lovely."
    with pytest.raises(InstructMineError, match=r"no usable verdict \(8 malformed\)"):
        him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert len(verdicts(tmp_path / "out")) == 8


def test_what_was_judged_before_a_failure_is_kept_and_gone_on_from(stub, models, tmp_path):
    stub.faults.extend([None] * 3 + [status(401)])
    with pytest.raises(InstructMineError, match=r"refuses the key .*; 3 of 8 verdicts are kept"):
        him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", concurrency=1)
    assert len(verdicts(tmp_path / "out")) == 3
    assert him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out").preferences["rule"].pairs == 4
    assert set(stub.answered.values()) == {1}


def test_a_rerun_asks_nothing(stub, models, tmp_path):
    first = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    asked = len(stub.seen)
    again = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert len(stub.seen) == asked and again.to_dict() == first.to_dict()
    (tmp_path / "out" / "verdicts.jsonl").unlink()  # the replies are there
    him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    assert len(stub.bodies) == 8


# --- Before any cost ----------------------------------------------------------------------------------------------


def test_a_dry_run_tells_the_cost_and_asks_and_writes_nothing(stub, models, tmp_path):
    found = him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", dry_run=True, prices=(1000, 1000))
    assert (found.plan.answers, found.plan.calls, found.plan.output_tokens) == (0, 8, 800)
    assert found.plan.cost == pytest.approx((found.plan.input_tokens + 800) / 1000)
    assert "Dry run: 0 answers to write; 8 calls" in found.summary()
    assert not stub.seen and not (tmp_path / "out").exists()


def test_the_cost_is_told_before_the_first_call(stub, models, tmp_path, caplog):
    stub.checks.append(status(401))
    with pytest.raises(InstructMineError):
        him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out", prices=(1, 2))
    assert "8 calls of the judge" in caplog.text and "costs about" in caplog.text


WRONG = {
    "another model": ("openai:gpt-9", {}, "does not serve this model"),
    "no API": ("openai:judge-1", {"base_url": "{root}"}, "base_url, which usually ends in /v1"),
    "no network": ("openai:judge-1", {"base_url": "http://127.0.0.1:9/v1"}, "cannot be reached"),
    "an empty set": ("openai:judge-1", {"prompts": []}, "the prompts are empty"),
    "other prompts": ("openai:judge-1", {"prompts": PROMPTS[:2]}, "the answers of 'base' are to other prompts"),
    "one model": ("openai:judge-1", {"models": 1}, "one model cannot be compared"),
    "no such baseline": ("openai:judge-1", {"baseline": "x"}, "the baseline 'x' is none of the models: base, rule"),
    "no such mode": ("openai:judge-1", {"mode": "three"}, "mode must be 'pair' or 'single'"),
    "a judge that is not there": ("no/such-model-here", {}, "cannot load the"),
    "prices": ("openai:judge-1", {"prices": (1,)}, "prices are two numbers"),
}


@pytest.mark.parametrize("judge, options, told", WRONG.values(), ids=WRONG)
def test_a_mistake_is_one_line_before_any_verdict(stub, models, tmp_path, judge, options, told):
    options = {key: value.format(root=stub.url[:-3]) if key == "base_url" else value for key, value in options.items()}
    prompts = options.pop("prompts", PROMPTS)
    models = dict(list(models.items())[: options.pop("models", 2)])
    with pytest.raises(InstructMineError, match=told) as error:
        him.judge(models, prompts, judge, tmp_path / "out", retry_delays=(0.01,), **options)
    assert "\n" not in str(error.value) and not stub.bodies


def test_a_mended_mistake_goes_on_in_the_same_folder(stub, models, tmp_path):
    with pytest.raises(InstructMineError, match="does not serve"):
        him.judge(models, PROMPTS, "openai:gpt-9", tmp_path / "out")
    assert him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out").preferences


@pytest.mark.parametrize(
    "change, told",
    [
        ({"baseline": "rule"}, "baseline: base → rule"),
        ({"seed": 3}, "seed: 0 → 3"),
        ({"mode": "single"}, "mode: pair → single"),
        ({"references": [{"reference": "R"}] * 4}, "other references"),
        ({"judge": "openai:judge-2"}, "judge: openai:judge-1 → openai:judge-2"),
        ({"prompts": [{"prompt": f"Other {i}"} for i in range(4)]}, "other prompts"),
    ],
)
def test_another_request_in_the_same_folder_is_refused_by_what_differs(stub, models, tmp_path, change, told):
    stub.models.append("judge-2")
    him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    given = {"prompts": PROMPTS, "judge": "openai:judge-1", **change}
    asked = len(stub.seen)
    with pytest.raises(InstructMineError, match=f"holds another judgement .*{told}"):
        him.judge(models, output_dir=tmp_path / "out", **given)
    assert len(stub.seen) == asked


def test_the_folder_tells_neither_key_nor_path_nor_address(stub, models, tmp_path):
    stub.reply = lambda body: json.dumps({"explanation": KEY, "verdict": "A"})
    him.judge(models, PROMPTS, "openai:judge-1", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.*"):
        text = path.read_text()
        assert KEY not in text and str(tmp_path) not in text and "127.0.0.1" not in text


# --- The whole of it, killed --------------------------------------------------------------------------------------

CHILD = """
import sys
from hf_instructmine.evaluation import generation
answer = generation.Generator.answer
def noted(self, prompts, keys):
    open(sys.argv[1], "a").write("".join(f"{len(prompt)} {key}\\n" for prompt, key in zip(prompts, keys)))
    return answer(self, prompts, keys)
generation.Generator.answer = noted
from hf_instructmine.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def test_nothing_is_written_or_judged_twice_after_two_kills(stub, tmp_path):
    tokenizer, folders = byte_tokenizer(chat_template=CHATML), {}
    for seed, name in enumerate(("base", "rule")):
        folders[name] = save(tmp_path / name, causal_model("llama", tokenizer, seed=seed), tokenizer)
    prompts, out, log = tmp_path / "prompts.jsonl", tmp_path / "out", tmp_path / "log"
    prompts.write_text("".join(json.dumps({"prompt": f"Question {'x' * i}"}) + "\n" for i in range(6)))
    command = [
        sys.executable, "-c", CHILD, str(log), "judge", *(f"{name}={place}" for name, place in folders.items()),
        "--prompts", str(prompts), "--judge", "openai:judge-1", "--output-dir", str(out), "--max-new-tokens", "30",
        "--batch-size", "1", "--concurrency", "2",
    ]  # fmt: skip

    def run_until(happened) -> None:
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=os.environ) as process:
            deadline = time.monotonic() + 120
            while not happened() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            assert process.poll() is None
            time.sleep(0.3)
            process.kill()

    first = out / "answers-rule.jsonl"
    stub.hold = 0  # a verdict that a kill takes on its way is asked for again, as it should be
    run_until(lambda: first.exists() and Path(log).read_text().count("\n") >= 7)
    answered = {name: _answered(out, name) for name in folders}
    kept = {name: (out / f"answers-{name}.jsonl").read_bytes() for name in folders}
    stub.hold = 5
    stub.held.clear()

    def sent() -> int:
        return sum(stub.answered.values())

    told = out / "verdicts.jsonl"
    run_until(lambda: stub.held.is_set() and told.exists() and told.read_text().count("\n") == sent())
    assert 5 <= len(verdicts(out)) == sent() <= 6  # two are asked at a time
    stub.hold = None
    stub.go.set()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rule against base" in done.stdout
    assert set(stub.answered.values()) == {1} and sent() == 12
    assert len(verdicts(out)) == 12
    for name in folders:
        assert (out / f"answers-{name}.jsonl").read_bytes().startswith(kept[name].rpartition(b"\n")[0])
        assert len(_answered(out, name)) == 6 >= len(answered[name])
    # Each was begun once, but for the one or two that a kill took.
    assert len(log.read_text().splitlines()) <= 12 + 2


def _answered(folder, name) -> list[int]:
    whole = (folder / f"answers-{name}.jsonl").read_bytes().rpartition(b"\n")[0].decode()
    rows = [json.loads(line)["row"] for line in whole.splitlines()]
    assert len(rows) == len(set(rows))
    return rows
