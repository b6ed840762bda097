"""Between the runs of a sweep the base model is put back, and that is verified: a run after others is a run alone."""

import gc
import weakref

import pytest
import tiny_sweep
import torch
from tiny_sweep import LAST_LAYERS, LORA, RECIPE, comparable, evaluation_sets, mixtures, pool

from hf_instructmine import load_runs, run_sweep
from hf_instructmine.sweep import inline


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """The folders of a model whose head is its own, and of one whose head is its embeddings."""
    gc.freeze()  # the trainer collects garbage once a run: not among all that pytest has imported
    folder = tmp_path_factory.mktemp("models")
    return {
        "apart": tiny_sweep.save_model(folder / "apart"),
        "tied": tiny_sweep.save_model(folder / "tied", tie_word_embeddings=True),
    }


@pytest.fixture
def loads(monkeypatch) -> list[weakref.ref]:
    """The base models that are loaded during the test."""
    loads, load = [], inline.load_base

    def noted(arguments):
        assert not [ref for ref in loads if ref() is not None], "two models are alive"
        loaded = load(arguments)
        loads.append(weakref.ref(loaded.model))
        return loaded

    monkeypatch.setattr(inline, "load_base", noted)
    return loads


def compare_with_runs_alone(recipe, tmp_path, number: int = 3) -> None:
    """Sweeps over all mixtures, and over each by itself."""
    design = mixtures(number, 0)
    run_sweep(pool(), design, recipe, evaluation_sets(), tmp_path / "together")
    together = comparable(load_runs(tmp_path / "together", examples=True))
    for k in range(number):
        run_sweep(pool(), design.select([k]), recipe, evaluation_sets(), tmp_path / f"alone-{k}")
        assert comparable(load_runs(tmp_path / f"alone-{k}", examples=True)) == [together[k]]


@pytest.mark.parametrize(
    ("model", "saved"),
    [
        ("apart", ["lm_head"]), ("apart", ["embed_tokens"]), ("apart", ["lm_head", "embed_tokens"]),
        ("tied", ["lm_head", "embed_tokens"]),
    ],
)  # fmt: skip
def test_modules_that_are_trained_whole_beside_adapters_do_not_reach_the_next_run(
    models, tmp_path, loads, model, saved
):
    recipe = {**RECIPE, **LORA, "lora_modules_to_save": saved, "model_name_or_path": models[model]}
    compare_with_runs_alone(recipe, tmp_path)
    assert len(loads) == 4  # one for each sweep: nothing had to be loaded anew


@pytest.mark.parametrize("moved", ["model.rotary_emb.inv_freq", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_a_tensor_that_was_moved_is_found_and_the_model_loaded_anew(
    models, tmp_path, monkeypatch, loads, caplog, moved
):
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": models["apart"]}
    run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "undisturbed")
    train = inline.finetune

    def careless(loaded, *args):
        trained = train(loaded, *args)
        if trained[0].seed == 1:
            module, _, name = moved.rpartition(".")
            with torch.no_grad():
                getattr(loaded.model.get_submodule(module), name).view(-1)[0] += 1e-3
        return trained

    monkeypatch.setattr(inline, "finetune", careless)
    loads.clear()
    run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    told = [r.getMessage() for r in caplog.records if r.name == inline.__name__]
    assert told == [
        f"run mixture-001-seed1 left '{moved}' of the base model changed (1 tensors in all): the model is loaded anew"
    ]
    assert len(loads) == 2
    sound, found = (load_runs(tmp_path / name, examples=True) for name in ("undisturbed", "sweep"))
    assert comparable(found) == comparable(sound)


@pytest.mark.parametrize("trained", [LAST_LAYERS, LORA, {}], ids=["last layers", "LoRA", "full"])
def test_a_run_that_fails_leaves_no_model_and_no_optimizer_in_memory(models, tmp_path, monkeypatch, loads, trained):
    from hf_instructmine.finetuning import trainer

    optimizers = []

    def out_of_memory(self, *args, **kwargs):
        assert not [ref for ref in optimizers if ref() is not None]
        optimizers.append(weakref.ref(self.optimizer))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(trainer.Trainer, "training_step", out_of_memory)
    recipe = {**RECIPE, **trained, "model_name_or_path": models["apart"]}
    runs = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    assert runs["status"][:] == ["failed"] * 4
    assert runs["reason"][0] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert len(loads) == len(optimizers) == 4  # each of them found that those before it were gone


def test_files_that_change_between_two_loads_are_no_fault_of_a_run(models, tmp_path, monkeypatch, caplog):
    recipe = {**RECIPE, **LAST_LAYERS, "model_name_or_path": models["apart"]}
    load, train = inline.load_base, inline.finetune
    loaded_before = []

    def other_files(arguments):
        loaded = load(arguments)
        if loaded_before:
            with torch.no_grad():
                loaded.model.lm_head.weight[0, 0] += 1
        loaded_before.append(True)
        return loaded

    def fail_once(loaded, subset, encoded, arguments, *rest):
        if arguments.sft.seed == 0:
            raise RuntimeError("a kernel failed")
        return train(loaded, subset, encoded, arguments, *rest)

    monkeypatch.setattr(inline, "load_base", other_files)
    monkeypatch.setattr(inline, "finetune", fail_once)
    runs = run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    assert list(zip(runs["mixture_id"], runs["reason"])) == [("mixture-000", "RuntimeError: a kernel failed")]
    assert "the base model's files changed during the sweep" in caplog.text
    assert "1 runs have no record" in caplog.text
