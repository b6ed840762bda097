"""What a model is made of is looked for without its weights being loaded."""

import json
import shutil

import pytest
from tiny_models import CHATML, byte_tokenizer, causal_model, save

from hf_instructmine import InstructMineError, NeighborDistance, OutputLength, Perplexity, Reward
from hf_instructmine.models.availability import check_encoder, check_model
from hf_instructmine.models.loading import ModelSource


TOKENIZER = byte_tokenizer(chat_template=CHATML)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save(tmp_path_factory.mktemp("model"), causal_model("llama", TOKENIZER), TOKENIZER)


@pytest.fixture
def copy(model, tmp_path):
    return shutil.copytree(model, tmp_path / "copy")


@pytest.fixture
def no_weights_loaded(monkeypatch):
    import transformers

    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    for name in ("AutoModelForCausalLM", "AutoModelForSequenceClassification"):
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", refuse)


def source(model, **given) -> ModelSource:
    return ModelSource(str(model), "AutoModelForCausalLM", **given)


def test_a_model_that_is_there_is_found_without_its_weights(model, no_weights_loaded):
    check_model(source(model))
    Perplexity(model).check_available()
    OutputLength(model).check_available()


def test_a_model_that_the_user_passed_is_there():
    Perplexity(causal_model("llama", TOKENIZER), TOKENIZER).check_available()
    OutputLength(TOKENIZER).check_available()


@pytest.mark.parametrize(
    "missing, message",
    [
        ("config.json", "cannot load the model '{}': "),
        ("model.safetensors", "the folder '{}' holds no weights of a model (.safetensors or .bin): give the folder"),
        ("*token*", "the folder '{}' holds no tokenizer: save one there"),
    ],
)
def test_what_a_folder_lacks_is_named(copy, missing, message):
    for path in copy.glob(missing):
        path.unlink()
    with pytest.raises(InstructMineError) as refused:
        check_model(source(copy))
    assert str(refused.value).startswith(message.format(copy))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("indicator", [Perplexity, Reward, OutputLength, NeighborDistance])
def test_a_name_of_nothing_is_named(indicator):
    with pytest.raises(InstructMineError, match=r"^cannot load the .*'nobody/no-such-model': .*give a Hub id"):
        indicator("nobody/no-such-model").check_available()


def test_the_model_that_an_adapter_needs_is_looked_for(model, tmp_path):
    from peft import LoraConfig, get_peft_model

    adapter = get_peft_model(causal_model("llama", TOKENIZER), LoraConfig(r=2, target_modules=["q_proj"]))
    adapter.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter/adapter_config.json"
    written = json.loads(config.read_text())
    config.write_text(json.dumps({**written, "base_model_name_or_path": model}))
    check_model(source(tmp_path / "adapter"))
    config.write_text(json.dumps({**written, "base_model_name_or_path": "nobody/no-such-model"}))
    with pytest.raises(InstructMineError, match=r"'nobody/no-such-model': "):
        check_model(source(tmp_path / "adapter", tokenizer=model))
    (tmp_path / "adapter/adapter_model.safetensors").unlink()
    with pytest.raises(InstructMineError, match=r"adapter' holds no weights of a model"):
        check_model(source(tmp_path / "adapter", tokenizer=model))


def test_a_sentence_encoders_folder_holds_weights(tmp_path):
    (tmp_path / "0_Transformer").mkdir()
    with pytest.raises(InstructMineError, match=r"holds no weights of a sentence encoder"):
        check_encoder(str(tmp_path))
    (tmp_path / "0_Transformer/model.safetensors").touch()
    check_encoder(str(tmp_path))


def test_a_sentence_encoder_on_the_hub_is_found_by_its_short_name_too(monkeypatch):
    from transformers.utils import hub

    there = {("sentence-transformers/known", "modules.json"), ("me/plain", "config.json")}

    def cached_file(name, file, revision=None):
        if (name, file) not in there:
            raise OSError(f"{name} has no {file}")
        return file

    monkeypatch.setattr(hub, "cached_file", cached_file)
    for name in ("known", "sentence-transformers/known", "me/plain"):
        check_encoder(name)
    with pytest.raises(InstructMineError, match=r"cannot load the sentence encoder 'me/known': me/known has no"):
        check_encoder("me/known")
