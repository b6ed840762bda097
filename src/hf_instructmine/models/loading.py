"""Models by Hub id, local folder, PEFT adapter, or already loaded; each loaded once and only when it is needed."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import InstructMineError
from ..outputs.digests import fast_digest
from ..versions import check_versions
from .checks import check_causal, check_vocabulary, own_model
from .weights import adapted_model, check_adapter, device_here, known_dtype, load_weights, reading, unavailable


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

check_versions("torch", "transformers")

# What a model's folder is known by.
_MODEL_FILES = (
    "*.safetensors", "*.bin", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "adapter_config.json",
)  # fmt: skip
_TOKENIZER_FILES = ("*token*", "vocab.*", "spiece.model", "spm.model", "sentencepiece*")

# Two indicators over one model (perplexity given the instruction, and without it) share it while either holds it. A
# forked worker finds here what the user passed.
_loaded: "WeakValueDictionary[ModelSource, Any]" = WeakValueDictionary()


def _compute_alone() -> None:
    """Lets a process that was forked from one that used torch, through us or otherwise, compute with one thread:
    OpenMP's others do not come along, and a worker of `Dataset.map(num_proc=…)` would wait for them for ever."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_compute_alone)


@dataclass(eq=False)
class LoadedModel:
    """A model in evaluation mode, its tokenizer, and the device it is on.

    `token_budget` is the number of tokens (padding included) that a forward pass may hold; by default 4096, and 512 on
    a CPU, where larger batches leave the cache and take longer. It is halved where memory ran out, and stays halved.
    `reads_cache` says whether the model goes on from keys and values as if it had read their text: None until tried.
    `template_kwargs` are arguments of the chat template in all that is encoded for this model.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    budget: InitVar[int | None] = None
    reads_cache: bool | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    token_budget: int = field(init=False)

    def __post_init__(self, budget: int | None) -> None:
        by_default = 512 if self.device.type == "cpu" else 4096
        self.token_budget = by_default if budget is None else budget

    @property
    def device(self) -> "torch.device":
        """Where the model's weights are."""
        return self.model.device

    @property
    def max_positions(self) -> float:
        """Tokens that the model has positions for; infinite where positions are relative (T5, BLOOM)."""
        # The one attribute that only some configurations have, under this name or mapped to it.
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or float("inf")

    @property
    def alone_from(self) -> float:
        """Tokens from which on a text has to run alone; infinite for most models.

        LongRoPE and dynamic NTK turn every position of a batch by its longest text, once that is longer than the
        texts that the model was first trained on: a value would depend on what else is in the batch.
        """
        own = own_model(self.model)
        if own is self.model and not hasattr(own, "config"):  # static embeddings
            return float("inf")
        config = own.config.get_text_config()
        return min(_rope_holds(config, parameters) for parameters in _rope_parameters(config))


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """The rotary settings of a model: of all its layers, or of each kind of layer."""
    found = getattr(config, "rope_parameters", None) or {}  # which only some models have
    each = [value for value in found.values() if isinstance(value, dict)]
    return each or [found]


def _rope_holds(config: Any, parameters: dict[str, Any]) -> float:
    """Tokens up to which rotary frequencies are the same for every text."""
    kind = parameters.get("rope_type") or ""
    if kind == "longrope":
        return parameters.get("original_max_position_embeddings") or config.original_max_position_embeddings
    return config.max_position_embeddings if "dynamic" in kind else float("inf")


@dataclass(frozen=True)
class ModelSource:
    """Where a model, tokenizer or sentence encoder comes from and how it is to be loaded: configuration only, cheap
    to hash and pickle.

    Args:
        model (`str`): Hub id or local folder, of a model or of a PEFT adapter; or the digest of a loaded one.
        auto_class (`str`): Name of the class that loads it: in transformers, or `"SentenceTransformer"`.
        tokenizer (`str`, *optional*): Hub id or folder of the tokenizer, where it is not the model's; or the digest of
            a loaded one.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dtype (`str`, defaults to `"float32"`): Precision of the weights; see [`known_dtype`].
        device (`str`, *optional*): Defaults to the GPU where there is one.
        trust_remote_code (`bool`, defaults to `False`): Whether code from the Hub may run.
    """

    model: str
    auto_class: str
    tokenizer: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str | None = None
    trust_remote_code: bool = False

    @classmethod
    def of(
        cls, model: Any, tokenizer: Any, auto_class: str, token_budget: int | None, **kwargs: Any
    ) -> tuple["ModelSource", LoadedModel | None]:
        """Takes what a user passes: names, or a loaded model with its tokenizer.

        Returns:
            The source, and for a loaded model also the [`LoadedModel`], which the caller must hold on to: the source
            knows it by the digest of its weights, and pickles carry that alone.

        Raises:
            [`InstructMineError`]: Where `dtype` is no precision, or a loaded model is none that can be scored with.
        """
        kwargs["dtype"] = known_dtype(kwargs.get("dtype", "float32"))
        if isinstance(model, (str, Path)):
            if not isinstance(tokenizer, (str, Path, type(None))):
                raise InstructMineError("pass a tokenizer object only together with a loaded model; else its name")
            return cls(str(model), auto_class, None if tokenizer is None else str(tokenizer), **kwargs), None
        if tokenizer is None or isinstance(tokenizer, (str, Path)):
            raise InstructMineError("a loaded model needs its loaded tokenizer: pass tokenizer=…")
        if type(model).__module__.startswith("peft."):
            if model.active_peft_config.is_prompt_learning:
                raise InstructMineError("adapters that learn a prompt add tokens of their own: pass LoRA or its like")
            model = model.get_base_model()  # with the adapter's layers inside
        kwargs["dtype"] = str(model.dtype).removeprefix("torch.")
        source = cls(weights_digest(model), auto_class, chat_digest(tokenizer), **kwargs)
        loaded = LoadedModel(model.eval(), tokenizer, token_budget)
        source.check(loaded, str(model.config.name_or_path or type(model).__name__))
        return source, source.keep(loaded)

    @property
    def is_loaded(self) -> bool:
        """Whether the user passed it loaded: it is known by its digest and cannot be loaded again."""
        return self.model.startswith("xxh64:")

    def keep(self, loaded: Any) -> Any:
        """Lets [`share`] find it as long as the caller holds it; returns it."""
        _loaded[self] = loaded
        return loaded

    def share(self, load: Callable[[], Any], what: str = "model") -> Any:
        """What an equal source keeps in this process, else what `load` gives.

        Raises:
            [`InstructMineError`]: Where the user passed it loaded, in another process.
        """
        loaded = _loaded.get(self)
        if loaded is None and self.is_loaded:
            raise InstructMineError(
                f"a loaded {what} cannot be sent to another process: pass its folder or Hub id, or map in this process"
            )
        return self.keep(load()) if loaded is None else loaded

    def load(self, token_budget: int | None) -> LoadedModel:
        """Loads the model on the first call; equal sources elsewhere in the process share it while one holds it.

        Raises:
            [`InstructMineError`]: Where the model or its tokenizer cannot be had; the message names which.
        """
        return self.share(lambda: self._load(token_budget))

    def _load(self, token_budget: int | None) -> LoadedModel:
        device = device_here(self.device)
        tokenizer = self.load_tokenizer()
        model, missing = load_weights(
            self.model, self.auto_class, self.dtype, revision=self.revision, trust_remote_code=self.trust_remote_code
        )
        if missing:
            raise InstructMineError(
                f"the model '{self.model}' was saved without {', '.join(missing[:3])}, which {type(model).__name__} "
                "needs: its scores would be random; give a model trained for this indicator"
            )
        loaded = LoadedModel(model.to(device).eval(), tokenizer, token_budget)  # type: ignore[arg-type]
        self.check(loaded, self.model)
        return loaded

    def check(self, loaded: LoadedModel, name: str) -> None:
        """Looks at what was loaded.

        Raises:
            [`InstructMineError`]: Where the tokenizer is another model's, or a language model sees the future.
        """
        is_language_model = self.auto_class == "AutoModelForCausalLM"
        check_vocabulary(loaded.model, loaded.tokenizer, name, pads=not is_language_model)
        if is_language_model:
            check_causal(loaded.model, name)

    def load_tokenizer(self) -> "PreTrainedTokenizerBase":
        """Loads the tokenizer alone.

        Raises:
            [`InstructMineError`]: Where there is none.
        """
        return load_tokenizer(self.tokenizer or self.model, self.revision, self.trust_remote_code)

    def provenance(self) -> dict[str, Any]:
        """What is recorded beside a column that this model made. A local folder is known by its name and the digest
        of its weights, never by its path."""
        if self.is_loaded and self in _loaded:
            name = Path(str(_loaded[self].model.config.name_or_path)).name
            return {"model": name, "weights": self.model, "dtype": self.dtype}
        record = {**describe_source(self.model, self.revision), "dtype": self.dtype}
        if self.tokenizer is not None:
            record["tokenizer"] = describe_source(self.tokenizer, None)["model"]
        return record


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer by Hub id or folder; for a PEFT adapter's folder without one, its base model's.

    Raises:
        [`InstructMineError`]: Where there is none, or its files are damaged.
    """
    from transformers import AutoTokenizer

    folder = Path(name)
    if folder.is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)):
        check_adapter(name, "tokenizer")
        if not (folder / "adapter_config.json").is_file():
            raise InstructMineError(
                f"the folder '{name}' holds no tokenizer: save one there, or name one with tokenizer=…"
            )
        name, revision = adapted_model(folder, "tokenizer"), None
    with reading("tokenizer", name):
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)


def describe_source(name: str, revision: str | None, what: str = "model") -> dict[str, str]:
    """Names a model for provenance: Hub id and commit, or a local folder's name and the digest of its files.

    Args:
        name (`str`): Hub id or local folder.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        what (`str`, defaults to `"model"`): What the error calls it.

    Raises:
        [`InstructMineError`]: Where the name is neither a folder nor can be an id.
    """
    folder = Path(name)
    if folder.is_dir():
        files = (path for pattern in _MODEL_FILES for path in folder.glob(pattern))
        return {"model": folder.resolve().name, "weights": files_digest(folder, files)}
    return {"model": name, "revision": _resolved_commit(name, revision, what)}


def weights_digest(model: Any) -> str:
    """A digest of a loaded model's weights: two models with the same name and other weights are two models."""
    import torch

    def parts() -> Iterator[Any]:
        for name, tensor in model.state_dict().items():
            yield name
            yield tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()

    return fast_digest(parts())


def chat_digest(tokenizer: Any) -> str:
    """A digest of what a loaded tokenizer makes of a text: its vocabulary, special tokens and chat template."""
    parts = (sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map, tokenizer.chat_template)
    return fast_digest([repr(parts)])


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """A digest of files of a folder: their names in it and their contents."""

    def parts() -> Iterator[str | bytes]:
        for path in sorted(set(files)):
            yield path.relative_to(folder).as_posix()
            with path.open("rb") as file:
                while block := file.read(1 << 24):
                    yield block

    return fast_digest(parts())


def _resolved_commit(name: str, revision: str | None, what: str) -> str:
    from transformers.utils.hub import cached_file, extract_commit_hash

    try:
        path = cached_file(name, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    except OSError as error:  # neither a folder nor an id
        raise unavailable(what, name, error) from error
    return extract_commit_hash(path, None) or revision or "main"
