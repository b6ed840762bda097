"""Loss on evaluation sets: Σ NLL / Σ response tokens, in nats, the same for any batch size and any world size.

Not TRL's `eval_loss`, which is a mean over batches of the batches' token means and so moves with the batch size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..models.chat import Chat, tell_notes
from ..models.engine import response_nll
from ..models.rendering import RefusedByTemplateError


if TYPE_CHECKING:
    import torch

    from ..models.loading import LoadedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedSet:
    """An [`EvaluationSet`] in token ids: `sequences`, and where each response starts."""

    examples: EvaluationSet
    sequences: list[list[int]]
    starts: list[int]
    truncated: int


@dataclass(frozen=True)
class EvaluationLoss:
    """The loss of one model on one set.

    Attributes:
        loss (`float`): Σ NLL / Σ tokens over all response tokens, in nats.
        nll (`np.ndarray` of shape `(examples,)`): Σ NLL of each example, in nats.
        tokens (`np.ndarray` of shape `(examples,)`): Response tokens of each example.
    """

    loss: float
    nll: np.ndarray
    tokens: np.ndarray


def encode_set(examples: EvaluationSet, loaded: "LoadedModel", max_length: int) -> EncodedSet:
    """Token ids of each turn.

    What is longer than `max_length` loses the start of its prompt, then the end of its response, and is counted.
    """
    chat, limit = Chat(loaded.tokenizer, loaded.template_kwargs), min(max_length, loaded.max_positions)
    turns = []
    for turn, owner in zip(examples.turns, examples.owners):
        try:
            encoded = chat.encode(turn, end=False)
        except RefusedByTemplateError as error:
            raise InstructMineError(
                f"row {examples.rows[owner]} of the evaluation set '{examples.name}' cannot be measured: {error}; "
                "drop it first"
            ) from error
        turns.append(encoded.until(encoded.close).within(limit))
    truncated = sum(turn.cut is not None for turn in turns)
    tell_notes(f"evaluation set '{examples.name}'", [turn.unwritten for turn in turns])
    if truncated:
        logger.warning(
            "evaluation set '%s': %d texts are longer than %d tokens and were cut",
            examples.name, truncated, max_length,
        )  # fmt: skip
    return EncodedSet(examples, [turn.ids for turn in turns], [turn.start for turn in turns], truncated)


def evaluation_loss(
    loaded: "LoadedModel", encoded: EncodedSet, embeddings: "Sequence[torch.Tensor] | None" = None
) -> EvaluationLoss:
    """Measures a model's loss on a set, over all processes of the world where there are several.

    Args:
        loaded ([`LoadedModel`]): The model as it stands, on its device.
        encoded ([`EncodedSet`]): From [`encode_set`].
        embeddings (`Sequence[torch.Tensor]`, *optional*): See [`response_nll`].
    """
    share = range(len(encoded.sequences)) if _is_sharded(loaded.model) else _my_share(encoded)
    fed = None if embeddings is None else [embeddings[i] for i in share]
    values = response_nll(loaded, [encoded.sequences[i] for i in share], [encoded.starts[i] for i in share], fed)
    sums = np.zeros((2, len(encoded.sequences)))
    for i, nll in zip(share, values):
        sums[:, i] = nll.sum(dtype=np.float64), len(nll)
    if not _is_sharded(loaded.model):
        sums = _sum_over_processes(sums, loaded.device)
    nll, tokens = np.zeros((2, len(encoded.examples.rows)))
    np.add.at(nll, encoded.examples.owners, sums[0])
    np.add.at(tokens, encoded.examples.owners, sums[1])
    return EvaluationLoss(float(nll.sum() / tokens.sum()), nll, tokens.astype(int))


def _my_share(encoded: EncodedSet) -> list[int]:
    import torch

    rank, world = (
        (torch.distributed.get_rank(), torch.distributed.get_world_size())
        if torch.distributed.is_initialized()
        else (0, 1)
    )
    # Dealt out longest first, so that all processes have about as much to do.
    by_length = sorted(range(len(encoded.sequences)), key=lambda i: -len(encoded.sequences[i]))
    return by_length[rank::world]


def _is_sharded(model: "torch.nn.Module") -> bool:
    # With FSDP or ZeRO-3 every forward pass is a joint one: all processes have to run the same batches.
    from torch.distributed.tensor import DTensor

    return any(isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters())


def _sum_over_processes(sums: np.ndarray, device: "torch.device") -> np.ndarray:
    import torch

    if not torch.distributed.is_initialized():
        return sums
    total = torch.as_tensor(sums, device=device)
    torch.distributed.all_reduce(total)
    return total.cpu().numpy()
