"""Likelihood of the response under a language model (InstructMining, section 3: PPL; the paper used Llama-2-7B)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..data.conversation import Conversation
from ..errors import InstructMineError
from ..models.engine import response_nll
from ..models.tokenization import added_bos, encode_pair, encode_prompt
from .base import ModelIndicator


_ALSO = ("nll", "ifd", "end_of_turn")
_NATS = {"nll", "end_of_turn"}


class Perplexity(ModelIndicator):
    """`exp` of the mean negative log-likelihood of the response's tokens; column `perplexity`, from 1 to infinity.

    The response is conditioned on the prompt under the model's chat template; a model without one gets the messages'
    contents, each followed by a blank line, after a BOS token if its tokenizer adds one. Every response token counts,
    the first one too. The text of special tokens in the data is scored as text.

    Further columns come from the same forward passes, on request (`also`):

    - `nll`: the mean negative log-likelihood itself, log perplexity, in nats per token, from 0 to infinity. A mean of
      perplexities over a subset is the word of its few largest; the mean of `nll` is not.
    - `ifd`, the instruction-following difficulty (Li et al., 2024, arXiv 2308.12032): perplexity given the prompt over
      perplexity of the response alone, from 0 to infinity. Above 1 the prompt makes the response less likely, as when
      it answers another question.
    - `end_of_turn`: negative log-likelihood of the tokenizer's EOS token after the response, in nats, from 0 to
      infinity. High where the response stops in mid-sentence.

    Args:
        model (`str` or `PreTrainedModel`): Causal language model: Hub id, local folder, PEFT adapter, or loaded.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Defaults to the model's own.
        given (`bool`, defaults to `True`): Whether the response is conditioned on its prompt. With `False` it is
            scored alone, without a template; its first token then counts only where the tokenizer adds a BOS.
        include_eos (`bool`, defaults to `False`): Whether the end-of-turn token counts as a response token.
        also (`Sequence[str]`, *optional*): any of `"nll"`, `"ifd"` and `"end_of_turn"`.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): `"bfloat16"` is several times faster and moves a score by about 1 %.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        max_length (`int`, defaults to 2048): In tokens; at most the positions that the model has. What is longer
            loses the start of its prompt first (down to a quarter of `max_length`), then the end of its response, and
            is counted.
        token_budget (`int`, *optional*): Tokens in a forward pass, padding included; defaults to 4096, on a CPU to 512
            (larger batches leave its cache, and take longer).
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        columns, turns, overwrite: See [`Indicator`]. With `turns="all"`, exp(Σ NLL / Σ tokens) over all turns.

    Raises:
        [`InstructMineError`]: On the first batch, where the model or its tokenizer cannot be loaded.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        given: bool = True,
        include_eos: bool = False,
        also: Sequence[str] = (),
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        max_length: int = 2048,
        token_budget: int | None = None,
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
        unknown = [name for name in also if name not in _ALSO]
        if unknown:
            raise InstructMineError(f"also={unknown[0]!r} is not known: it takes {', '.join(map(repr, _ALSO))}")
        if also and not given:
            raise InstructMineError(
                "also needs given=True: it compares with, or follows, the response given its prompt"
            )
        self.given = given
        self.include_eos = include_eos
        self.names = ("perplexity", *also)

    def score(self, conversations: list[Conversation]) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Nats per token `(n, len(names))`, response tokens `(n,)`, and notes; see [`Indicator.score`]."""
        loaded = self.load()
        eos = self.include_eos or "end_of_turn" in self.names
        pairs = [encode_pair(loaded, c, self.given, eos, self.max_length) for c in conversations]
        alone = [encode_pair(loaded, c, False, False, self.max_length) for c in conversations] if self._ifd else []
        nll = response_nll(loaded, [ids for ids, _, _ in pairs + alone], [start for _, start, _ in pairs + alone])
        columns: dict[str, list[float]] = {name: [] for name in self.names}
        tokens, notes = [], []
        for i, (_, _, note) in enumerate(pairs):
            closed = eos and note != "truncated response"  # the EOS is the last token scored
            response = nll[i][:-1] if closed else nll[i]
            counted = nll[i] if self.include_eos else response
            columns["perplexity"].append(_mean(counted))
            if "nll" in self.names:
                columns["nll"].append(columns["perplexity"][-1])
            if self._ifd:
                # Without a BOS the first token of the response alone cannot be scored: both means leave it out.
                same = response if added_bos(loaded.tokenizer) else response[1:]
                columns["ifd"].append(_mean(same) - _mean(nll[len(pairs) + i][: len(same)]))
            if "end_of_turn" in self.names:
                columns["end_of_turn"].append(float(nll[i][-1]) if closed else np.nan)
            tokens.append(len(counted))
            notes.append(note if len(counted) else "no token to score")
        return np.array([columns[name] for name in self.names]).T, np.array(tokens), notes

    def render(self, conversation: Conversation) -> None:
        """Renders the prompt, where the response is given one; see [`Indicator.render`]."""
        if self.given:
            encode_prompt(self.load().tokenizer, conversation.prompt)

    @property
    def _ifd(self) -> bool:
        return "ifd" in self.names

    def _gather(self, *args: Any) -> tuple[dict[str, list[float]], list[str | None]]:
        values, notes = super()._gather(*args)
        # A mean of NLLs is a log perplexity, and a difference of them a log ratio.
        return {k: v if k in _NATS else np.exp(v).tolist() for k, v in values.items()}, notes

    def provenance(self) -> dict[str, Any]:
        """The model's, what the response is given, and whether its end counts."""
        return {**super().provenance(), "given": self.given, "include_eos": self.include_eos}


def _mean(nll: np.ndarray) -> float:
    return float(nll.mean(dtype=np.float64)) if len(nll) else np.nan
