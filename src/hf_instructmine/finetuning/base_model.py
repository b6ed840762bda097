"""The base model of a finetune, as the recipe says: precision, template, and which layers train."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import InstructMineError, one_line
from ..models.checks import check_causal, check_vocabulary
from ..models.loading import LoadedModel, load_tokenizer
from ..models.rendering import check_template_kwargs
from ..models.weights import adapted_model, load_weights
from .recipe import Arguments


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from trl import SFTConfig


def load_base(arguments: Arguments) -> LoadedModel:
    """Loads the base model as the recipe says, quantised or not, with the layers that do not train frozen.

    Raises:
        [`InstructMineError`]: Where the model cannot be had or is no causal language model, its tokenizer is another
            model's, or the recipe needs an accelerator that is not there.
    """
    import torch
    from transformers.integrations.fsdp import is_fsdp_enabled
    from trl import get_quantization_config

    own, sft, model = arguments.own, arguments.sft, arguments.model
    quantization = get_quantization_config(model)
    if quantization is not None and not torch.cuda.is_available():
        raise InstructMineError("this recipe loads a quantised model, which needs a CUDA GPU: none is visible")
    name = model.model_name_or_path
    assert name is not None  # a recipe that names no model is refused
    tokenizer = _load_tokenizer(arguments)
    base, missing = load_weights(
        name,
        "AutoModelForCausalLM",
        model.dtype,
        "base model",
        revision=model.model_revision,
        trust_remote_code=sft.trust_remote_code,
        attn_implementation=model.attn_implementation,
        quantization_config=quantization,
        **cast("dict[str, Any]", sft.model_init_kwargs or {}),  # text has become a dict in SFTConfig
    )
    if missing:
        raise InstructMineError(f"the base model '{name}' is no language model: it lacks {missing[0]}")
    check_vocabulary(base, tokenizer, name, pads=True)
    if own.train_last_layers is not None:
        freeze_all_but_last(base, own.train_last_layers)
    # FSDP and DeepSpeed spread the weights themselves: until then a process may hold none. What is quantised is on its
    # GPU already.
    if sft.deepspeed_plugin is None and not is_fsdp_enabled():
        if quantization is None:
            base.to(sft.device)  # type: ignore[arg-type]  # the stub binds no `self`
        check_causal(base, name)
    kwargs = check_template_kwargs(own.chat_template_kwargs)
    return LoadedModel(base, tokenizer, own.eval_token_budget, template_kwargs=kwargs)


def load_encoder(arguments: Arguments) -> LoadedModel:
    """The base model's tokenizer, with its configuration and without its weights: enough to encode texts.

    Raises:
        [`InstructMineError`]: Where the tokenizer or the configuration cannot be had.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import find_adapter_config_file

    model, trusted = arguments.model, arguments.sft.trust_remote_code
    name, revision, tokenizer = str(model.model_name_or_path), model.model_revision, _load_tokenizer(arguments)
    try:
        if (adapter := find_adapter_config_file(name, revision=revision)) is not None:
            name, revision = adapted_model(Path(adapter).parent, "base model"), "main"
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trusted)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=trusted)
    except (ImportError, OSError, ValueError) as error:
        raise InstructMineError(f"cannot load the base model '{name}': {one_line(error, first=True)}") from error
    kwargs = check_template_kwargs(arguments.own.chat_template_kwargs)
    return LoadedModel(empty, tokenizer, arguments.own.eval_token_budget, template_kwargs=kwargs)


def _load_tokenizer(arguments: Arguments) -> "PreTrainedTokenizerBase":
    name = arguments.model.model_name_or_path
    assert name is not None  # a recipe that names no model is refused
    tokenizer = load_tokenizer(name, arguments.model.model_revision, arguments.sft.trust_remote_code)
    _set_template(tokenizer, arguments.sft)
    return tokenizer


def _set_template(tokenizer: "PreTrainedTokenizerBase", sft: "SFTConfig") -> None:
    """Applies `eos_token` and `chat_template_path`, which TRL's trainer would after the texts are tokenised."""
    if sft.eos_token is not None:
        if sft.eos_token not in tokenizer.get_vocab():
            raise InstructMineError(f"eos_token '{sft.eos_token}' is not in the vocabulary of the tokenizer")
        tokenizer.eos_token = sft.eos_token
    if sft.chat_template_path is None:
        return
    path = Path(sft.chat_template_path)
    if path.is_file():
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        return
    source = load_tokenizer(sft.chat_template_path)
    unknown = [token.content for token in source.added_tokens_decoder.values() if token.content not in tokenizer.vocab]
    if unknown:
        raise InstructMineError(
            f"the chat template of '{sft.chat_template_path}' comes with tokens that the base model does not have "
            f"({unknown[0]}): name a .jinja file that uses the base model's own"
        )
    tokenizer.chat_template, tokenizer.eos_token = source.get_chat_template(), source.eos_token


def decoder_layers(model: "PreTrainedModel") -> "torch.nn.ModuleList":
    """The stack of decoder layers.

    Raises:
        [`InstructMineError`]: Where the architecture keeps it under another name than `layers`.
    """
    layers = dict(model.base_model.named_children()).get("layers")
    if layers is None:
        raise InstructMineError(
            f"train_last_layers does not know where {type(model).__name__} keeps its layers: use LoRA (use_peft)"
        )
    return cast("torch.nn.ModuleList", layers)


def freeze_all_but_last(model: "PreTrainedModel", n: int) -> None:
    """Leaves the last `n` decoder layers and the final norm to train.

    Raises:
        [`InstructMineError`]: Where the model has fewer than `n` layers.
    """
    layers = decoder_layers(model)
    if n > len(layers):
        raise InstructMineError(f"train_last_layers is {n}, but the model has {len(layers)} layers")
    model.requires_grad_(False)
    layers[-n:].requires_grad_(True)
    for name, child in model.base_model.named_children():
        if "norm" in name:
            child.requires_grad_(True)
