"""The cached trunk: what the frozen layers give is computed once per text, and changes a run by next to nothing."""

import gc
import json
import os
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import tiny_sweep
import torch
from filelock import FileLock
from tiny_kinds import CAUSAL, larger, tiny_kind
from tiny_models import CHATML, byte_tokenizer, save
from tiny_sweep import RECIPE, comparable, evaluation_sets, mixtures, pool
from tqdm.auto import tqdm

from hf_instructmine import InstructMineError, load_runs, run_sweep
from hf_instructmine.data.evaluation_sets import EvaluationSet
from hf_instructmine.finetuning import trunk
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.evaluation import encode_set
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.finetuning.trunk import Trunk, check_cut, compute_trunk, cut_to_last_layers, remove_unused
from hf_instructmine.models.loading import LoadedModel
from hf_instructmine.sweep.executors import Execution
from hf_instructmine.sweep.session import SweepSession


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> dict:
    gc.freeze()  # the trainer collects garbage once a run: not among all that pytest has imported
    model = tiny_sweep.save_model(tmp_path_factory.mktemp("model"))
    return {**RECIPE, "train_last_layers": 2, "learning_rate": 3e-3, "model_name_or_path": model}


def load(recipe: dict):
    arguments = Recipe(recipe).arguments()
    loaded, length = load_base(arguments), arguments.own.eval_max_length
    encoded = encode_set(EvaluationSet.read("single", evaluation_sets()["single"]), loaded, length)
    return loaded, encoded


@pytest.mark.parametrize("bf16", [False, True])
def test_runs_over_a_cached_trunk_equal_those_of_the_whole_model(recipe, tmp_path, bf16):
    recipe = {**recipe, "bf16": bf16}
    whole = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "whole")
    cached = run_sweep(pool(), mixtures(), {**recipe, "cached_trunk": True}, evaluation_sets(), tmp_path / "cached")
    for name in ("loss_single", "loss_multi", "base_loss_single", "train_loss"):
        np.testing.assert_allclose(cached[name], whole[name], atol=1e-3)
    learnt = np.array(whole["base_loss_single"]) - np.array(whole["loss_single"])
    assert (learnt > 0.02).all()  # far more than what the trunk changes
    assert cached["train_tokens"][:] == whole["train_tokens"][:]
    assert not (tmp_path / "cached" / "trunk").exists()  # of no use any more


def test_a_run_over_the_trunk_equals_the_same_run_alone(recipe, tmp_path):
    recipe = {**recipe, "cached_trunk": True}
    together = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "together")
    alone = run_sweep(pool(), mixtures().select([2]), recipe, evaluation_sets(), tmp_path / "alone")
    # Texts of other rows share micro-batches with this run's while the trunk is computed.
    row = next(row for row in together if row["mixture_id"] == "mixture-002")
    np.testing.assert_allclose(alone["loss_single"][0], row["loss_single"], atol=2e-4)


def test_the_trunk_gives_what_goes_into_the_layers_that_train(recipe, tmp_path):
    loaded, encoded = load(recipe)
    found = compute_trunk(loaded, 2, encoded.sequences, tmp_path, bf16=False)
    assert len(found) == len(encoded.sequences)
    for i, ids in enumerate(encoded.sequences):
        expected = loaded.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[2][0]
        torch.testing.assert_close(found[i], expected.detach(), rtol=2**-7, atol=1e-4)
    picked = found.select([3, 0])
    assert len(picked) == 2 and torch.equal(picked[0], found[3]) and torch.equal(picked[1], found[0])


def test_many_texts_are_kept_in_several_files_that_are_not_computed_twice(recipe, tmp_path, monkeypatch):
    loaded, encoded = load(recipe)
    whole = list(compute_trunk(loaded, 2, encoded.sequences, tmp_path / "one", bf16=False))
    monkeypatch.setattr(trunk, "_TEXTS_PER_FILE", 2)
    computed = []
    lower = trunk._lower_layers
    monkeypatch.setattr(trunk, "_lower_layers", lambda *args: computed.append(args[2]) or lower(*args))
    several = compute_trunk(loaded, 2, encoded.sequences, tmp_path / "several", bf16=False)
    for i in range(len(whole)):
        torch.testing.assert_close(several[i], whole[i], rtol=2**-7, atol=1e-5)
    files = sorted(path.name for path in (tmp_path / "several").glob("*.npy"))
    assert files == ["000000000-2.npy", "000000002-2.npy", "000000004-2.npy"]
    # As a kill would leave it: one file is missing, and half of it lies there under another name.
    (tmp_path / "several" / files[1]).unlink()
    (tmp_path / "several" / f".{files[1]}.4711").write_bytes(b"half")
    computed.clear()
    again = compute_trunk(loaded, 2, encoded.sequences, tmp_path / "several", bf16=False)
    assert computed == [encoded.sequences[2:4]]
    assert all(torch.equal(again[i], several[i]) for i in range(len(again)))
    assert {path.name for path in (tmp_path / "several").iterdir()} == {*files, "texts"}


def test_a_trunk_that_is_killed_half_way_goes_on(recipe, tmp_path, monkeypatch):
    script = (
        "import os, signal, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import tiny_sweep\nfrom hf_instructmine import run_sweep\nfrom hf_instructmine.finetuning import trunk\n"
        "trunk._TEXTS_PER_FILE = 4\n"
        "lower, calls = trunk._lower_layers, []\n"
        "def killed(*args):\n"
        "    calls.append(1)\n"
        "    if len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return lower(*args)\n"
        "trunk._lower_layers = killed\n"
        "import json\n"
        "recipe = json.loads(sys.argv[2])\n"
        "run_sweep(tiny_sweep.pool(), tiny_sweep.mixtures(), recipe, tiny_sweep.evaluation_sets(), sys.argv[3])\n"
    )
    recipe = {**recipe, "cached_trunk": True}
    command = [
        sys.executable,
        "-c",
        script,
        str(Path(__file__).parents[1]),
        json.dumps(recipe),
        str(tmp_path / "sweep"),
    ]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    (folder,) = (tmp_path / "sweep" / "trunk").iterdir()
    assert len(list(folder.glob("*.npy"))) == 2
    computed = []
    lower = trunk._lower_layers
    monkeypatch.setattr(trunk, "_TEXTS_PER_FILE", 4)
    monkeypatch.setattr(trunk, "_lower_layers", lambda *args: computed.append(args[2]) or lower(*args))
    resumed = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    files = len(computed) + 2
    at_once = run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "at-once")
    assert len(computed) == 2 * files - 2
    assert comparable(resumed) == comparable(at_once)


def test_other_mixtures_get_a_trunk_of_their_own(recipe, tmp_path):
    recipe = {**recipe, "cached_trunk": True}
    run_sweep(pool(), mixtures(2, 0), recipe, evaluation_sets(), tmp_path / "sweep")
    more = mixtures(4, 0)  # the first two are the same
    extended = run_sweep(pool(), more, recipe, evaluation_sets(), tmp_path / "sweep")
    at_once = run_sweep(pool(), more, recipe, evaluation_sets(), tmp_path / "at-once")
    assert extended["mixture_id"][:] == at_once["mixture_id"][:]
    np.testing.assert_allclose(extended["loss_single"], at_once["loss_single"], atol=2e-4)


def test_a_model_that_the_cut_would_change_is_refused(recipe, tmp_path):
    # Granite multiplies what it is fed with, embeddings or not.
    from transformers import GraniteConfig, GraniteForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    config = GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, embedding_multiplier=12.0, initializer_range=0.3,
    )  # fmt: skip
    model = save(tmp_path / "granite", GraniteForCausalLM(config), tokenizer)
    recipe = {**recipe, "cached_trunk": True, "model_name_or_path": model}
    with pytest.raises(InstructMineError, match=r"cached_trunk does not reproduce GraniteForCausalLM: .*: false"):
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")
    plain = run_sweep(pool(), mixtures(1, 0), {**recipe, "cached_trunk": False}, evaluation_sets(), tmp_path / "plain")
    assert plain["status"][:] == ["done"]


def test_layers_of_several_kinds_keep_their_kind(recipe, tmp_path):
    # Gemma 2 alternates between windowed and full attention, and scales its embeddings before the layers see them.
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(bos=True, chat_template=CHATML)
    config = Gemma2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4, initializer_range=0.3,
    )  # fmt: skip
    model = save(tmp_path / "gemma", Gemma2ForCausalLM(config), tokenizer)
    recipe = {**recipe, "train_last_layers": 3, "model_name_or_path": model}
    whole = run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "whole")
    cached = run_sweep(
        pool(), mixtures(1, 0), {**recipe, "cached_trunk": True}, evaluation_sets(), tmp_path / "cached"
    )
    np.testing.assert_allclose(cached["loss_single"], whole["loss_single"], rtol=5e-3)


def test_layers_that_cannot_be_found_are_named(recipe, tmp_path):
    from tiny_models import causal_model

    tokenizer = byte_tokenizer(chat_template=CHATML)
    model = save(tmp_path / "gpt2", causal_model("gpt2", tokenizer), tokenizer)
    recipe = {**recipe, "cached_trunk": True, "model_name_or_path": model}
    with pytest.raises(InstructMineError, match="does not know where GPT2LMHeadModel keeps its layers: use LoRA"):
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")


def test_a_full_disk_is_one_line(recipe, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(trunk.np, "save", full)
    recipe = {**recipe, "cached_trunk": True}
    with pytest.raises(InstructMineError, match=r"cannot write '.*npy': No space left on device; what"):
        run_sweep(pool(), mixtures(), recipe, evaluation_sets(), tmp_path / "sweep")


def test_the_other_executors_do_without_and_say_so(recipe, tmp_path, caplog):
    recipe = {**recipe, "cached_trunk": True}
    run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "sweep", "accelerate")
    assert "cached_trunk works with executor='inline' alone" in caplog.text
    plain = {**recipe, "cached_trunk": False}
    run_sweep(pool(), mixtures(1, 0), plain, evaluation_sets(), tmp_path / "plain")
    different = ("executor", "recipe_hash")
    assert comparable(load_runs(tmp_path / "sweep"), *different) == comparable(
        load_runs(tmp_path / "plain"), *different
    )


def test_vectors_are_given_in_the_precision_of_the_model(recipe, tmp_path):
    loaded, encoded = load({**recipe, "dtype": "bfloat16"})
    found = compute_trunk(loaded, 2, encoded.sequences, tmp_path, bf16=True)
    assert isinstance(found, Trunk) and found[0].dtype == torch.bfloat16
    cut_to_last_layers(loaded, 2, encoded, found, bf16=True)
    assert len(loaded.model.model.layers) == 2


# Which models can be cut in two

TEXTS = [[*range(1, 11), 40 + i, *range(200, 204 + i)] for i in range(8)]
NOWHERE = {"bloom", "falcon", "gpt2", "mpt", "opt", "rwkv", "xlstm"}
IN_ONE = {"bamba", "jamba", "mamba", "mamba2", "recurrent_gemma"}
PER_LAYER = {
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size_per_layer_input": 330, "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 4, "laurel_rank": 4, "altup_num_inputs": 2,
    "activation_sparsity_pattern": [0.0] * 4, "intermediate_size": [48] * 4,
}  # fmt: skip
LAYERS = {
    "bamba": {"attn_layer_indices": [1, 3]},
    "gemma3n_text": PER_LAYER,
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "xlstm": {"num_blocks": 4},
}


def of_four_layers(kind: str, **settings) -> LoadedModel:
    settings = {"num_hidden_layers": 4, **LAYERS.get(kind, {}), **settings}
    return LoadedModel(larger(tiny_kind(kind, **settings), 3), None, 1000)


@pytest.mark.parametrize("kind", sorted(CAUSAL.keys() - NOWHERE - IN_ONE - {"modernbert-decoder"}))
def test_what_has_plain_layers_is_cut_and_whole_again_afterwards(kind):
    loaded = of_four_layers(kind)
    before, config = loaded.model(torch.tensor(TEXTS[:1])).logits, loaded.model.config.to_dict()
    check_cut(loaded, 2, TEXTS, bf16=False)
    assert loaded.model.config.to_dict() == config
    torch.testing.assert_close(loaded.model(torch.tensor(TEXTS[:1])).logits, before)


@pytest.mark.parametrize("kind", sorted(NOWHERE | IN_ONE | {"gemma3n_text", "modernbert-decoder"}))
def test_what_has_not_is_refused_in_one_line_before_any_text_is_run(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(trunk, "_lower_layers", pytest.fail)
    message = "keeps its layers: use LoRA" if kind in NOWHERE else r"cached_trunk .*set cached_trunk: false$"
    with pytest.raises(InstructMineError, match=message) as error:
        compute_trunk(of_four_layers(kind), 2, TEXTS, tmp_path / "trunk", bf16=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trunk").exists()


def test_positions_that_are_added_to_what_a_model_is_fed_with_are_found_out():
    plain = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0}
    loaded = of_four_layers("xglm", num_layers=4, attention_heads=4, ffn_dim=48, d_model=32, **plain)
    with pytest.raises(InstructMineError, match="does not reproduce XGLMForCausalLM: it changes what it is fed with"):
        check_cut(loaded, 2, TEXTS, bf16=False)


# Dropout


@pytest.mark.parametrize(("kind", "field"), [("starcoder2", "residual_dropout"), ("gpt_neox", "attention_dropout")])
def test_dropout_in_frozen_layers_is_refused_and_the_mend_named(kind, field):
    message = (
        rf"dropout in frozen layers \(.*dropout 0.1\).*model_init_kwargs: {{'{field}': 0.0}}, or cached_trunk: false"
    )
    with pytest.raises(InstructMineError, match=message):
        check_cut(of_four_layers(kind, **{field: 0.1}), 2, TEXTS, bf16=False)


def test_dropout_that_the_recipe_sets_to_0_is_0(recipe, tmp_path):
    model = tiny_sweep.save_model(tmp_path / "model", attention_dropout=0.1)
    recipe = {**recipe, "cached_trunk": True, "model_name_or_path": model}
    with pytest.raises(InstructMineError, match="dropout in frozen layers"):
        run_sweep(pool(), mixtures(1, 0), recipe, evaluation_sets(), tmp_path / "refused")
    assert not (tmp_path / "refused" / "trunk").exists()
    mended = {**recipe, "model_init_kwargs": {"attention_dropout": 0.0}}
    run_sweep(pool(), mixtures(1, 0), mended, evaluation_sets(), tmp_path / "mended")


def test_dropout_where_every_run_trains_is_no_matter():
    loaded = of_four_layers("starcoder2")
    for layer in loaded.model.model.layers[-2:]:
        layer.self_attn.attention_dropout = 0.1
    check_cut(loaded, 2, TEXTS, bf16=False)
    with pytest.raises(InstructMineError, match="dropout in frozen layers"):
        check_cut(loaded, 1, TEXTS, bf16=False)


# The room it takes

Room = namedtuple("Room", "free")


def folders_in(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if path.is_dir()}


def test_a_sweep_that_grows_keeps_one_trunk(recipe, tmp_path):
    recipe = {**recipe, "cached_trunk": True}
    with SweepSession(pool(), recipe, evaluation_sets(), tmp_path, Execution()) as session:
        for count in (1, 2, 4):
            session.run(mixtures(count, 0))
            assert len(folders_in(tmp_path / "trunk")) == 1


@pytest.fixture
def ran(monkeypatch) -> list[list[int]]:
    """The texts that the frozen layers run over."""
    lower, texts = trunk._lower_layers, []
    monkeypatch.setattr(trunk, "_lower_layers", lambda *args: texts.extend(args[2]) or lower(*args))
    return texts


def test_a_trunk_of_more_texts_runs_those_alone(recipe, tmp_path, monkeypatch, ran):
    monkeypatch.setattr(trunk, "_TEXTS_PER_FILE", 2)
    loaded, encoded = load(recipe)
    first, more = encoded.sequences[:3], [encoded.sequences[4], *encoded.sequences[:4]]
    before = list(compute_trunk(loaded, 2, first, tmp_path / "first", bf16=False))
    ran.clear()
    grown = compute_trunk(loaded, 2, more, tmp_path / "more", bf16=False, grows=True)
    assert ran == [more[0], more[4]]
    assert all(torch.equal(grown[1 + k], before[k]) for k in range(3))
    alone = compute_trunk(loaded, 2, more, tmp_path / "alone", bf16=False)
    for k in range(5):
        torch.testing.assert_close(grown[k], alone[k], rtol=2**-7, atol=1e-5)
    assert folders_in(tmp_path) == {"more", "alone"}


def test_a_damaged_trunk_is_taken_nothing_from(recipe, tmp_path, monkeypatch, ran):
    monkeypatch.setattr(trunk, "_TEXTS_PER_FILE", 2)
    loaded, encoded = load(recipe)
    compute_trunk(loaded, 2, encoded.sequences[:4], tmp_path / "first", bf16=False)
    np.save(tmp_path / "first" / "000000000-2.npy", np.zeros((1, 32), np.int16))
    ran.clear()
    compute_trunk(loaded, 2, encoded.sequences[:5], tmp_path / "more", bf16=False, grows=True)
    assert ran == [*encoded.sequences[:2], encoded.sequences[4]]


def test_a_disk_without_room_for_both_has_the_earlier_one_removed(recipe, tmp_path, monkeypatch, ran):
    loaded, encoded = load(recipe)
    compute_trunk(loaded, 2, encoded.sequences[:3], tmp_path / "first", bf16=False)
    ran.clear()
    room = lambda _: Room(0 if (tmp_path / "first").exists() else 10**9)  # noqa: E731
    monkeypatch.setattr(trunk.shutil, "disk_usage", room)
    compute_trunk(loaded, 2, encoded.sequences[:4], tmp_path / "more", bf16=False, grows=True)
    assert ran == encoded.sequences[:4] and folders_in(tmp_path) == {"more"}


def test_a_sweep_that_grows_runs_no_text_twice(recipe, tmp_path, ran):
    recipe = {**recipe, "cached_trunk": True}
    with SweepSession(pool(), recipe, evaluation_sets(), tmp_path, Execution()) as session:
        session.run(mixtures(1, 0))
        before, count = {*map(tuple, ran)}, len(ran)
        session.run(mixtures(4, 0))
    after = {*map(tuple, ran[count:])}
    assert before and after and not before & after


def test_a_trunk_that_another_process_uses_stays(recipe, tmp_path):
    loaded, encoded = load(recipe)
    for name in ("used", "mine", "killed", "next"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000000000-1.npy").write_bytes(b"vectors")
    (tmp_path / "killed.4711.lock").touch()  # of a process that is gone
    mine = compute_trunk(loaded, 2, encoded.sequences, tmp_path / "mine", bf16=False)
    theirs = FileLock(tmp_path / "used.4711.lock")
    with theirs:
        remove_unused(tmp_path, keep="next")
        assert folders_in(tmp_path) == {"used", "next"}
    assert torch.isfinite(mine[0]).all()  # what is open can be read on
    remove_unused(tmp_path, keep="next")
    assert {path.name for path in tmp_path.iterdir()} == {"next"}


def test_a_disk_that_is_too_small_is_told_before_any_text_is_run(recipe, tmp_path, monkeypatch):
    loaded, encoded = load(recipe)
    tokens = sum(map(len, encoded.sequences))
    monkeypatch.setattr(trunk, "_lower_layers", pytest.fail)
    monkeypatch.setattr(trunk.shutil, "disk_usage", lambda _: Room(64 * tokens - 1))
    with pytest.raises(
        InstructMineError, match=r"the cached trunk takes 0\.0 MB, but the disk of '.*' has 0\.0 MB left"
    ):
        compute_trunk(loaded, 2, encoded.sequences, tmp_path, bf16=False)


def test_what_is_there_already_needs_no_room(recipe, tmp_path, monkeypatch):
    loaded, encoded = load(recipe)
    compute_trunk(loaded, 2, encoded.sequences, tmp_path / "trunk", bf16=False)
    monkeypatch.setattr(trunk.shutil, "disk_usage", lambda _: Room(0))
    compute_trunk(loaded, 2, encoded.sequences, tmp_path / "trunk", bf16=False)


def test_the_size_is_told_beside_the_bar(recipe, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(trunk, "tqdm", lambda desc, **kwargs: told.append(desc) or tqdm(desc=desc, **kwargs))
    loaded, encoded = load(recipe)
    compute_trunk(loaded, 2, encoded.sequences, tmp_path / "trunk", bf16=False)
    assert told == ["Running the frozen layers (0.0 MB)"]
