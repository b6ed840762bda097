"""Score of the response under a reward model (InstructMining, section 3: Rew).

The paper used OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5, whose architecture `gpt_neox_reward_model` is not in
transformers; it is registered here. Other reward models are sequence classifiers with one label and a chat template.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from ..data.conversation import Conversation
from ..errors import InstructMineError
from ..models.chat import Chat
from ..models.engine import pad_with_mask, run_sorted
from ..models.loading import LoadedModel
from ..models.oasst_reward import GPTNeoXRewardModel, GPTNeoXRewardModelConfig, last_attended
from ..models.rendering import check_template_kwargs
from ..models.tokenization import encode_data, encode_template, special_ids
from .base import ModelIndicator


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPTER, ASSISTANT, END = "<|prompter|>", "<|assistant|>", "<|endoftext|>"


AutoConfig.register("gpt_neox_reward_model", GPTNeoXRewardModelConfig, exist_ok=True)
AutoModelForSequenceClassification.register(GPTNeoXRewardModelConfig, GPTNeoXRewardModel, exist_ok=True)


class Reward(ModelIndicator):
    """Score of the conversation under a reward model; column `reward`, on the model's own, unbounded scale.

    A sequence classifier with one label (Skywork-Reward-V2 and kin) reads prompt and response under its tokenizer's
    chat template, as closed turns. A `gpt_neox_reward_model` (the paper's) reads
    `<|prompter|>{instruction}<|endoftext|><|assistant|>{response}<|endoftext|>`, with more such turns for a longer
    conversation; it was trained on no system messages, so their text opens the prompter's next turn, followed by a
    blank line, and a tool's message is read as the prompter's. The text of special tokens in the data is scored as
    text.

    The scores of two models cannot be compared, nor can those of one model in two precisions beyond two decimals.

    Args:
        model (`str` or `PreTrainedModel`): Reward model: Hub id, local folder, PEFT adapter, or loaded.
        tokenizer (`str` or `PreTrainedTokenizerBase`, *optional*): Defaults to the model's own.
        revision (`str`, *optional*): Branch, tag or commit of the model on the Hub.
        dtype (`str`, defaults to `"float32"`): `"bfloat16"` is several times faster and moves a score by up to 2e-2.
        device (`str`, *optional*): Defaults to the GPU where there is one.
        max_length (`int`, defaults to 2048): In tokens; at most the positions that the model has. What is longer loses
            the end of its response where that leaves the rest less than a quarter of `max_length`, then the start of
            its prompt, and is counted.
        token_budget (`int`, *optional*): Tokens in a forward pass, padding included; defaults to 4096, on a CPU to 512
            (larger batches leave its cache, and take longer).
        trust_remote_code (`bool`, defaults to `False`): Whether the model's repository may run code.
        chat_template_kwargs (`Mapping[str, Any]`, *optional*): Arguments of the chat template, such as
            `{"enable_thinking": False}`; a row's column `chat_template_kwargs` goes before them.
        columns, turns, overwrite: See [`Indicator`].

    Raises:
        [`InstructMineError`]: On the first batch, where the model cannot be loaded, has more than one label, or has a
            tokenizer without the chat template or the special tokens that it needs.

    Example:

    ```python
    scored = him.score(pool, him.Reward("Skywork/Skywork-Reward-V2-Qwen3-0.6B"), output_dir="scored")
    ```
    """

    names = ("reward",)

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        revision: str | None = None,
        dtype: Any = "float32",
        device: str | None = None,
        max_length: int = 2048,
        token_budget: int | None = None,
        trust_remote_code: bool = False,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        columns: Mapping[str, str] | None = None,
        turns: str = "last",
        overwrite: bool = False,
    ):
        source = {"revision": revision, "dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
        super().__init__(
            model, tokenizer, "AutoModelForSequenceClassification", max_length, token_budget, source,
            columns=columns, turns=turns, overwrite=overwrite,
        )  # fmt: skip
        self.chat_template_kwargs = check_template_kwargs(chat_template_kwargs)

    def load(self) -> LoadedModel:
        """Loads the reward model, and refuses one that does not give one number or has another's tokenizer."""
        loaded = super().load()
        config, tokenizer = loaded.model.config, loaded.tokenizer
        if config.num_labels != 1:
            raise InstructMineError(
                f"the model '{config.name_or_path}' has {config.num_labels} labels: a reward model has one"
            )
        absent = [token for token in (PROMPTER, ASSISTANT, END) if token not in special_ids(tokenizer)]
        if absent and config.model_type == GPTNeoXRewardModelConfig.model_type:
            raise InstructMineError(
                f"the tokenizer '{tokenizer.name_or_path}' lacks the special tokens {', '.join(absent)}, "
                "which this reward model was trained with: pass its own tokenizer"
            )
        return loaded

    def prepare(self, conversations: list[Conversation]) -> list[tuple[list[int], int, str | None]]:
        """Of each conversation its ids, its response's tokens and a note; see [`Indicator.prepare`]."""
        loaded = self.load()
        is_oasst = loaded.model.config.model_type == GPTNeoXRewardModelConfig.model_type
        chat = Chat(loaded.tokenizer, self.chat_template_kwargs)
        encode = partial(encode_oasst, loaded.tokenizer) if is_oasst else chat.encode_closed
        limit = min(self.max_length, loaded.max_positions)
        if not (is_oasst or reads_last_token(loaded.model)):
            limit = min(
                limit, loaded.tokenizer.model_max_length
            )  # an encoder's positions may start past its padding's
        return [encode_within(encode, loaded.tokenizer, c, int(limit)) for c in conversations]

    def score(
        self, conversations: list[Conversation], prepared: Any = None
    ) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """Rewards `(n, 1)`, response tokens `(n,)`, and notes; see [`Indicator.score`]."""
        encoded = self.prepare(conversations) if prepared is None else prepared
        scores = rewards(self.load(), [ids for ids, _, _ in encoded])
        tokens = np.array([tokens for _, tokens, _ in encoded], float)
        return np.array(scores)[:, None], tokens, [note for _, _, note in encoded]

    def provenance(self) -> dict[str, Any]:
        """The model's, and what its chat template is given."""
        given = {"chat_template_kwargs": self.chat_template_kwargs} if self.chat_template_kwargs else {}
        return {**super().provenance(), **given}

    def chat(self) -> Chat | None:
        """See [`Indicator.chat`]; the paper's model has tokens of its own in place of a template."""
        tokenizer = self.tokenizer()
        is_oasst = {PROMPTER, ASSISTANT} <= special_ids(tokenizer).keys()
        return None if is_oasst else Chat(tokenizer, self.chat_template_kwargs)


def encode_oasst(tokenizer: "PreTrainedTokenizerBase", conversation: Conversation) -> tuple[list[int], str | None]:
    """Ids of prompt and response as Open-Assistant's reward models read them, and a note of what they do not read."""
    turns: list[tuple[str, str]] = []
    opening = ""
    for message in conversation.prompt:
        if message["role"] in ("system", "developer"):
            opening += f"{message['content']}\n\n"
        elif message["role"] == "assistant":
            turns.append((ASSISTANT, message["content"]))
        else:
            turns.append((PROMPTER, opening + message["content"]))
            opening = ""
    if opening:  # a system message that no user's follows
        turns.append((PROMPTER, opening.removesuffix("\n\n")))
    turns.append((ASSISTANT, conversation.written))
    template = "".join(f"{role}{{}}{END}" for role, _ in turns)
    note = "tools not read by this reward model" if conversation.tools else None
    return encode_template(tokenizer, template, *(text for _, text in turns)), note


def encode_within(
    encode: Callable[[Conversation], tuple[list[int], str | None]],
    tokenizer: "PreTrainedTokenizerBase",
    conversation: Conversation,
    max_length: int,
) -> tuple[list[int], int, str | None]:
    """At most `max_length` ids that end as the template ends, the response's tokens, and a note where it was cut."""
    response = encode_data(tokenizer, conversation.written)
    (ids, unwritten), cut = encode(conversation), None
    room = max_length - min(len(ids) - len(response), max_length // 4)
    if len(ids) > max_length and len(response) > room:
        # Reasoning and tool calls stay whole: half of one is none.
        beside = len(response) - len(encode_data(tokenizer, conversation.response))
        start = first_tokens(tokenizer, conversation.response, max(room - beside, 0))
        ids, cut = encode(replace(conversation, response=start))[0], "truncated response"
    if len(ids) > max_length:
        ids, cut = ids[-max_length:], cut or "truncated prompt"
    return ids, max(len(response), 1), "; ".join(filter(None, [cut, unwritten])) or None


def first_tokens(tokenizer: "PreTrainedTokenizerBase", text: str, count: int) -> str:
    """The start of `text` that has at most `count` tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(encode_data(tokenizer, text[:middle])) <= count:
            low = middle
        else:
            high = middle - 1
    return text[:low]


def rewards(loaded: LoadedModel, sequences: list[list[int]]) -> list[float]:
    """One score for each sequence of token ids, in fp32."""
    model = loaded.model
    pads = (model.config.pad_token_id, loaded.tokenizer.pad_token_id, 0)
    pad_id = next(pad for pad in pads if pad is not None)

    def forward(batch: list[int]) -> list[float]:
        ids, mask = pad_with_mask([sequences[i] for i in batch], loaded.device, pad_id)
        with torch.inference_mode():
            if reads_last_token(model):
                # The model's own forward looks for the last token that is no padding by its id, and so reads a score
                # too early where the end-of-turn token serves as padding, and none where there is no such id.
                hidden = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
                logits = model.get_submodule("score")(last_attended(hidden, mask))
            else:
                logits = model(input_ids=ids, attention_mask=mask).logits
        return logits[:, 0].float().tolist()

    return run_sorted(loaded, [len(s) for s in sequences], forward)


def reads_last_token(model: nn.Module) -> bool:
    """Whether the model is a decoder with a linear `score` on its last token, as transformers' decoders all are."""
    return "score" in dict(model.named_children())
