"""Every text of a sweep is encoded before a model loads: what the chat template refuses is named at once."""

import json
from pathlib import Path

import pytest
import tiny_sweep
from datasets import Dataset
from tiny_sweep import LAST_LAYERS, RECIPE, evaluation_sets, mixtures, pool

from hf_instructmine import InstructMineError, run_sweep
from hf_instructmine.finetuning.base_model import load_encoder
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep import inline, subprocesses


STRICT = "{% if 'Why' in messages[0]['content'] %}{{ raise_exception('no questions') }}{% endif %}" + tiny_sweep.CHATML


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    """Of a model whose template refuses questions."""
    model = tiny_sweep.save_model(tmp_path_factory.mktemp("model"))
    Path(model, "chat_template.jinja").write_text(STRICT)
    return {**RECIPE, **LAST_LAYERS, "model_name_or_path": model}


@pytest.fixture
def no_model(monkeypatch):
    """No weights may be loaded."""

    def loaded(*_):
        raise AssertionError("a model was loaded")

    for module in (inline, subprocesses):
        monkeypatch.setattr(module, "load_base", loaded)


def asking(rows: Dataset, number: int) -> Dataset:
    """The rows, one of which asks."""
    return rows.map(lambda row, i: {"prompt": "Why?" if i == number else row["prompt"]}, with_indices=True)


@pytest.mark.parametrize("executor", ["inline", "accelerate", "local"])
def test_a_row_that_the_template_refuses_is_named_by_its_number_in_the_pool(recipe, tmp_path, no_model, executor):
    number = mixtures(3, 0)["indices"][2][4]
    with pytest.raises(InstructMineError) as error:
        given = asking(pool(), number), mixtures(3, 0), recipe, evaluation_sets(), tmp_path / "sweep", executor
        run_sweep(*given)
    said = str(error.value)
    assert said.startswith(f"row {number} of the pool, which is in a mixture, cannot be learnt from: ")
    assert "no questions" in said and said.endswith("drop it first") and "\n" not in said
    assert not (tmp_path / "sweep").exists()


def test_an_evaluation_row_that_the_template_refuses_is_named(recipe, tmp_path, no_model):
    sets = {"single": asking(evaluation_sets()["single"], 4)}
    with pytest.raises(
        InstructMineError, match=r"row 4 of the evaluation set 'single' cannot be measured: .*no quest"
    ):
        run_sweep(pool(), mixtures(1, 0), recipe, sets, tmp_path / "sweep")


def test_what_is_refused_in_a_sweep_that_was_begun_is_named_too_before_its_next_run(recipe, tmp_path, monkeypatch):
    rows = asking(pool(), 23)
    first, second = ({"mixture_id": [n], "seed": [0], "indices": [[k, 22]]} for n, k in (("a", 21), ("b", 23)))
    run_sweep(rows, Dataset.from_dict(first), recipe, evaluation_sets(), tmp_path / "sweep")
    with pytest.raises(InstructMineError, match="row 23 of the pool"):
        run_sweep(rows, Dataset.from_dict(second), recipe, evaluation_sets(), tmp_path / "sweep")
    assert [path.stem for path in (tmp_path / "sweep" / "runs").iterdir()] == ["a-seed0"]


def test_the_template_and_end_of_turn_that_the_recipe_names_are_those_that_encode(recipe, tmp_path, no_model):
    (tmp_path / "strict.jinja").write_text("{{ raise_exception('never') }}")
    other = {**recipe, "chat_template_path": str(tmp_path / "strict.jinja")}
    with pytest.raises(InstructMineError, match="never"):
        run_sweep(pool(), mixtures(1, 0), other, evaluation_sets(), tmp_path / "sweep")
    with pytest.raises(InstructMineError, match="eos_token '</s>' is not in the vocabulary"):
        run_sweep(pool(), mixtures(1, 0), {**recipe, "eos_token": "</s>"}, evaluation_sets(), tmp_path / "sweep")


def test_an_adapter_is_encoded_for_as_the_model_below_it(recipe, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    about = {"base_model_name_or_path": recipe["model_name_or_path"], "peft_type": "LORA"}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    encoder = load_encoder(Recipe({**recipe, "model_name_or_path": str(adapter)}).arguments())
    assert encoder.tokenizer.chat_template == STRICT
    assert encoder.device.type == "meta" and encoder.max_positions == 2048


def test_a_whole_conversation_is_encoded_for_an_evaluation(recipe, tmp_path, no_model):
    turns = [
        [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello."}],
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "No."}],
    ]
    sets = {"multi": Dataset.from_list([{"messages": json.loads(json.dumps(t))} for t in turns])}
    with pytest.raises(InstructMineError, match="row 1 of the evaluation set 'multi'"):
        run_sweep(pool(), mixtures(1, 0), recipe, sets, tmp_path / "sweep")
