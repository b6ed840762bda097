"""Which tasks a name stands for, with shots and metrics: known without data, a network or a model."""

import sys

import pytest
import yaml

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.tasks import resolve


pytest.importorskip("lm_eval", reason="pip install 'hf-instructmine[benchmarks]'")


def told(names, **options):
    """Shots and metric of each benchmark."""
    return {b.name: (b.leaves[0].fewshot, b.leaves[0].metric, len(b.leaves)) for b in resolve(names, **options)}


def test_openllm_is_the_leaderboards_six_with_its_shots_and_metrics():
    assert told(["openllm"]) == {
        "arc_challenge": (25, "acc_norm", 1),
        "hellaswag": (10, "acc_norm", 1),
        "mmlu": (5, "acc", 57),
        "truthfulqa_mc2": (0, "acc", 1),
        "winogrande": (5, "acc", 1),
        "gsm8k": (5, "exact_match", 1),
    }


def test_openllm_has_the_shots_of_lm_evals_own_group():
    ours = {b.name: {leaf.fewshot for leaf in b.leaves} for b in resolve(["openllm"])}
    from lm_eval.tasks import TaskManager

    folder = sys.modules["lm_eval"].__path__[0] + "/tasks/benchmarks"
    group = TaskManager(include_path=folder, include_defaults=False).task_index["openllm"].cfg
    theirs = {one["task"]: {one["num_fewshot"]} for one in group["task"]}
    assert theirs.pop("truthfulqa") == ours.pop("truthfulqa_mc2")
    assert ours == theirs


def test_the_papers_four_have_a_name_of_their_own():
    assert list(told(["openllm-paper"])) == ["arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2"]


def test_a_group_whose_tasks_differ_in_metric_is_given_as_its_parts():
    assert told(["leaderboard"]) == {
        "leaderboard_mmlu_pro": (5, "acc", 1),
        "leaderboard_bbh": (3, "acc_norm", 24),
        "leaderboard_gpqa": (0, "acc_norm", 3),
        "leaderboard_math_hard": (4, "exact_match", 7),
        "leaderboard_ifeval": (0, "prompt_level_strict_acc", 1),
        "leaderboard_musr": (0, "acc_norm", 3),
    }


def test_verifiable_tasks_and_the_one_that_comes_with_us():
    assert told(["ifeval", "gsm8k", "own_response"]) == {
        "ifeval": (0, "prompt_level_strict_acc", 1),
        "gsm8k": (5, "exact_match", 1),
        "own_response": (0, "acc_norm", 1),
    }


def test_intervals_are_over_the_tasks_of_a_group_that_has_enough_of_them():
    grouped = {b.name: b.grouped for b in resolve(["mmlu", "leaderboard_musr", "gsm8k"])}
    assert grouped == {"mmlu": True, "leaderboard_musr": False, "gsm8k": False}


@pytest.mark.parametrize(
    "name, told",
    [
        ("arc_chalenge", "lm-eval has no task 'arc_chalenge'; did you mean arc_challenge"),
        ("openlm", "did you mean openllm"),
        ("own_respons", "did you mean own_response?"),
        ("absent.yaml", "there is no file 'absent.yaml' with a task of lm-eval"),
        ("..", "lm-eval has no task '..'"),
        ("wikitext", "the task 'wikitext' measures perplexity, which is no score of a question"),
    ],
)
def test_an_unknown_task_is_named_with_the_nearest(name, told):
    with pytest.raises(InstructMineError) as error:
        resolve([name])
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def local(tmp_path):
    """A task of the user's, whose questions lie beside it."""
    (tmp_path / "questions.jsonl").write_text('{"question": "2 + 2?", "choices": ["4", "5"], "answer": 0}\n' * 3)
    task = {
        "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
        "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}", "doc_to_target": "answer", "num_fewshot": 2,
        "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(task))
    return tmp_path


def test_a_yaml_of_the_users_by_file_and_by_folder(local):
    assert told([str(local / "sums.yaml")]) == told(["sums"], include_path=local) == {"sums": (2, "acc", 1)}


def test_its_data_files_are_found_beside_it(local):
    (leaf,) = resolve(["sums"], include_path=local)[0].leaves
    with pytest.raises(InstructMineError, match="include_path: there is no folder"):
        resolve(["own_response"], include_path=local / "absent")
    assert leaf.overrides["dataset_kwargs"]["data_files"] == {"test": str(local / "questions.jsonl")}


@pytest.mark.parametrize("text, told", [("a: [", "cannot be read"), ("a: b", "is no task"), ("[1]", "cannot be read")])
def test_a_yaml_that_is_no_task_is_refused_in_one_line(tmp_path, text, told):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InstructMineError, match=told) as error:
        resolve([str(tmp_path / "bad.yaml")])
    assert "\n" not in str(error.value)


def test_without_lm_eval_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(InstructMineError, match=r"pip install 'hf-instructmine\[benchmarks\]'"):
        resolve(["openllm"])


def test_one_name_is_no_list_of_names():
    with pytest.raises(InstructMineError, match=r"benchmarks=\['mmlu'\]"):
        resolve("mmlu")
