"""Perplexity of the response under a language model (InstructMining, section 3: PPL; the paper used Llama-2-7B)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..conversation import Conversation
from ..engine import response_nll
from ..models import LoadedModel
from ..tokenization import added_bos, encode_data, encode_prompt
from .base import ModelIndicator


class Perplexity(ModelIndicator):
    """`exp` of the mean negative log-likelihood of the response's tokens; column `perplexity`, from 1 to infinity.

    The response is conditioned on the prompt under the model's chat template; a model without one gets the messages'
    contents, each followed by a blank line, after a BOS token if its tokenizer adds one. Every response token counts,
    the first one too. The text of special tokens in the data is scored as text.

    Args:
        model (`str` or `PreTrainedModel`): Causal language model: Hub id, local folder, PEFT adapter, or loaded.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Defaults to the model's own.
        given (`bool`, defaults to `True`): Whether the response is conditioned on its prompt. With `False` it is
            scored alone, without a template; its first token then counts only where the tokenizer adds a BOS.
        include_eos (`bool`, defaults to `False`): Whether the end-of-turn token counts as a response token.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): `"bfloat16"` is several times faster and moves a score by about 1 %.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        max_length (`int`, defaults to 2048): In tokens. What is longer loses the start of its prompt first (down to a
            quarter of `max_length`), then the end of its response, and is counted.
        token_budget (`int`, defaults to 4096): Tokens in a forward pass, padding included.
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        columns, turns, overwrite: See [`Indicator`]. With `turns="all"`, exp(Σ NLL / Σ tokens) over all turns.

    Raises:
        [`InstructMineError`]: On the first batch, where the model or its tokenizer cannot be loaded.
    """

    names = ("perplexity",)

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        given: bool = True,
        include_eos: bool = False,
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        max_length: int = 2048,
        token_budget: int = 4096,
        trust_remote_code: bool = False,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        source = {"revision": revision, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        super().__init__(
            model, tokenizer, "AutoModelForCausalLM", max_length, token_budget, source,
            columns=columns, turns=turns, overwrite=overwrite,
        )  # fmt: skip
        self.given = given
        self.include_eos = include_eos

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Mean NLL in nats per token `(n, 1)`, response tokens scored `(n,)`, and notes; see [`Indicator.score`]."""
        loaded = self.load()
        encoded = [encode_pair(loaded, c, self.given, self.include_eos, self.max_length) for c in conversations]
        scorable = [i for i, (ids, start, _) in enumerate(encoded) if len(ids) > start]
        nll = response_nll(loaded, [encoded[i][0] for i in scorable], [encoded[i][1] for i in scorable])
        sums, tokens = np.zeros((len(encoded), 1)), np.zeros(len(encoded))
        for i, values in zip(scorable, nll):
            sums[i], tokens[i] = values.sum(dtype=np.float64), len(values)
        notes = [note if len(ids) > start else "no token to score" for ids, start, note in encoded]
        return sums / np.maximum(tokens, 1)[:, None], tokens, notes

    def _gather(self, *args: Any) -> tuple[dict[str, list[float]], list[str | None]]:
        values, notes = super()._gather(*args)
        return {name: np.exp(column).tolist() for name, column in values.items()}, notes

    def provenance(self) -> dict[str, Any]:
        return {**super().provenance(), "given": self.given, "include_eos": self.include_eos}


def encode_pair(
    loaded: LoadedModel, conversation: Conversation, given: bool, include_eos: bool, max_length: int
) -> tuple[list[int], int, str | None]:
    """Ids of prompt and response, where the response starts, and a note where something was cut."""
    tokenizer = loaded.tokenizer
    prompt = encode_prompt(tokenizer, conversation.prompt) if given else added_bos(tokenizer)
    response = encode_data(tokenizer, conversation.response)
    if include_eos:
        response = [*response, tokenizer.eos_token_id]
    note = None
    if len(prompt) + len(response) > max_length:
        room = max(max_length - len(response), max_length // 4)
        note = "truncated prompt" if len(prompt) > room else None
        prompt = prompt[-room:]
        if len(response) > max_length - len(prompt):
            response = response[: max_length - len(prompt)]
            note = "truncated response"
    # Without a prompt or BOS there is nothing to predict the first token from.
    return prompt + response, max(len(prompt), 1), note
