"""What a sweep will take, told before it: by two short finetunes, or not at all where it cannot be known."""

import pytest
from datasets import Dataset

from hf_instructmine import InstructMineError
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.sweep import timing
from hf_instructmine.sweep.timing import duration, foresee, time_finetunes


BASIC = {"model_name_or_path": "some/model", "use_cpu": True, "bf16": False, "per_device_train_batch_size": 2}
POOL = Dataset.from_dict({"prompt": ["q"] * 8, "completion": ["a"] * 8})
MIXTURES = Dataset.from_dict({"mixture_id": ["a", "b"], "seed": [0, 1], "indices": [[0, 1, 2, 3], [2, 3, 4, 5, 6, 7]]})


@pytest.fixture
def runs(monkeypatch):
    """What the two timed finetunes give: 2 s for 4 steps, 1 s for the losses, and what is asked of them."""
    asked = []

    def run_sweep(pool, mixtures, *_, **__):
        asked.append(mixtures)
        done = {"status": ["done"] * 2, "reason": [None] * 2, "seconds": [9.0, 3.0]}
        return Dataset.from_dict({**done, "seconds_training": [8.0, 2.0], "seconds_evaluating": [1.0, 1.0]})

    monkeypatch.setattr(timing, "run_sweep", run_sweep)
    return asked


def test_the_second_finetune_is_timed_for_the_first_loads_the_model(runs):
    found = time_finetunes(POOL, [3, 1], Recipe(BASIC), {})
    assert (found.step, found.evaluating, found.once) == (0.5, 1.0, 0)  # all of it was faster than what it says
    assert runs[0]["indices"][:] == [[1, 3]] * 2 and set(runs[0]["max_steps"]) == {4}


def test_a_sweep_takes_its_steps_and_its_losses(runs):
    recipe = Recipe({**BASIC, "budget": "steps", "max_steps": 20})
    told = "2 finetunes on 4 to 6 rows each, of 20 steps each; about 22 s one after another on this machine"
    assert foresee(POOL, MIXTURES, recipe, {}).startswith(told)  # 2 · (20 · 0.5 + 1)


def test_what_a_number_of_tokens_decides_is_not_known(runs):
    recipe = Recipe({**BASIC, "budget": "tokens", "train_tokens": 500})
    assert "their steps, and so their time, are not known" in foresee(POOL, MIXTURES, recipe, {})
    assert not runs


def test_a_finetune_that_fails_is_told(monkeypatch):
    failed = Dataset.from_dict({"status": ["failed"], "reason": ["no memory"], "seconds": [0.0]})
    monkeypatch.setattr(timing, "run_sweep", lambda *_, **__: failed)
    with pytest.raises(InstructMineError, match="a finetune fails with this recipe: no memory"):
        time_finetunes(POOL, [0], Recipe(BASIC), {})


@pytest.mark.parametrize(
    "seconds, told", [(4, "about 4 s"), (89, "about 89 s"), (120, "about 2 min"), (9000, "about 2.5 h")]
)
def test_a_duration_has_a_unit_that_reads_well(seconds, told):
    assert duration(seconds) == told
