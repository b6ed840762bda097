"""Weights from files: precision and device as asked, and one line for every file that cannot be read."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny_models import CHATML, ROWS, byte_tokenizer, causal_model, conversations_of, reward_classifier, save

from hf_instructmine import InstructMineError, NeighborDistance, Perplexity, Reward
from hf_instructmine.finetuning.base_model import load_base
from hf_instructmine.finetuning.recipe import Recipe
from hf_instructmine.models import loading, sentence_encoder, weights
from hf_instructmine.models.weights import device_here, known_dtype, unavailable


BATCH = conversations_of(ROWS)
TOKENIZER = byte_tokenizer(chat_template=CHATML)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("models") / "llama", causal_model("llama", TOKENIZER), TOKENIZER)


def base_of(folder: str, **settings):
    settings = {"model_name_or_path": folder, "dtype": "float32", "bf16": False, "use_cpu": True, **settings}
    return load_base(Recipe(settings).arguments())


# Precision and device


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("bf16", "bfloat16"),
        ("half", "float16"),
        ("fp16", "float16"),
        ("float", "float32"),
        (torch.bfloat16, "bfloat16"),
        ("torch.float16", "float16"),
        ("auto", "auto"),
    ],
)
def test_a_precision_has_many_names(asked, name):
    assert known_dtype(asked) == name


def test_a_short_name_is_the_same_configuration(folder):
    short = Perplexity(folder, dtype="bf16")
    assert short.source == Perplexity(folder, dtype="bfloat16").source
    assert short.load().model.dtype == torch.bfloat16
    assert short.provenance()["dtype"] == "bfloat16"


@pytest.mark.parametrize("make", [Perplexity, Reward, NeighborDistance])
@pytest.mark.parametrize("dtype", ["bfloat", "int8", 16, None])
def test_what_is_no_precision_is_refused_before_anything_is_loaded(make, dtype):
    with pytest.raises(InstructMineError, match=rf"dtype must be float32, bfloat16 or float16, not {dtype!r}"):
        make("nobody/no-such-model", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "mps", "gpu", "meta", "xpu:0", torch.device("cuda", 1)])
def test_a_device_that_is_not_here_is_refused_before_anything_is_loaded(folder, monkeypatch, device):
    monkeypatch.setattr(weights, "default_device", lambda: "cpu")
    monkeypatch.setattr(loading, "load_tokenizer", pytest.fail)
    with pytest.raises(
        InstructMineError, match=rf"there is no device '{device}' here: leave device out, or name one of"
    ):
        Perplexity(folder, device=device)(BATCH)
    with pytest.raises(InstructMineError, match=rf"there is no device '{device}' here"):
        NeighborDistance("nobody/no-such-model", device=device).encoder.load()


def test_devices_that_are_here_are_taken_and_named(monkeypatch):
    assert device_here("cpu") == "cpu"
    monkeypatch.setattr(weights, "default_device", lambda: "cuda")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert (device_here(), device_here("cuda"), device_here("cuda:1"), device_here("cpu")) == (
        "cuda", "cuda", "cuda:1", "cpu",
    )  # fmt: skip
    with pytest.raises(InstructMineError, match=r"no device 'cuda:2' here: .* name one of cpu, cuda:0, cuda:1$"):
        device_here("cuda:2")


# Files that cannot be read


def rewritten(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def as_bin(content: bytes):
    def damage(folder):
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(content)

    return damage


def with_config(**changes):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return damage


def as_adapter(config: str | None):
    def damage(folder):
        for name in ("model.safetensors", "config.json"):
            (folder / name).unlink()
        (folder / "adapter_model.safetensors").write_bytes(b"")
        if config is not None:
            (folder / "adapter_config.json").write_text(config)

    return damage


def half(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


DAMAGES = {
    "weights cut off": (half, "damaged, or of another kind"),
    "weights empty": (rewritten("model.safetensors", b""), "damaged, or of another kind"),
    "a .bin of text": (as_bin(b"no weights at all"), "damaged, or "),
    "an empty .bin": (as_bin(b""), "damaged, or of another kind"),
    "a .bin that would run code": (
        as_bin(pickle.dumps({"a": print})),
        "its .bin file is damaged, or holds more than weights",
    ),
    "weights of other shapes": (
        with_config(hidden_size=64),
        "its weights have other shapes than its config.json says",
    ),
    "a size in words": (with_config(hidden_size="many"), "expected int, got str"),
    "no heads": (with_config(num_attention_heads=0), "damaged, or of another kind"),
    "an unknown kind": (with_config(model_type="nosuch"), "does not recognize this architecture"),
    "code of its own": (
        with_config(model_type="nosuch", auto_map={"AutoConfig": "a.B", "AutoModelForCausalLM": "a.C"}),
        "comes with code of its own; .* pass trust_remote_code=True if you trust it",
    ),
    "config cut off": (rewritten("config.json", b'{"hidden_size": '), "not a valid JSON file"),
    "config a list": (rewritten("config.json", b"[]"), "must be a mapping, not list"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "Should have a `model_type` key"),
    "tokenizer cut off": (rewritten("tokenizer.json", b'{"version": '), "damaged, or of another kind"),
    "tokenizer a list": (rewritten("tokenizer.json", b"[]"), "damaged, or of another kind"),
    "tokenizer without a model": (rewritten("tokenizer.json", b"{}"), "damaged, or of another kind"),
    "an adapter without configuration": (as_adapter(None), "it holds an adapter without its adapter_config.json"),
    "an adapter of nothing": (as_adapter("{}"), "names no base_model_name_or_path"),
    "an adapter of a list": (as_adapter("[]"), "names no base_model_name_or_path"),
    "an adapter cut off": (as_adapter("{"), "damaged, or of another kind"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_line_whoever_reads_it(folder, tmp_path, damage):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    change, message = DAMAGES[damage]
    change(broken)
    for read in (lambda: Perplexity(str(broken))(BATCH), lambda: base_of(str(broken))):
        with pytest.raises(
            InstructMineError, match=rf"^cannot load the (base )?(model|tokenizer) '.*broken': .*{message}"
        ) as e:
            read()
        assert "\n" not in str(e.value) and "weights_only" not in str(e.value)


def test_an_adapter_without_a_tokenizer_says_what_it_lacks(folder, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    as_adapter(None)(broken)
    for path in broken.glob("*token*"):
        path.unlink()
    with pytest.raises(InstructMineError, match=r"cannot load the tokenizer '.*': it holds an adapter without its"):
        Perplexity(str(broken))(BATCH)


def test_a_sentence_encoder_is_read_as_carefully(folder, tmp_path):
    pytest.importorskip("sentence_transformers")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    half(broken)
    with pytest.raises(
        InstructMineError, match=r"^cannot load the sentence encoder '.*broken': a file of it is damaged"
    ):
        sentence_encoder.SentenceEncoder(str(broken), 100).load()


def test_good_weights_in_a_bin_are_read(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").unlink()
    torch.save(causal_model("llama", TOKENIZER).state_dict(), copy / "pytorch_model.bin")
    assert Perplexity(str(copy))(BATCH) == Perplexity(folder)(BATCH)


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2.00 GiB", "can't allocate memory"])
def test_memory_that_runs_out_is_no_damage(words):
    assert str(unavailable("model", "m", RuntimeError(words))) == f"cannot load the model 'm': {words}"


def test_an_option_that_the_model_does_not_know_is_named(folder):
    with pytest.raises(InstructMineError, match=r"unexpected keyword argument 'nonsense'$"):
        base_of(folder, model_init_kwargs={"nonsense": 1})


def test_a_reward_model_is_read_in_the_same_place(tmp_path):
    broken = Path(save(tmp_path / "broken", reward_classifier("llama", TOKENIZER), TOKENIZER))
    half(broken)
    with pytest.raises(InstructMineError, match=r"^cannot load the model '.*broken': a file of it is damaged"):
        Reward(str(broken))(BATCH)
