"""The tokens that several texts begin with (a chat template's system prompt): run once, and gone on from."""

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checks import own_model


if TYPE_CHECKING:
    import torch

    from .loading import LoadedModel

# Fewer tokens than this, at the start of all sequences, are not worth a forward pass of their own.
_LEAST_SHARED = 8


def alike(sequences: Sequence[Sequence[int]], starts: Sequence[int], rows: Sequence[int], least: int) -> list[int]:
    """Those of `rows` that begin with the same tokens, where they are several and more than `least`: under a chat
    template nearly all, but for a prompt that lost its start or has a system message of its own."""
    beginnings = {i: tuple(sequences[i][:_LEAST_SHARED]) for i in rows if starts[i] > _LEAST_SHARED}
    commonest, count = max(Counter(beginnings.values()).items(), key=lambda item: item[1], default=(None, 0))
    return [i for i in beginnings if beginnings[i] == commonest] if count > max(1, least) else []


@dataclass(frozen=True)
class Beginning:
    """Keys and values of the tokens that several sequences begin with.

    Attributes:
        length (`int`): Tokens.
        states (`list[tuple[torch.Tensor, torch.Tensor]]`): Keys and values of each layer.
        argument (`str`): What the model's `forward` calls its cache.
    """

    length: int
    states: "list[tuple[torch.Tensor, torch.Tensor]]"
    argument: str

    @classmethod
    def shared_by(
        cls, loaded: "LoadedModel", sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> "Beginning | None":
        """Runs what all `sequences` begin with, short of the tokens that predict a response; None where the model
        cannot go on from a cache of keys and values."""
        argument = cache_argument(loaded.model)
        if argument is None or not remembers_every_token(loaded.model):
            return None
        # In the order of a dictionary all others lie between these two.
        begun = [list(sequence) for sequence in sequences]
        first, last = min(begun), max(begun)
        same = next((k for k, (a, b) in enumerate(zip(first, last)) if a != b), min(len(first), len(last)))
        length = min(same, *(start - 1 for start in starts))
        states = cls._run(loaded, first[:length], argument)
        return None if states is None else cls(length, states, argument)

    @staticmethod
    def _run(loaded: "LoadedModel", ids: Sequence[int], argument: str) -> "list | None":
        """Keys and values of `ids`; None where the model keeps them otherwise, or those of other tokens (a prompt of
        its own, which CPM-Ant puts before every text)."""
        import torch
        from transformers.cache_utils import DynamicCache, DynamicLayer

        with torch.inference_mode():
            outputs = loaded.model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=True)
        cache = getattr(outputs, argument, None)
        if type(cache) is not DynamicCache:
            return None
        layers = [layer for layer in cache.layers if type(layer) is DynamicLayer]
        whole = len(layers) == len(cache.layers) and all(layer.get_seq_length() == len(ids) for layer in layers)
        return [(layer.keys, layer.values) for layer in layers] if whole else None

    def cache(self, size: int) -> Any:
        """A cache to run `size` sequences on from here."""
        from transformers import DynamicCache

        return DynamicCache([(k.expand(size, -1, -1, -1), v.expand(size, -1, -1, -1)) for k, v in self.states])


def remembers_every_token(model: "torch.nn.Module") -> bool:
    """Whether each layer keeps the keys and values of all tokens, as class and configuration say: none has a window or
    a recurrent state. A model whose layers keep nothing of the kind may not even start with a cache."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    own = own_model(model)
    # BLT's three decoders have each a number of layers of their own.
    if own._is_stateful or not hasattr(own.config.get_text_config(decoder=True), "num_hidden_layers"):
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=own.config).layers)


def cache_argument(model: "torch.nn.Module") -> str | None:
    """What the model's `forward` calls its cache of keys and values: `cache` since transformers 5.24,
    `past_key_values` before; None where it has neither."""
    names = inspect.signature(type(own_model(model)).forward).parameters
    return next((name for name in ("cache", "past_key_values") if name in names), None)
