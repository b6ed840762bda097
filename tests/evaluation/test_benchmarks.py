"""Benchmarks by lm-eval on a loaded model: its own numbers, each question's score, and no text of either side."""

import json
import sys

import pytest
import yaml
from tiny_models import CHATML, byte_tokenizer, causal_model

from hf_instructmine import InstructMineError
from hf_instructmine.evaluation.benchmarks import load_tasks, run_benchmark, told
from hf_instructmine.evaluation.tasks import resolve
from hf_instructmine.models.loading import ModelSource


pytest.importorskip("lm_eval", reason="pip install 'hf-instructmine[benchmarks]'")


@pytest.fixture(scope="module")
def loaded():
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    model = causal_model("llama", tokenizer)
    return ModelSource.of(model, tokenizer, "AutoModelForCausalLM", None)[1]


@pytest.fixture(scope="module")
def own():
    """The task that comes with the package, and its questions."""
    (benchmark,) = resolve(["own_response"])
    return benchmark, load_tasks(benchmark)


@pytest.fixture
def task(tmp_path):
    """Makes a task of the user's of three sums."""

    def make(**changes):
        rows = [{"question": f"{n} + 1?", "choices": ["4", "15"], "answer": n % 2} for n in range(3)]
        (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
        config = {
            "task": "sums", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}},
            "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}", "doc_to_target": "answer", "metric_list": [{"metric": "acc"}], **changes,
        }  # fmt: skip
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(config))
        return resolve([str(tmp_path / "sums.yaml")])[0]

    return make


def test_its_scores_are_those_of_simple_evaluate(loaded, own):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    benchmark, tasks = own
    record = run_benchmark(loaded, benchmark, tasks, limit=5)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, softmax_dtype="float32")
    theirs = simple_evaluate(model, tasks=list(tasks.values()), limit=5, bootstrap_iters=0)
    assert record["scores"] == [one["acc_norm"] for one in theirs["samples"]["own_response"]]
    assert record["results"]["own_response"]["acc_norm,none"] == theirs["results"]["own_response"]["acc_norm,none"]
    assert sum(record["scores"]) / 5 == record["results"]["own_response"]["acc_norm,none"]


def test_a_record_has_numbers_of_each_question_and_no_text(loaded, own):
    record = run_benchmark(loaded, *own, limit=4)
    assert record["questions"] == [f"own_response:{n}" for n in range(4)]
    assert len(set(record["digests"])) == 4 and set(record["scores"]) <= {0.0, 1.0}
    assert len(set(record["clusters"])) == 2  # two questions a row of the data
    assert "Moon" in str(own[1]["own_response"].eval_docs[0]) and "Moon" not in json.dumps(record)


def test_with_the_chat_template_it_is_asked_otherwise(loaded, own, monkeypatch):
    asked = []
    benchmark, tasks = own

    def noted(self, requests, **options):
        asked.append(requests[0].args[0])
        return [(0.0, False)] * len(requests)

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.loglikelihood", noted)
    for chat_template in (False, True):
        run_benchmark(loaded, benchmark, tasks, limit=1, chat_template=chat_template)
    question = "Why do we always see the same face of the Moon?"
    assert asked == [question, f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"]


def test_questions_by_number(loaded, own):
    record = run_benchmark(loaded, *own, samples={"own_response": [7, 2]})
    assert record["questions"] == ["own_response:2", "own_response:7"]


def test_a_task_of_the_users_with_solved_examples(loaded, task):
    benchmark = task(num_fewshot=1, fewshot_split="test")
    record = run_benchmark(loaded, benchmark, load_tasks(benchmark))
    assert (len(record["scores"]), record["clusters"], record["unit"]) == (3, None, "acc")


def test_questions_are_the_same_for_every_model_whatever_was_drawn_before(loaded, task):
    benchmark = task(num_fewshot=2, fewshot_split="test")
    tasks = load_tasks(benchmark)
    first, second = (run_benchmark(loaded, benchmark, tasks)["scores"] for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "name, told",
    [
        ("arc_challenge", r"the task 'arc_challenge' \(allenai/ai2_arc ARC-Challenge\) cannot be had"),
        ("mmlu", r"the task 'mmlu_abstract_algebra' \(cais/mmlu abstract_algebra\) cannot be had"),
    ],
)
def test_without_its_data_a_task_is_named_with_the_dataset(name, told):
    with pytest.raises(InstructMineError, match=told) as error:
        load_tasks(resolve([name])[0])
    assert "\n" not in str(error.value)


def test_data_files_that_are_not_there_are_told_without_a_folder_of_this_machine(task, tmp_path):
    benchmark = task()
    (tmp_path / "sums.jsonl").unlink()
    with pytest.raises(InstructMineError, match="the questions of the task 'sums'") as error:
        load_tasks(benchmark)
    assert str(tmp_path) not in str(error.value) and "\n" not in str(error.value)


def test_a_package_that_a_task_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(InstructMineError, match="the task 'ifeval' needs the package 'langdetect'"):
        load_tasks(resolve(["ifeval"])[0])


def test_code_that_a_model_writes_is_not_run(task):
    with pytest.raises(InstructMineError, match="runs code that the model writes"):
        load_tasks(task(unsafe_code=True))


def test_what_fails_inside_of_lm_eval_is_one_line(loaded, own, monkeypatch):
    def fail(self, requests, **options):
        raise RuntimeError("no room\nfor it")

    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.loglikelihood", fail)
    with pytest.raises(InstructMineError, match=r"^lm-eval fails on 'own_response': no room$"):
        run_benchmark(loaded, *own, limit=1)


def test_how_questions_were_asked_is_said():
    assert told(False, None, None) == "all questions, without the chat template"
    assert told(True, 100, None) == "the first 100 questions of each task, with the chat template"
    assert told(False, None, {"mmlu": [1]}) == "1 question of mmlu, all of other tasks, without the chat template"


def test_a_real_model_knows_a_rows_own_response_from_others(smollm2, own):
    loaded = ModelSource.of(smollm2, None, "AutoModelForCausalLM", None, dtype="bfloat16")[0].load(None)
    record = run_benchmark(loaded, *own, limit=6, batch_size=4)
    assert sum(record["scores"]) >= 3  # one and a half by chance
