"""Batched forward passes: sorted by length, filled by a token budget, retried with half of it when memory runs out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InstructMineError
from .beginning import Beginning, alike


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .loading import LoadedModel

# Rows of logits turned to log-probabilities at a time on a CPU: the fp32 copies stay in its cache.
LOGIT_ROWS = 16
# Logits so turned at a time elsewhere: 512 MiB in fp32. A GPU has no such cache, and each block costs it four kernels.
_LOGITS = 2**27
# Up to so many tokens plain products beat PyTorch's fused attention in bfloat16 on a CPU, by 3 times at 60 tokens.
_SHORT = 192
# How far the NLL of texts may move, on average over their tokens, where their beginning is read from a cache: a share
# of 1 nat and their mean. On SmolLM2-135M rounding moves it by 1e-6 in fp32 and by 0.011 in bfloat16; a beginning that
# is not seen, by 0.07.
_TOLERANCES = {"fp32": 0.005, "less": 0.03}
# So many texts show whether a model reads its cache.
_TRIED = 4

logger = logging.getLogger(__name__)


def run_sorted(
    loaded: "LoadedModel",
    lengths: Sequence[int],
    forward: Callable[[list[int]], Sequence | np.ndarray],
    padded: bool = True,
) -> list:
    """Runs `forward` over all items in micro-batches of similar length and returns the results in the items' order.

    Args:
        loaded ([`LoadedModel`]): Its `token_budget` bounds a micro-batch, padding included. It is halved, and the
            micro-batch tried again, each time memory runs out. Items of `alone_from` tokens and more run one by one.
        lengths (`Sequence[int]`): Tokens of each item.
        forward (`Callable[[list[int]], Sequence]`): Takes the numbers of the items of a micro-batch, longest first;
            returns one result for each.
        padded (`bool`, defaults to `True`): Whether items of different lengths may share a micro-batch. Otherwise
            `forward` gets all items of one length, and sees to micro-batches of `loaded.token_budget` itself.

    Raises:
        [`InstructMineError`]: Where a single item does not fit into memory.
    """
    results: list = [None] * len(lengths)
    # Longest first: memory that does not suffice shows in the first batch, not in the last.
    waiting = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    while waiting:
        longest = lengths[waiting[0]]
        fitting = max(1, loaded.token_budget // max(1, longest))
        size = 1 if longest >= loaded.alone_from else fitting
        batch = waiting[:size] if padded else [i for i in waiting if lengths[i] == longest]
        _forget_longer_texts(loaded)
        try:
            with any_shape(loaded.device):
                outputs = forward(batch)
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            tried = min(fitting, len(batch))
            if tried == 1:
                raise InstructMineError(
                    f"one text of {longest} tokens does not fit into memory: lower max_length"
                ) from error
            outputs = None
        if outputs is None:  # outside of `except`: until it is left, the error's traceback keeps the tensors alive
            loaded.token_budget = longest * tried // 2
            _empty_cache()
            continue
        for i, output in zip(batch, outputs):
            results[i] = output
        waiting = waiting[len(batch) :]
    return results


def _forget_longer_texts(loaded: "LoadedModel") -> None:
    """Lets the model's rotary frequencies be those that its configuration says: with dynamic NTK they grow with the
    longest text so far. The library resets them at a short text, and in some releases (5.7) never."""
    if loaded.alone_from == float("inf"):
        return
    original = "original_inv_freq"
    for module in loaded.model.modules():
        # Some models have frequencies for each kind of layer, whose names begin with it.
        names = [name for name in (*module._buffers, *module.__dict__) if name.endswith(original)]
        for name in names:
            prefix, kept = name.removesuffix(original), getattr(module, name)
            device = getattr(module, f"{prefix}inv_freq").device
            module.register_buffer(f"{prefix}inv_freq", kept.to(device).clone(), persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def response_nll(
    loaded: "LoadedModel",
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    embeddings: "Sequence[torch.Tensor] | None" = None,
) -> list[np.ndarray]:
    """Negative log-likelihood of each response token, given all tokens before it.

    The head of the model runs on the positions that predict a response token and on no others, and the tokens that
    all sequences begin with (a chat template's system prompt) are run once, not once per sequence.

    Args:
        sequences (`Sequence[Sequence[int]]`): Token ids of prompt and response.
        starts (`Sequence[int]`): Where the response starts in each sequence; at least 1, as the first token of a
            sequence has nothing to be predicted from. At or past the end where there is no response token.

    Returns:
        `list[np.ndarray]`: For each sequence, float32 of shape `(len(sequence) - start,)`, in nats.
    """
    results = [np.empty(0, np.float32)] * len(sequences)
    kept = [i for i, start in enumerate(starts) if len(sequences[i]) > start]
    short = [i for i in kept if len(sequences[i]) < loaded.alone_from]
    sharing = [] if embeddings is not None else alike(sequences, starts, short, least=len(kept) // 4)
    _forget_longer_texts(loaded)
    beginning = _shared_beginning(loaded, sequences, starts, sharing)
    if beginning is None:
        sharing = []
    others = sorted({*kept} - {*sharing})
    for rows, known in ((sharing, beginning), (others, None)):

        def forward(batch: list[int], rows: list = rows, known: Beginning | None = known) -> list[np.ndarray]:
            numbers = [rows[k] for k in batch]
            fed = None if embeddings is None else [embeddings[i] for i in numbers]
            return _forward(loaded, [sequences[i] for i in numbers], [starts[i] for i in numbers], known, fed)

        lengths = [len(sequences[i]) - (known.length if known is not None else 0) for i in rows]
        try:
            values = run_sorted(loaded, lengths, forward)
        except _IgnoredBeginningError:
            loaded.reads_cache = False
            return response_nll(loaded, sequences, starts)
        for i, nll in zip(rows, values):
            results[i] = nll
    return results


def _forward(
    loaded: "LoadedModel",
    sequences: Sequence[Sequence[int]],
    starts: Sequence[int],
    beginning: Beginning | None,
    embeddings: "Sequence[torch.Tensor] | None" = None,
) -> list[np.ndarray]:
    """One micro-batch of [`response_nll`]: the NLL of each sequence's response tokens."""
    import torch

    known = beginning.length if beginning is not None else 0
    ids = _pad([sequence[known:] for sequence in sequences], loaded.device)
    predicted = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (sequence, start) in enumerate(zip(sequences, starts)):
        predicted[row, start - known : len(sequence) - known] = True
    predicted = predicted.to(loaded.device)
    # A token is predicted at the position before it, so the last one need not be run, but where the length of the text
    # tells how its positions are turned. Padding stands on the right, where a causal model cannot see it: no attention
    # mask is needed.
    run = ids.shape[1] - (known + ids.shape[1] < loaded.alone_from)
    positions = torch.nn.functional.pad(predicted[:, 1:], (0, 1))[:, :run]
    if embeddings is None:
        fed: dict[str, Any] = {"input_ids": ids[:, :run]}
    else:
        fed = {"inputs_embeds": pad(embeddings)[:, :run].to(loaded.device)}
    cache: Any = None
    if beginning is not None:
        cache = fed[beginning.argument] = beginning.cache(len(sequences))
    with torch.inference_mode(), _attention_for(loaded.model, ids), head_on(loaded.model, positions):
        logits = loaded.model(**fed, use_cache=cache is not None).logits[0]
    if beginning is not None and cache.get_seq_length() != known + run:
        logger.warning(
            "%s does not read the cache that it is given as `%s`: every text is run from its start, which gives the "
            "same values and takes longer", type(loaded.model).__name__, beginning.argument,
        )  # fmt: skip
        raise _IgnoredBeginningError
    nll = token_nll(logits, ids[predicted]).cpu().numpy()
    counts = [len(sequence) - start for sequence, start in zip(sequences, starts)]
    return np.split(nll, np.cumsum(counts)[:-1])


class _IgnoredBeginningError(Exception):
    """The model did not read the cache that it was given: what it said is of texts without their beginning."""


def _shared_beginning(
    loaded: "LoadedModel", sequences: Sequence[Sequence[int]], starts: Sequence[int], rows: list[int]
) -> Beginning | None:
    """What all `rows` begin with, run once; None where there is no row, or the model does not go on from a cache of
    keys and values as if it had read their text. The latter is tried once."""
    if not rows or loaded.reads_cache is False:
        return None
    beginning = Beginning.shared_by(loaded, [sequences[i] for i in rows], [starts[i] for i in rows])
    if beginning is not None and loaded.reads_cache is None:
        tried = rows[:_TRIED]
        loaded.reads_cache = _is_read(loaded, beginning, [sequences[i] for i in tried], [starts[i] for i in tried])
    return beginning if loaded.reads_cache else None


def _is_read(
    loaded: "LoadedModel", beginning: Beginning, sequences: Sequence[Sequence[int]], starts: Sequence[int]
) -> bool:
    """Whether texts have the same NLL with their beginning in the cache as in one piece.

    Asked once of each model: a library that renames the cache's argument, or a model whose positions do not go on
    from it, would otherwise change every score without an error.
    """
    import torch

    resumed, whole = [], []
    for sequence, start in zip(sequences, starts):
        try:
            resumed += _forward(loaded, [sequence], [start], beginning)
        except _IgnoredBeginningError:
            return False
        whole += _forward(loaded, [sequence], [start], None)
    exact = loaded.model.dtype == torch.float32 and not torch.is_autocast_enabled(loaded.device.type)
    moved = float(np.abs(np.concatenate(resumed) - np.concatenate(whole)).mean())
    if moved <= _TOLERANCES["fp32" if exact else "less"] * (1 + float(np.concatenate(whole).mean())):
        return True
    logger.warning(
        "%s gives other values where the beginning of a text is cached (by %.3f nats a token): every text is run "
        "from its start", type(loaded.model).__name__, moved,
    )  # fmt: skip
    return False


def token_nll(logits: "torch.Tensor", targets: "torch.Tensor") -> "torch.Tensor":
    """Negative log-likelihood in fp32, shape `(n,)`, of `targets` `(n,)` under `logits` `(n, vocabulary)`.

    Raises:
        `ValueError`: Where there are more or fewer logits: the model's head was not run on the targets alone.
    """
    import torch

    if logits.shape[:-1] != targets.shape:
        raise ValueError(f"logits of shape {tuple(logits.shape)} for {len(targets)} targets")
    rows = logit_rows(logits)
    return torch.cat(
        [
            torch.nn.functional.cross_entropy(part.float(), wanted, reduction="none")
            for part, wanted in zip(logits.split(rows), targets.split(rows))
        ]
    )


def logit_rows(logits: "torch.Tensor") -> int:
    """Rows of logits `(n, vocabulary)` that are turned to fp32 at a time on the device that they are on."""
    return LOGIT_ROWS if logits.device.type == "cpu" else max(1, _LOGITS // logits.shape[-1])


@contextmanager
def head_on(model: "PreTrainedModel", positions: "torch.Tensor") -> Iterator[None]:
    """Within the context the model's head sees only the hidden states at `positions`: logits `(1, n, vocabulary)`.

    A hook on the head rather than a call of the inner model: whatever the architecture does to its logits (scaling,
    soft-capping) still happens.
    """

    def keep(_module: "torch.nn.Module", inputs: tuple) -> tuple:
        return (inputs[0][positions][None], *inputs[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def own_forward(model: "torch.nn.Module") -> Iterator[None]:
    """Within the context a model that Accelerate prepared for mixed precision has its own `forward` again.

    Accelerate's copies all logits to fp32, which takes longer than their loss. The caller sees to the autocast.
    """
    prepared = model.__dict__.get("forward")
    if "_original_forward" in model.__dict__:
        model.forward = model.__dict__["_original_forward"]
    try:
        yield
    finally:
        if prepared is not None:
            model.forward = prepared


@contextmanager
def any_shape(device: "torch.device") -> Iterator[None]:
    """Within the context a GPU's attention is none that has to be prepared for each shape of a batch.

    PyTorch prefers cuDNN's on Hopper and Blackwell, which builds a plan for every new shape. Batches of texts hardly
    ever have the same shape twice: on an H100 the plans took 60 % of the time of a first pass over 1,024 rows.
    """
    import torch

    preferred = torch.backends.cuda.cudnn_sdp_enabled()
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(preferred)


@contextmanager
def _attention_for(model: "PreTrainedModel", ids: "torch.Tensor") -> Iterator[None]:
    """Within the context attention is plain matrix products where those are faster than PyTorch's fused kernel."""
    import torch

    plain = (
        ids.shape[1] <= _SHORT
        and (model.device.type, model.dtype, model.config._attn_implementation) == ("cpu", torch.bfloat16, "sdpa")
    )  # fmt: skip
    if plain:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if plain:
            model.set_attn_implementation("sdpa")


def pad(vectors: "Sequence[torch.Tensor]") -> "torch.Tensor":
    """Right-pads sequences of vectors, each `(length, hidden)`, with zeros to `(n, longest, hidden)`."""
    import torch

    return torch.nn.utils.rnn.pad_sequence(list(vectors), batch_first=True)


def _pad(sequences: Sequence[Sequence[int]], device: "torch.device", pad_id: int = 0) -> "torch.Tensor":
    import torch

    ids = torch.full((len(sequences), max(map(len, sequences))), pad_id, dtype=torch.long)
    for row, sequence in zip(ids, sequences):
        row[: len(sequence)] = torch.as_tensor(sequence)
    return ids.to(device)


def pad_with_mask(
    sequences: Sequence[Sequence[int]], device: "torch.device", pad_id: int = 0
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Right-padded ids and attention mask, both `(n, longest)`. The mask hides the padding, so the tokenizer needs no
    padding token; `pad_id` matters only to models that look for it."""
    import torch

    ids = _pad(sequences, device, pad_id)
    lengths = torch.tensor([len(s) for s in sequences], device=device)
    return ids, (torch.arange(ids.shape[1], device=device) < lengths[:, None]).long()


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    # The CPU's and MPS's allocators raise a plain RuntimeError.
    says_so = any(words in str(error) for words in ("allocate memory", "not enough memory", "out of memory"))
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or says_so


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
