"""The cached trunk: where only the last n layers train, the layers below give the same for a text in every run.

Their output is computed once per text and kept on disk in bfloat16; every run then trains and evaluates a model of the
last n layers that is fed with it.
"""

import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..errors import InstructMineError, one_line
from ..models.engine import pad_with_mask, response_nll, run_sorted
from ..models.loading import LoadedModel
from ..outputs.files import writing, written_whole
from ..outputs.reading import read_array
from ..outputs.room import check_room
from .base_model import decoder_layers
from .evaluation import EncodedSet
from .finetune import evaluating
from .trunk_texts import TEXTS, Place, held_beside, text_digests


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_TEXTS_PER_FILE = 512
# The model of the last layers is compared with the whole on so many texts. Fed with bfloat16, its loss of a token may
# differ by this share of the mean loss, on average over the tokens.
_COMPARED = 8
_COMPARED_TOKENS = 64
_TOLERANCE = 0.02
# Fed with what the lower layers give, unrounded, it may differ by rounding alone.
_UNROUNDED = 1e-3

# Which trunks this process has asked other processes to keep.
_held: set[Path] = set()


class Trunk:
    """What the lower layers give for some texts: a sequence of tensors, each `(tokens, hidden)`, read where needed.

    Args:
        files (`list[Path]`): One array of bfloat16 vectors for every 512 texts.
        lengths (`list[int]`): Tokens of each text.
        dtype (`torch.dtype`): Of the tensors that are given out: what the upper layers compute in.
        lock (`FileLock`): Held as long as the trunk is in use; free again when its process is killed.
    """

    def __init__(self, files: list[Path], lengths: Sequence[int], dtype: "torch.dtype", lock: FileLock):
        self.lock = lock
        self.lengths = list(lengths)
        self.dtype = dtype
        mend = "remove it, and start again"
        self.arrays = [read_array(path, mend, mmap_mode="r") for path in files]
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


def compute_trunk(
    loaded: LoadedModel, n: int, sequences: Sequence[Sequence[int]], folder: Path, bf16: bool, grows: bool = False
) -> Trunk:
    """Runs all but the last `n` layers over every sequence, or finds what an earlier call left in `folder`.

    Args:
        folder (`Path`): Gets a file for every 512 texts, each written whole: a killed call goes on where it stopped.
            The caller names it after the texts, uses it for one model, and keeps other processes out of it.
        grows (`bool`, defaults to `False`): Whether the folders beside it are trunks of the same model. Texts that
            they hold are not run again, and those that no process uses are removed in the end.

    Raises:
        [`InstructMineError`]: Where a cached trunk does not go with the model (see [`check_cut`]), the folder cannot
            be written, or the disk lacks room for it.
    """
    check_cut(loaded, n, [ids[:_COMPARED_TOKENS] for ids in sequences[:_COMPARED]], bf16)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob(".*.npy.*"):  # large, and half written when its process was killed
            stale.unlink()
    parts = {start: sequences[start : start + _TEXTS_PER_FILE] for start in range(0, len(sequences), _TEXTS_PER_FILE)}
    paths = {start: folder / f"{start:09d}-{len(part)}.npy" for start, part in parts.items()}
    missing = [part for start, part in parts.items() if not paths[start].exists()]
    try:
        size = _check_room(loaded, folder, missing)
    except InstructMineError:
        if not grows:
            raise
        remove_unused(folder.parent, keep=folder.name)  # and run again what they hold
        size = _check_room(loaded, folder, missing)
    known = held_beside(folder, _TEXTS_PER_FILE) if grows and missing else {}
    files = []
    told = f"Running the frozen layers ({size})"
    with tqdm(total=sum(map(len, sequences)), desc=told, unit="token", delay=3) as bar:
        for start, part in parts.items():
            path = paths[start]
            if not path.exists():
                _keep(path, _lower_layers_of_new(loaded, n, part, bf16, known))
            files.append(path)
            bar.update(sum(map(len, part)))
    _keep(folder / TEXTS, text_digests(sequences))
    if grows:
        remove_unused(folder.parent, keep=folder.name)
    return Trunk(files, [len(s) for s in sequences], loaded.model.dtype, _hold(folder))


def _keep(path: Path, array: np.ndarray) -> None:
    with written_whole(path) as partial, partial.open("wb") as file:
        np.save(file, array)


def _lower_layers_of_new(
    loaded: LoadedModel,
    n: int,
    part: Sequence[Sequence[int]],
    bf16: bool,
    known: Mapping[bytes, Place],
) -> np.ndarray:
    """As [`_lower_layers`], with the vectors of `known` texts read."""
    digests = text_digests(part)["digest"].tolist()
    new = [ids for ids, digest in zip(part, digests) if digest not in known]
    if len(new) == len(part):
        return _lower_layers(loaded, n, part, bf16)
    used = {known[digest][0] for digest in digests if digest in known}
    arrays = {path: read_array(path, "remove it, and start again", mmap_mode="r") for path in used}
    ran = np.split(_lower_layers(loaded, n, new, bf16), np.cumsum([len(ids) for ids in new])[:-1]) if new else []
    vectors, waiting = [], iter(ran)
    for place in map(known.get, digests):
        vectors.append(next(waiting) if place is None else arrays[place[0]][place[1] : place[2]])
    return np.concatenate(vectors)


def _check_room(loaded: LoadedModel, folder: Path, parts: Sequence[Sequence[Sequence[int]]]) -> str:
    """How large the files of `parts` will be, in words.

    Raises:
        [`InstructMineError`]: Where the disk has less room.
    """
    tokens = sum(len(ids) for part in parts for ids in part)
    needed = 2 * loaded.model.config.get_text_config().hidden_size * tokens
    return check_room(
        folder, needed, "the cached trunk takes", "choose another output_dir, or set cached_trunk: false"
    )


def _hold(folder: Path) -> FileLock:
    """Asks other processes to keep a trunk. The file lies beside the folder, and has a name that nobody else uses."""
    path = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.lock")
    lock = FileLock(path)
    lock.acquire()
    _held.add(path)
    return lock


def remove_unused(root: Path, keep: str) -> None:
    """Removes the trunks of a sweep but one: those of other mixtures, which are large and of no use any more.

    Args:
        root (`Path`): The folder of the sweep's trunks.
        keep (`str`): Name of the one that stays. So do those that another process uses.
    """
    for folder in [path for path in root.glob("*") if path.is_dir() and path.name != keep]:
        locks = list(root.glob(f"{folder.name}.*.lock"))
        if all(path in _held or _is_free(path) for path in locks):
            shutil.rmtree(folder, ignore_errors=True)
            for path in locks:
                path.unlink(missing_ok=True)
                _held.discard(path)


def _is_free(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    lock.release()
    return True


def check_cut(loaded: LoadedModel, n: int, sequences: Sequence[Sequence[int]], bf16: bool) -> None:
    """Looks whether the last `n` layers, fed with what the layers below give, are the whole model again.

    Args:
        sequences (`Sequence[Sequence[int]]`): Token ids of some texts, on which both are run. Only what the trunk's
            rounding adds is not seen here.

    Raises:
        [`InstructMineError`]: Where frozen layers drop out, the architecture cannot be cut, or losses change.
    """
    model, name = loaded.model, type(loaded.model).__name__
    _check_dropout(model, n)
    starts, exact = [1] * len(sequences), str(model.dtype) == "torch.float32" and not bf16
    with evaluating(model, bf16), _whole_again(model):
        whole = np.concatenate(response_nll(loaded, sequences, starts))
        try:
            states = _frozen_states(loaded, n, sequences)
            _cut(model, n)
            fed = _fed_to_first_layer(loaded, states[0])
            cut = np.concatenate(response_nll(loaded, sequences, starts, states))
        except InstructMineError:
            raise
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InstructMineError(
                f"cached_trunk cannot cut {name} in two ({type(error).__name__}: {one_line(error, first=True):.120}): "
                "set cached_trunk: false"
            ) from error
    if not fed:
        raise InstructMineError(
            f"cached_trunk does not reproduce {name}: it changes what it is fed with before the first layer; set "
            "cached_trunk: false"
        )
    moved = np.abs(cut - whole).mean()
    if not moved <= (_UNROUNDED if exact else _TOLERANCE) * (1 + whole.mean()):
        raise InstructMineError(
            f"cached_trunk does not reproduce {name}: losses of {whole.mean():.4f} a token changed by {moved:.4f}; "
            "set cached_trunk: false"
        )


def _dropout_rates(module: "torch.nn.Module") -> dict[str, float]:
    """How often a module drops out, by the name of the attribute that says so."""
    import torch

    if isinstance(module, torch.nn.modules.dropout._DropoutNd):
        return {"dropout": module.p}
    return {k: v for k, v in vars(module).items() if "drop" in k and isinstance(v, float)}


def _check_dropout(model: "PreTrainedModel", n: int) -> None:
    # Without a trunk frozen layers drop out too, as the whole model is in training mode.
    trained = {module for layer in decoder_layers(model)[-n:] for module in layer.modules()}
    frozen = (module for module in model.modules() if module not in trained)
    rates = ((name, rate) for module in frozen for name, rate in _dropout_rates(module).items())
    found = next((f"{name} {rate}" for name, rate in rates if rate > 0), None)
    if found is None:
        return
    settings = model.config.get_text_config().to_dict().items()
    zero = {k: 0.0 for k, v in settings if "drop" in k and isinstance(v, float) and v > 0 and "classifier" not in k}
    raise InstructMineError(
        f"cached_trunk does not go with dropout in frozen layers ({found}), which would be left out: set "
        f"model_init_kwargs: {zero}, or cached_trunk: false"
    )


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


@contextmanager
def _whole_again(model: "PreTrainedModel") -> Iterator[None]:
    """Puts all layers back afterwards."""
    config, layers = model.config.get_text_config(), decoder_layers(model)
    count, kinds = config.num_hidden_layers, getattr(config, "layer_types", None)
    try:
        yield
    finally:
        model.base_model.layers = layers
        config.num_hidden_layers = count
        if getattr(config, "layer_types", None) != kinds:
            config.layer_types = kinds


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

    with evaluating(loaded.model, bf16):
        states = _frozen_states(loaded, n, sequences, torch.bfloat16)
    return np.concatenate([vectors.view(torch.int16).numpy() for vectors in states])


def _frozen_states(
    loaded: LoadedModel, n: int, sequences: Sequence[Sequence[int]], dtype: "torch.dtype | None" = None
) -> "list[torch.Tensor]":
    """What the first layer that trains is fed with for each sequence, `(tokens, hidden)`, in `dtype` or as it is."""
    import torch

    first_trained = decoder_layers(loaded.model)[-n]

    def forward(batch: list[int]) -> "list[torch.Tensor]":
        ids, _ = pad_with_mask([sequences[i] for i in batch], loaded.device)
        with torch.inference_mode(), _stopped_before(first_trained) as caught, suppress(_ReachedTop):
            loaded.model(input_ids=ids, use_cache=False)
        hidden = (caught[0] if dtype is None else caught[0].to(dtype)).cpu()
        return [hidden[row, : len(sequences[i])].clone() for row, i in enumerate(batch)]

    return run_sorted(loaded, [len(s) for s in sequences], forward)


def _fed_to_first_layer(loaded: LoadedModel, states: "torch.Tensor") -> bool:
    """Whether a cut model's first layer is fed with what the model is, unchanged."""
    import torch

    fed = states[None].to(loaded.device)
    with (
        torch.inference_mode(),
        _stopped_before(decoder_layers(loaded.model)[0]) as caught,
        suppress(_ReachedTop),
    ):
        loaded.model(inputs_embeds=fed, use_cache=False)
    return torch.equal(caught[0], fed)
