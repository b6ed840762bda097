"""Models by Hub id, local folder, PEFT adapter, or already loaded; each loaded once and only when it is needed."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ..errors import InstructMineError, one_line
from ..outputs.digests import fast_digest
from ..versions import check_versions


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


@cache
def _survive_forks() -> None:
    """Lets processes that are forked from this one compute with one thread each: OpenMP's others do not come along,
    and a worker of `Dataset.map(num_proc=…)` would wait for them for ever."""
    import torch

    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


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
        _survive_forks()
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
        dtype (`str`, defaults to `"float32"`): Precision of the weights: `"float32"`, `"bfloat16"`, `"float16"`.
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
        """
        kwargs["dtype"] = str(kwargs.get("dtype", "float32")).removeprefix("torch.")
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
        return source, source.keep(LoadedModel(model.eval(), tokenizer, token_budget))

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
        import transformers

        tokenizer = self.load_tokenizer()
        try:
            model, info = getattr(transformers, self.auto_class).from_pretrained(
                self.model,
                revision=self.revision,
                dtype=self.dtype,
                trust_remote_code=self.trust_remote_code,
                output_loading_info=True,
            )
        except (OSError, ValueError) as error:
            raise unavailable("model", self.model, error) from error
        if info["missing_keys"]:  # transformers fills them with random numbers and a warning
            raise InstructMineError(
                f"the model '{self.model}' was saved without {', '.join(sorted(info['missing_keys'])[:3])}, which "
                f"{type(model).__name__} needs: its scores would be random; give a model trained for this indicator"
            )
        check_dtype(model, self.dtype, self.model)
        return LoadedModel(model.to(self.device or default_device()).eval(), tokenizer, token_budget)

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


def check_dtype(model: Any, dtype: Any, name: str) -> None:
    """Looks whether the library has read `dtype`: one that ignores the word would move every number without an error.

    Raises:
        [`InstructMineError`]: Where the weights are of another precision than asked for.
    """
    wanted, found = (str(value).removeprefix("torch.") for value in (dtype, model.dtype))
    if wanted not in ("None", "auto", found):
        raise InstructMineError(
            f"the model '{name}' was loaded in {found}, not in {wanted} as asked: name another dtype"
        )


def load_tokenizer(
    name: str, revision: str | None = None, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """Loads a tokenizer by Hub id or folder; for a PEFT adapter's folder without one, its base model's.

    Raises:
        [`InstructMineError`]: Where there is none.
    """
    from transformers import AutoTokenizer

    if Path(name).is_dir() and not any(path for pattern in _TOKENIZER_FILES for path in Path(name).glob(pattern)):
        base = _adapted_model(Path(name))
        if base is None:
            raise InstructMineError(
                f"the folder '{name}' holds no tokenizer: save one there, or name one with tokenizer=…"
            )
        name, revision = base, None
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise unavailable("tokenizer", name, error) from error


def _adapted_model(folder: Path) -> str | None:
    config = folder / "adapter_config.json"
    return json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"] if config.is_file() else None


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


def default_device() -> str:
    """The kind of accelerator that is there, else `cpu`."""
    import torch

    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


def unavailable(what: str, name: str, error: Exception) -> InstructMineError:
    """The error for what cannot be loaded, in one line."""
    return InstructMineError(
        f"cannot load the {what} '{name}': {one_line(error, first=True)}; give a Hub id (with a network) or a folder "
        "that holds it"
    )
