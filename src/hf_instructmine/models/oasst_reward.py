"""OpenAssistant's reward models, `gpt_neox_reward_model`, whose class transformers does not have."""

from typing import Any

import torch
from torch import nn
from transformers import GPTNeoXConfig, GPTNeoXModel, GPTNeoXPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from ..errors import InstructMineError


class GPTNeoXRewardModelConfig(GPTNeoXConfig):
    """Configuration of Open-Assistant's reward models: GPT-NeoX, and which hidden states the score is read from.

    Args:
        pooling (`str`, defaults to `"last"`): `"last"` for the last attended token, `"mean"` for the mean of all.
    """

    model_type = "gpt_neox_reward_model"

    pooling: str = "last"

    def __post_init__(self, **kwargs: Any) -> None:
        # The published configurations do not name the labels, and two is the default of transformers.
        super().__post_init__(**{**kwargs, "num_labels": 1})
        if self.pooling not in ("last", "mean"):
            raise InstructMineError(f"pooling must be 'last' or 'mean', not {self.pooling!r}")


class GPTNeoXRewardModel(GPTNeoXPreTrainedModel):
    """GPT-NeoX with a linear layer to one number, as Open-Assistant trained and published it."""

    config_class = GPTNeoXRewardModelConfig

    def __init__(self, config: GPTNeoXRewardModelConfig):
        super().__init__(config)
        self.gpt_neox = GPTNeoXModel(config)
        self.out_proj = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Scores `(n, 1)` of ids and mask `(n, length)`; `kwargs` go to [`GPTNeoXModel`]."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        hidden = self.gpt_neox(input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        if self.config.pooling == "mean":
            weights = attention_mask[..., None].to(hidden.dtype)
            pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        else:
            pooled = last_attended(hidden, attention_mask)
        return SequenceClassifierOutput(logits=self.out_proj(pooled))


def last_attended(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """From states `(n, length, size)` those of the last token that the mask `(n, length)` shows: `(n, size)`."""
    last = attention_mask.cumsum(dim=1).argmax(dim=1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last]
