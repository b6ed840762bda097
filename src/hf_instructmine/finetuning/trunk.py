"""The cached trunk: where only the last n layers train, the layers below give the same for a text in every run.

Their output is computed once per text and kept on disk in bfloat16; every run then trains and evaluates a model of the
last n layers that is fed with it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from tqdm.auto import tqdm

from ..errors import InstructMineError
from ..models.engine import pad_with_mask, response_nll, run_sorted
from ..models.loading import LoadedModel
from ..outputs.files import writing, written_whole
from .base_model import decoder_layers
from .evaluation import EncodedSet
from .finetune import evaluating


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TEXTS_PER_FILE = 512
# The model of the last layers is compared with the whole on so many texts. Fed with bfloat16, its loss of a token may
# differ by this share of the mean loss, on average over the tokens.
_COMPARED = 8
_TOLERANCE = 0.02


class Trunk:
    """What the lower layers give for some texts: a sequence of tensors, each `(tokens, hidden)`, read where needed.

    Args:
        files (`list[Path]`): One array of bfloat16 vectors for every 512 texts.
        lengths (`list[int]`): Tokens of each text.
        dtype (`torch.dtype`): Of the tensors that are given out: what the upper layers compute in.
    """

    def __init__(self, files: list[Path], lengths: Sequence[int], dtype: "torch.dtype"):
        self.lengths = list(lengths)
        self.dtype = dtype
        self.arrays = [np.load(path, mmap_mode="r") for path in files]
        parts = [lengths[k : k + _TEXTS_PER_FILE] for k in range(0, len(lengths), _TEXTS_PER_FILE)]
        self.starts = [np.concatenate([[0], np.cumsum(part)[:-1]]) for part in parts]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> "torch.Tensor":
        import torch

        file, text = divmod(i, _TEXTS_PER_FILE)
        start = int(self.starts[file][text])
        bits = np.array(self.arrays[file][start : start + self.lengths[i]])
        return torch.from_numpy(bits).view(torch.bfloat16).to(self.dtype)

    def select(self, numbers: Sequence[int]) -> "Sequence[torch.Tensor]":
        """Some of the texts, in the order of `numbers`."""
        return cast("Sequence[torch.Tensor]", Selected(self, numbers))  # length and items are all that is asked of it


@dataclass(frozen=True)
class WholeModel:
    """What [`cut_to_last_layers`] changes in a model, as it was.

    Attributes:
        layers (`torch.nn.ModuleList`): All of them; the last are those that train.
        head (`torch.nn.Parameter`): Of its output.
        num_layers (`int`): As its configuration says.
        layer_types (`list[str]`, *optional*): The same, where it mixes kinds of layers.
    """

    layers: "torch.nn.ModuleList"
    head: "torch.nn.Parameter"
    num_layers: int
    layer_types: list[str] | None

    @classmethod
    def of(cls, model: "PreTrainedModel") -> "WholeModel":
        """Holds on to a model's parts before it is cut."""
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        # Only some architectures mix kinds of layers.
        kinds = getattr(config, "layer_types", None)
        return cls(decoder_layers(model), head.weight, config.num_hidden_layers, kinds)

    @contextmanager
    def put_back(self, model: "PreTrainedModel") -> Iterator[None]:
        """Makes the cut model whole within the block: the layers that have trained stand on the frozen ones."""
        cut = WholeModel.of(model)
        self._give(model)
        try:
            yield
        finally:
            cut._give(model)

    def _give(self, model: "PreTrainedModel") -> None:
        config = model.config.get_text_config()
        model.base_model.layers = self.layers
        model.get_output_embeddings().weight = self.head
        config.num_hidden_layers = self.num_layers
        if self.layer_types is not None:
            config.layer_types = self.layer_types


class Selected:
    """Texts of a [`Trunk`], by their numbers in it."""

    def __init__(self, trunk: Trunk, numbers: Sequence[int]):
        self.trunk, self.numbers = trunk, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> "torch.Tensor":
        return self.trunk[self.numbers[i]]


def compute_trunk(loaded: LoadedModel, n: int, sequences: Sequence[Sequence[int]], folder: Path, bf16: bool) -> Trunk:
    """Runs all but the last `n` layers over every sequence, or finds what an earlier call left in `folder`.

    Args:
        folder (`Path`): Gets a file for every 512 texts, each written whole: a killed call goes on where it stopped.
            The caller names it after the texts, uses it for one model, and keeps other processes out of it.

    Raises:
        [`InstructMineError`]: Where the folder cannot be written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.npy.*"):  # large, and half written when its process was killed
            stale.unlink()
    files = []
    with tqdm(total=sum(map(len, sequences)), desc="Running the frozen layers", unit="token", delay=3) as bar:
        for start in range(0, len(sequences), _TEXTS_PER_FILE):
            part = sequences[start : start + _TEXTS_PER_FILE]
            path = folder / f"{start:09d}-{len(part)}.npy"
            if not path.exists():
                vectors = _lower_layers(loaded, n, part, bf16)
                with written_whole(path) as partial, partial.open("wb") as file:
                    np.save(file, vectors)
            files.append(path)
            bar.update(sum(map(len, part)))
    return Trunk(files, [len(s) for s in sequences], loaded.model.dtype)


def cut_to_last_layers(loaded: LoadedModel, n: int, texts: EncodedSet, trunk: Trunk, bf16: bool) -> None:
    """Drops all but the last `n` layers from the model in place, which from then on takes [`Trunk`]'s vectors.

    Args:
        texts ([`EncodedSet`]): The first texts of the trunk; on some of them the cut model is compared with the whole.

    Raises:
        [`InstructMineError`]: Where the cut model does not give the whole model's losses on them.
    """
    sequences, starts = texts.sequences[:_COMPARED], texts.starts[:_COMPARED]
    with evaluating(loaded.model, bf16):
        whole = np.concatenate(response_nll(loaded, sequences, starts))
        _cut(loaded.model, n)
        cut = np.concatenate(response_nll(loaded, sequences, starts, trunk.select(range(len(sequences)))))
    if not np.abs(cut - whole).mean() <= _TOLERANCE * whole.mean():
        raise InstructMineError(
            f"cached_trunk does not reproduce {type(loaded.model).__name__}: losses of {whole.mean():.4f} a token "
            f"changed by {np.abs(cut - whole).mean():.4f}; set cached_trunk: false"
        )


def _cut(model: "PreTrainedModel", n: int) -> None:
    model.base_model.layers = decoder_layers(model)[-n:]
    config = model.config.get_text_config()
    config.num_hidden_layers = n
    if getattr(config, "layer_types", None) is not None:  # only some architectures mix kinds of layers
        config.layer_types = config.layer_types[-n:]


class _ReachedTop(Exception):
    """Ends a forward pass where the layers that train begin."""


@contextmanager
def _stopped_before(layer: "torch.nn.Module") -> Iterator[list]:
    caught: list = []

    def stop(_module: "torch.nn.Module", args: tuple, kwargs: dict) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])
        raise _ReachedTop

    handle = layer.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield caught
    finally:
        handle.remove()


def _lower_layers(loaded: LoadedModel, n: int, sequences: Sequence[Sequence[int]], bf16: bool) -> np.ndarray:
    """Returns the vectors of all sequences one after another, bfloat16 seen as int16, `(tokens, hidden)`."""
    import torch

    first_trained = decoder_layers(loaded.model)[-n]

    def forward(batch: list[int]) -> list[np.ndarray]:
        ids, _ = pad_with_mask([sequences[i] for i in batch], loaded.device)
        with torch.inference_mode(), _stopped_before(first_trained) as caught, suppress(_ReachedTop):
            loaded.model(input_ids=ids, use_cache=False)
        hidden = caught[0].to(torch.bfloat16).cpu().view(torch.int16).numpy()
        return [hidden[row, : len(sequences[i])].copy() for row, i in enumerate(batch)]

    with evaluating(loaded.model, bf16):
        return np.concatenate(run_sorted(loaded, [len(s) for s in sequences], forward))
