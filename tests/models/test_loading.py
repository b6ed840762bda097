"""Where a model comes from: loaded late, once, and known by what it is, in this process and in another."""

import gc
import json
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tiny_models import (
    CHATML,
    ROWS,
    byte_tokenizer,
    causal_model,
    conversations_of,
    reward_classifier,
    save,
    t5_model,
    unigram_tokenizer,
)

from hf_instructmine import InputLength, InstructMineError, OutputLength, Perplexity, Reward, UniEval
from hf_instructmine.models.loading import ModelSource


BATCH = conversations_of(ROWS)
TOKENIZER = byte_tokenizer(chat_template=CHATML)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("models") / "tiny-llama", causal_model("llama", TOKENIZER), TOKENIZER)


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("models") / "tiny-rm", reward_classifier("llama", TOKENIZER), TOKENIZER)


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory) -> str:
    tokenizer = unigram_tokenizer()
    return save(tmp_path_factory.mktemp("models") / "tiny-t5", t5_model(tokenizer, tied=False), tokenizer)


@pytest.fixture(params=["perplexity", "reward", "unieval"])
def indicator(request, folder, reward_folder, t5_folder):
    """Each indicator over a folder."""
    return {
        "perplexity": lambda: Perplexity(folder, dtype="float32"),
        "reward": lambda: Reward(reward_folder),
        "unieval": lambda: UniEval(t5_folder),
    }[request.param]()


@pytest.mark.parametrize("make", [Perplexity, Reward, UniEval])
def test_nothing_is_loaded_before_the_first_batch_and_what_is_absent_is_named_in_one_line(make):
    indicator = make("nobody/no-such-model")
    with pytest.raises(InstructMineError, match="cannot load the tokenizer 'nobody/no-such-model'") as error:
        indicator(BATCH)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_named_in_one_line(tmp_path):
    told = r"cannot load the tokenizer '.*/absent': there is no such folder"
    with pytest.raises(InstructMineError, match=told) as error:
        Perplexity(str(tmp_path / "absent"))(BATCH)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_tokenizer_says_what_to_do(tmp_path, folder):
    bare = save(tmp_path / "bare", causal_model("llama", TOKENIZER))
    with pytest.raises(InstructMineError, match="holds no tokenizer: save one there, or name one with tokenizer="):
        Perplexity(bare)(BATCH)
    assert Perplexity(bare, folder)(BATCH) == Perplexity(folder)(BATCH)


def test_a_tokenizer_object_goes_with_a_loaded_model_and_a_name_with_a_name(folder):
    with pytest.raises(InstructMineError, match="tokenizer object only together with a loaded model"):
        Perplexity(folder, TOKENIZER)
    with pytest.raises(InstructMineError, match="a loaded model needs its loaded tokenizer"):
        Perplexity(causal_model("llama", TOKENIZER))


def test_a_checkpoint_without_the_head_is_refused_instead_of_scored_at_random(folder, tmp_path):
    config = json.loads(Path(folder, "config.json").read_text())
    for file in Path(folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({**config, "id2label": {"0": "score"}, "label2id": {"score": 0}}))
    with pytest.raises(InstructMineError, match=r"saved without score\.weight.* its scores would be random"):
        Reward(str(tmp_path))(BATCH)


def test_a_library_that_does_not_read_dtype_is_found_out(folder, monkeypatch):
    load = transformers.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *args, dtype, **kwargs: load(*args, **kwargs)
    )
    with pytest.raises(InstructMineError, match="was loaded in float32, not in bfloat16 as asked"):
        Perplexity(folder, dtype="bfloat16")(BATCH)


def test_two_indicators_over_one_model_share_it_and_let_go_of_it(folder):
    given, alone = Perplexity(folder), Perplexity(folder, given=False)
    loaded = given.load()
    assert alone.load() is loaded
    gone = weakref.ref(loaded)
    del loaded
    given.release()
    gc.collect()
    assert gone() is alone.load()
    alone.release()
    gc.collect()
    assert gone() is None


def test_a_tokenizer_and_a_model_of_one_folder_are_kept_apart(folder):
    model, one, other = Perplexity(folder).load(), InputLength(folder), OutputLength(folder)
    assert one.load() is other.load() is not model
    assert Perplexity(folder).load() is model
    assert Perplexity(model.model, model.tokenizer).source.is_loaded and not Perplexity(folder).source.is_loaded


def test_other_dtypes_are_other_models(folder):
    assert Perplexity(folder).load() is not Perplexity(folder, dtype="bfloat16").load()
    assert Perplexity(folder, dtype=torch.bfloat16).load().model.dtype == torch.bfloat16


def test_a_loaded_model_scores_like_its_folder(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    passed = Perplexity(model, tokenizer)
    assert passed(BATCH) == Perplexity(folder)(BATCH)
    passed.release()  # it could not be loaded again
    assert passed(BATCH) == Perplexity(folder)(BATCH)


def test_models_of_one_name_and_other_weights_have_other_fingerprints():
    one, other = causal_model("llama", TOKENIZER), causal_model("llama", TOKENIZER, seed=1)
    same = causal_model("llama", TOKENIZER)
    assert Hasher.hash(Perplexity(one, TOKENIZER)) == Hasher.hash(Perplexity(same, TOKENIZER))
    assert Hasher.hash(Perplexity(one, TOKENIZER)) != Hasher.hash(Perplexity(other, TOKENIZER))
    assert Perplexity(one, TOKENIZER)(BATCH) != Perplexity(other, TOKENIZER)(BATCH)


def test_a_loaded_model_with_another_chat_template_has_another_fingerprint():
    model, plain = causal_model("llama", TOKENIZER), byte_tokenizer()
    assert Hasher.hash(Perplexity(model, TOKENIZER)) != Hasher.hash(Perplexity(model, plain))


def test_configuration_alone_is_hashed_before_and_after_loading(indicator):
    before = Hasher.hash(indicator)
    indicator(BATCH)
    assert indicator._loaded is not None
    assert Hasher.hash(indicator) == before


def test_another_process_gets_the_same_fingerprints_and_scores(folder, reward_folder, t5_folder, tmp_path):
    indicators = [Perplexity(folder), Reward(reward_folder), UniEval(t5_folder)]
    (tmp_path / "indicators").write_bytes(pickle.dumps(indicators))
    program = (
        "import json, pickle, sys; from pathlib import Path; from datasets.fingerprint import Hasher;"
        "indicators = pickle.loads(Path(sys.argv[1]).read_bytes()); batch = json.loads(sys.argv[2]);"
        "print(json.dumps([[Hasher.hash(indicator), indicator(batch)] for indicator in indicators]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "indicators"), json.dumps(BATCH)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    theirs = json.loads(run.stdout.splitlines()[-1])
    assert theirs == [[Hasher.hash(indicator), indicator(BATCH)] for indicator in indicators]


def test_a_pickle_scores_the_same(indicator):
    assert pickle.loads(pickle.dumps(indicator))(BATCH) == indicator(BATCH)


def test_a_pickle_of_a_passed_model_needs_that_model():
    indicator = Perplexity(causal_model("llama", TOKENIZER, seed=2), TOKENIZER)
    data = pickle.dumps(indicator)
    assert len(data) < 2000
    assert pickle.loads(data)(BATCH) == indicator(BATCH)
    del indicator
    gc.collect()
    with pytest.raises(InstructMineError, match="a loaded model cannot be sent to another process"):
        pickle.loads(data)(BATCH)


def test_a_second_map_over_the_same_rows_takes_the_cache(folder, tmp_path):
    Dataset.from_dict(BATCH).save_to_disk(tmp_path / "rows")
    first, second = Perplexity(folder), Perplexity(folder)
    rows = Dataset.load_from_disk(str(tmp_path / "rows"))
    scored = rows.map(first, batched=True)
    again = Dataset.load_from_disk(str(tmp_path / "rows")).map(second, batched=True)
    assert again["perplexity"][:] == scored["perplexity"][:]
    assert second._loaded is None


def adapted(model):
    """A LoRA adapter on `model` that changes what it says."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return get_peft_model(model, config).eval()


def test_an_adapters_folder_scores_like_the_merged_model(folder, tmp_path):
    from transformers import AutoModelForCausalLM

    adapter = adapted(AutoModelForCausalLM.from_pretrained(folder))
    adapter.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("*token*"))  # PEFT saves none: its base model's serves
    passed = Perplexity(adapter, TOKENIZER)(BATCH)["perplexity"]
    merged = save(tmp_path / "merged", adapter.merge_and_unload(), TOKENIZER)
    expected = Perplexity(merged)(BATCH)["perplexity"]
    assert Perplexity(str(tmp_path / "adapter"))(BATCH)["perplexity"] == pytest.approx(expected, rel=1e-4)
    assert passed == pytest.approx(expected, rel=1e-4)
    assert expected != pytest.approx(Perplexity(folder)(BATCH)["perplexity"], rel=1e-2)


def test_an_adapted_reward_model_scores_like_the_merged_one(tmp_path):
    adapter = adapted(reward_classifier("llama", TOKENIZER))
    passed = Reward(adapter, TOKENIZER)(BATCH)["reward"]
    merged = save(tmp_path, adapter.merge_and_unload(), TOKENIZER)
    assert passed == pytest.approx(Reward(merged)(BATCH)["reward"], rel=1e-4, abs=1e-5)


def test_an_adapter_that_adds_tokens_of_its_own_is_refused():
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(InstructMineError, match="adapters that learn a prompt"):
        Perplexity(get_peft_model(causal_model("llama", TOKENIZER), config), TOKENIZER)


def test_provenance_names_a_folder_by_its_name_and_weights_never_its_path(folder, tmp_path):
    record = Perplexity(folder).provenance()
    assert record["model"] == "tiny-llama"
    assert str(Path(folder).parent) not in json.dumps(record)
    other = save(tmp_path / "tiny-llama", causal_model("llama", TOKENIZER, seed=1), TOKENIZER)
    assert Perplexity(other).provenance()["weights"] != record["weights"]
    moved = save(tmp_path / "moved" / "tiny-llama", causal_model("llama", TOKENIZER), TOKENIZER)
    assert Perplexity(moved).provenance() == record


def test_provenance_of_a_folder_tells_its_chat_template(tmp_path):
    model = causal_model("llama", TOKENIZER)
    one = save(tmp_path / "one" / "m", model, TOKENIZER)
    two = save(tmp_path / "two" / "m", model, byte_tokenizer(chat_template="{{ messages[0]['content'] }}"))
    assert Perplexity(one).provenance() != Perplexity(two).provenance()


def test_the_positions_a_model_has_are_known_and_infinite_where_they_are_relative():
    tokenizer = unigram_tokenizer()
    _, gpt2 = ModelSource.of(causal_model("gpt2", TOKENIZER), TOKENIZER, "AutoModelForCausalLM", 100)
    _, t5 = ModelSource.of(t5_model(tokenizer, tied=True), tokenizer, "AutoModelForSeq2SeqLM", 100)
    assert gpt2.max_positions == 128
    assert t5.max_positions == float("inf")


@pytest.mark.parametrize("used", ["first = indicator(pool[:4])", "torch.randn(10**6).exp().sum()"])
def test_processes_forked_after_torch_ran_do_not_hang(folder, tmp_path, used):
    program = f"""
import torch
from datasets import Dataset
import hf_instructmine as him
pool = Dataset.from_dict({{"prompt": [f"q{{i}}" for i in range(40)], "completion": ["a b c " * 20] * 40}})
indicator = him.Perplexity({folder!r})
{used}
scored = pool.map(indicator, batched=True, num_proc=2, load_from_cache_file=False)
first = him.Perplexity({folder!r})(pool[:4])["perplexity"]
assert abs(scored["perplexity"][0] - first[0]) < 1e-3 * first[0]
"""
    # With several threads: one alone has nobody to wait for.
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_DATASETS_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
