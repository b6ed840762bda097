"""Sentence encoders: text to unit vectors, in micro-batches of similar length, with special tokens read as text."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import InstructMineError
from ..outputs.digests import fast_digest
from ..versions import check_versions
from .checks import check_vocabulary, own_model
from .engine import run_sorted
from .loading import LoadedModel, ModelSource, describe_source, files_digest, weights_digest
from .tokenization import count_tokens
from .weights import device_here, known_dtype, reading


if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

check_versions("sentence-transformers")

# A "[SEP]" in the data is text.
_AS_TEXT = {"text": {"split_special_tokens": True}}
# What it is made of: the files of each of its modules, in their own folders.
_FILES = (".safetensors", ".bin", ".json", ".txt", ".model", ".py")


class SentenceEncoder:
    """A [`SentenceTransformer`] by Hub id, local folder or loaded; hash and pickle hold its configuration alone.

    Args:
        model (`str` or `SentenceTransformer`): Hub id, local folder, or loaded.
        token_budget (`int`, *optional*): Tokens in a forward pass, padding included; see [`LoadedModel`].
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        dtype (`str`, defaults to `"float32"`): Precision of the weights; the vectors are float32 in any case.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
    """

    _encoder: LoadedModel | None = None

    def __init__(
        self,
        model: Any,
        token_budget: int | None,
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        trust_remote_code: bool = False,
    ):
        if token_budget is not None and token_budget < 1:
            raise InstructMineError("token_budget must be at least 1")
        self.token_budget = token_budget
        self.revision = revision
        self.dtype = known_dtype(dtype)
        self.device = device
        self.trust_remote_code = trust_remote_code
        if isinstance(model, (str, Path)):
            self.model = str(model)
        else:
            self.dtype = str(model.dtype).removeprefix("torch.")
            self.model = _loaded_digest(model)
            self._encoder = self._source.keep(_checked(model, token_budget))

    @property
    def _source(self) -> ModelSource:
        return ModelSource(
            self.model, "SentenceTransformer", None, self.revision, self.dtype, self.device, self.trust_remote_code
        )

    @property
    def is_loaded(self) -> bool:
        """Whether it was loaded, by the user or by an earlier call."""
        return self._encoder is not None or self._source.is_loaded

    def load(self) -> LoadedModel:
        """Loads the encoder on the first call.

        Raises:
            [`InstructMineError`]: Where it cannot be had, or reads something else than plain text.
        """
        if self._encoder is None:
            self._encoder = self._source.share(lambda: _checked(self._load(), self.token_budget))
        return self._encoder

    def _load(self) -> "SentenceTransformer":
        from sentence_transformers import SentenceTransformer

        device = device_here(self.device)
        with reading("sentence encoder", self.model):
            model = SentenceTransformer(
                self.model,
                revision=self.revision,
                device=device,
                trust_remote_code=self.trust_remote_code,
                model_kwargs={"dtype": self.dtype},
            )
        return model

    def release(self) -> None:
        """Lets go of the model; one that the user passed stays, as it could not be loaded again."""
        if not self._source.is_loaded:
            self._encoder = None

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encodes at least one text.

        Returns:
            Unit vectors, float32 of shape `(n, dimensions)`, and for each text whether it was longer than the
            encoder's window and lost its end, bool `(n,)`.

        Raises:
            [`InstructMineError`]: Where a text's vector is zero or not finite.
        """
        loaded = self.load()
        lengths = np.array(_token_lengths(loaded, texts))
        model = cast("SentenceTransformer", loaded.model)
        window = model.max_seq_length or np.inf

        seen = np.minimum(lengths, window).astype(int).tolist()
        # On a CPU small batches cost nothing, and texts of one length share theirs without padding: a vector then has
        # the same bits alone and among others, where matrix products do (MKL, OpenBLAS).
        padded = loaded.device.type != "cpu"

        def forward(batch: list[int]) -> np.ndarray:
            return model.encode(
                [texts[row] for row in batch],
                batch_size=len(batch) if padded else max(1, loaded.token_budget // max(1, seen[batch[0]])),
                show_progress_bar=False,
                processing_kwargs=_AS_TEXT,
            )

        vectors = np.stack(run_sorted(loaded, seen, forward, padded))
        norms = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        sound = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
        if not sound.all():
            raise InstructMineError(
                f"the sentence encoder gives no direction to the text {texts[sound.argmin()]!r:.80}: "
                "try dtype='float32', or another model"
            )
        return (vectors / norms).astype(np.float32), lengths > window

    def dimensions(self) -> int:
        """Of a vector, 0 where the encoder does not say; loads it."""
        return int(cast("SentenceTransformer", self.load().model).get_embedding_dimension() or 0)

    def describe(self) -> dict[str, str]:
        """What is recorded beside a column: Hub id and commit, or a folder's name and the digest of its files.

        Raises:
            [`InstructMineError`]: Where there is no such model.
        """
        if self._source.is_loaded:
            return {"model": "a loaded SentenceTransformer", "weights": self.model, "dtype": self.dtype}
        folder = Path(self.model)
        if not folder.is_dir():
            return {**describe_source(self.model, self.revision, "sentence encoder"), "dtype": self.dtype}
        files = (path for path in folder.rglob("*") if path.suffix in _FILES)
        return {"model": folder.resolve().name, "weights": files_digest(folder, files), "dtype": self.dtype}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __repr__(self) -> str:
        return f"SentenceEncoder({self.model!r})"


def _token_lengths(loaded: LoadedModel, texts: list[str]) -> list[int]:
    from tokenizers import Tokenizer

    if isinstance(loaded.tokenizer, Tokenizer):  # static embeddings: no window and no padding
        return [1] * len(texts)
    special = loaded.tokenizer.num_special_tokens_to_add()
    return [tokens + special for tokens in count_tokens(loaded.tokenizer, texts)]


def _checked(model: "SentenceTransformer", token_budget: int | None) -> LoadedModel:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    if "message" in model.modalities:
        raise InstructMineError("the sentence encoder reads chat messages: choose one that reads plain text")
    inner = own_model(model)
    if isinstance(inner, PreTrainedModel):  # else static embeddings
        check_vocabulary(inner, model.tokenizer, str(inner.config.name_or_path), pads=True)
    if isinstance(model.tokenizer, Tokenizer):
        model.tokenizer.encode_special_tokens = True  # as `split_special_tokens` does for the others
    elif special := model.tokenizer.all_special_tokens:
        text = f"a {special[-1]} b"
        as_text, as_token = model.encode([text], processing_kwargs=_AS_TEXT)[0], model.encode([text])[0]
        if np.array_equal(as_text, as_token):
            raise InstructMineError(
                f"the sentence encoder reads '{special[-1]}' in a text as a special token, also where it is asked not "
                "to: install a tested release of sentence-transformers, or name another model"
            )
    of_any_kind = cast(Any, model.eval())  # [`run_sorted`] asks only for its device
    return LoadedModel(of_any_kind, model.tokenizer, token_budget)


def _loaded_digest(model: "SentenceTransformer") -> str:
    # Neither pooling nor the window are among the weights.
    return fast_digest(["|".join((weights_digest(model), repr(model), str(model.max_seq_length)))])
