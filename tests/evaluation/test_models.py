"""Several models by the same measures: what is recorded, gone on with, shared, and refused before any cost."""

import json

import numpy as np
import pytest
import tiny_sweep
from peft import LoraConfig, get_peft_model
from tiny_models import CHATML, byte_tokenizer, causal_model, save
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.evaluation import models as evaluated
from hf_instructmine.models.loading import ModelSource


pytest.importorskip("lm_eval", reason="pip install 'hf-instructmine[benchmarks]'")
SETS = {
    "mine": [
        {"prompt": "What is the capital of France?", "completion": "Paris.", "category": "facts"},
        {"prompt": "Say yes.", "completion": "Yes, of course.", "category": "words"},
        {"prompt": "Count.", "completion": "1 2 3 4 5", "category": "words"},
    ]
}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    return {n: save(folder / n, causal_model("llama", tokenizer, seed), tokenizer) for seed, n in enumerate("ab")}


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """What is measured during the test: losses and benchmarks, in their order."""
    names = []

    def noted(function, name):
        def measure(loaded, *args, **options):
            names.append(name)
            return function(loaded, *args, **options)

        return measure

    monkeypatch.setattr(evaluated, "measure", noted(evaluated.measure, "loss"))
    monkeypatch.setattr(evaluated, "run_benchmark", noted(evaluated.run_benchmark, "benchmark"))
    return names


def evaluate(models, folder, **options):
    given = {"benchmarks": ["own_response"], "eval_sets": SETS, "limit": 3, **options}
    return him.evaluate_models(models, output_dir=folder, **given)


def test_each_is_measured_once_and_a_second_call_measures_nothing(models, tmp_path, measured):
    first = evaluate(models, tmp_path / "out")
    assert sorted(measured) == ["benchmark", "benchmark", "loss", "loss"]
    records = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    assert sorted(records) == [f"{m}.{s}.json" for m in "ab" for s in ("benchmark-own_response", "loss-mine")]
    again = evaluate(models, tmp_path / "out")
    assert len(measured) == 4 and again.summary() == first.summary()
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()} == records


def test_a_record_that_is_lost_or_damaged_is_measured_anew_and_alone(models, tmp_path, measured):
    first = evaluate(models, tmp_path / "out")
    (tmp_path / "out" / "runs" / "b.loss-mine.json").write_text("{}")
    again = evaluate(models, tmp_path / "out")
    assert measured[4:] == ["loss"] and again.summary() == first.summary()


def test_the_losses_are_those_of_finetunes_and_models_keep_their_order(models, tmp_path):
    found = evaluate(dict(reversed(models.items())), tmp_path / "out", benchmarks=[])
    lines = found.lines()
    assert [line.model for line in lines] == ["b", "a"] and found.baseline == "b"
    record = found.losses["mine"]["a"]
    assert lines[1].value == pytest.approx(sum(record["nll"]) / sum(record["tokens"]))
    assert lines[1].difference.estimate == pytest.approx(lines[1].value - lines[0].value)


def test_an_adapter_a_folder_and_a_loaded_model_give_the_same_numbers(models, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(models["a"])
    tokenizer = AutoTokenizer.from_pretrained(models["a"])
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"]))  # whose B is zero: it changes nothing
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = (AutoModelForCausalLM.from_pretrained(models["a"], dtype="float32"), tokenizer)
    given = {"folder": models["a"], "adapter": str(tmp_path / "adapter"), "loaded": loaded}
    lines = evaluate(given, tmp_path / "out").lines()
    np.testing.assert_allclose([line.value for line in lines[:3]], lines[0].value, rtol=1e-5)
    assert len({line.value for line in lines[3:]}) == 1


def test_a_kept_model_gives_the_loss_that_its_run_recorded(tmp_path):
    recipe = {
        **tiny_sweep.RECIPE, **tiny_sweep.LAST_LAYERS, "model_name_or_path": tiny_sweep.save_model(tmp_path / "m"),
        "eval_max_length": 2048,
    }  # fmt: skip
    mixtures = [{"mixture_id": "one", "seed": 0, "indices": [0, 1, 2, 3]}]
    runs = him.run_sweep(tiny_sweep.pool(), mixtures, recipe, SETS, tmp_path / "sweep", keep_models=True)
    kept = str(tmp_path / "sweep" / "models" / "one-seed0")
    found = evaluate({"kept": kept}, tmp_path / "out", benchmarks=[])
    assert found.lines()[0].value == pytest.approx(runs[0]["loss_mine"], rel=1e-5)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"limit": 2}, "asked: the first 3 questions of each task, without the chat template → the first 2 questions"),
        ({"chat_template": True}, "with the chat template"),
        ({"eval_sets": {"mine": SETS["mine"][:2]}}, "evaluation set mine: "),
        ({"benchmarks": []}, "benchmark own_response: 0-shot acc_norm"),
        ({"dtype": "bfloat16"}, "float32 → "),
    ],
)
def test_another_evaluation_in_the_folder_is_refused_in_one_line(models, tmp_path, measured, options, told):
    evaluate(models, tmp_path)
    with pytest.raises(InstructMineError, match="holds another evaluation") as error:
        evaluate(models, tmp_path, **options)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert len(measured) == 4


def test_another_model_of_the_same_name_is_refused(models, tmp_path):
    evaluate(models, tmp_path)
    with pytest.raises(InstructMineError, match=r"holds another evaluation .model b: "):
        evaluate({"a": models["a"], "b": models["a"]}, tmp_path)


def test_no_record_tells_a_folder_of_this_machine_or_a_text_of_the_data(models, tmp_path):
    evaluate(models, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.json"):
        text = path.read_text()
        assert str(tmp_path) not in text and models["a"] not in text and "Paris" not in text
        assert json.loads(text)["checksum"]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"models": {}}, "models is a mapping of names to models"),
        ({"models": {"../x": "m"}}, "must be of letters, digits"),
        ({"models": {"a": "/absent/folder"}}, "the model 'a': "),
        ({"baseline": "c"}, "the baseline 'c' is none of the models a, b"),
        ({"limit": 0}, "limit must be a whole number of at least 1, not 0"),
        ({"samples": {"own_response": [1]}}, "give limit or samples, not both"),
        ({"benchmarks": [], "eval_sets": None}, "nothing to measure"),
        ({"benchmarks": ["own_respons"]}, "did you mean own_response?"),
        ({"benchmarks": ["arc_challenge"]}, "the questions of the task 'arc_challenge'"),
        ({"eval_sets": {"mine": "/absent.jsonl"}}, "there is no file"),
        ({"eval_sets": {"mine": []}}, "the evaluation set 'mine' is empty"),
        ({"judge": {"judge": "x", "promts": "y"}}, "judge has no option 'promts'"),
        ({"judge": {"judge": "x"}}, "judge needs 'prompts'"),
    ],
)
def test_what_cannot_be_measured_is_told_before_any_model_is_loaded(models, tmp_path, monkeypatch, change, told):
    monkeypatch.setattr(ModelSource, "load", lambda *_: pytest.fail("a model was loaded"))
    given = {"models": models, **change}
    with pytest.raises(InstructMineError) as error:
        evaluate(given.pop("models"), tmp_path / "out", **given)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_model_is_told(models, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InstructMineError, match=r"the model 'b': the folder '.*empty' holds no tokenizer"):
        evaluate({"a": models["a"], "b": str(tmp_path / "empty")}, tmp_path / "out")


def test_what_was_measured_before_a_failure_is_kept(models, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise InstructMineError("lm-eval fails on 'own_response': no room")

    with monkeypatch.context() as patched:
        patched.setattr(evaluated, "run_benchmark", fail)
        with pytest.raises(InstructMineError, match="no room"):
            evaluate(models, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["a.loss-mine.json"]
    assert len(evaluate(models, tmp_path / "out").lines()) == 4


def test_a_judge_is_asked_with_the_same_models_and_told_below(models, tmp_path):
    options = {"judge": models["b"], "prompts": ["Say yes.", "Count."], "max_new_tokens": 3}
    prompts = [{"prompt": text} for text in options.pop("prompts")]
    found = evaluate(models, tmp_path / "out", benchmarks=[], judge={**options, "prompts": prompts})
    assert list(found.judgement.preferences) == ["b"] and "Judge:" in found.summary()
    assert (tmp_path / "out" / "judge" / "verdicts.jsonl").exists()


def test_without_lm_eval_losses_can_be_measured(models, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    assert len(evaluate(models, tmp_path / "out", benchmarks=[]).lines()) == 2
    with pytest.raises(InstructMineError, match="benchmarks"):
        evaluate(models, tmp_path / "other")
