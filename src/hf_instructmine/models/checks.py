"""What a model is, looked at once on loading: whether it sees the future, and whether the tokenizer is its own."""

from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError, one_line


if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

# Two texts begin with so many equal tokens and go on with so many others: a causal model says the same of what is
# equal.
_EQUAL, _OTHERS = 4, 12
# How far it may move, as a share of the spread of the logits. All causal kinds of transformers are at exactly 0 on a
# CPU; BERT and kin with fresh, small weights at 0.001 and more in fp32, with trained ones a hundred times that.
_TOLERANCES = {"float32": 2e-4, "less": 0.02}


def check_causal(model: "PreTrainedModel", name: str) -> None:
    """Refuses a model that sees the future: its likelihood of a token would be read off the token itself.

    One small forward pass: BERT and kin load as language models as well, and nothing in a configuration tells all of
    them.

    Args:
        model (`PreTrainedModel`): In evaluation mode, whole, on its device.
        name (`str`): What the error calls it.

    Raises:
        [`InstructMineError`]: Where its logits move with later tokens, or it cannot run a text.
    """
    import torch

    size = embedding_rows(model) or model.config.get_text_config().vocab_size
    # From the middle of the vocabulary: at either end are the tokens that stand for padding or pictures.
    ids = (size // 3 + torch.arange(_EQUAL + 2 * _OTHERS)) % size
    equal, one, other = ids.split([_EQUAL, _OTHERS, _OTHERS])
    texts = torch.stack([torch.cat([equal, one]), torch.cat([equal, other])]).to(model.device)
    try:
        with torch.inference_mode():
            logits = model(input_ids=texts, use_cache=False).logits[:, :_EQUAL].float()
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # it lacks a language, or a picture
        raise InstructMineError(
            f"the model '{name}' cannot run a plain text: {one_line(error, first=True)}"
        ) from error
    moved = float((logits[0] - logits[1]).abs().mean() / logits.std())
    if moved > _TOLERANCES["float32" if model.dtype == torch.float32 else "less"]:
        raise InstructMineError(
            f"the model '{name}' ({type(model).__name__}) is no causal language model: it sees the tokens that it "
            "should predict; name one that reads from left to right"
        )


def check_vocabulary(model: "PreTrainedModel", tokenizer: Any, name: str, pads: bool = False) -> None:
    """Refuses a tokenizer that gives ids which the model has no embedding for.

    Special tokens that neither the chat template nor the tokenizer itself writes do not count: Gemma 3's smallest
    model has no embedding for its tokenizer's token of a picture.

    Args:
        model (`PreTrainedModel`): Its input embeddings are looked at; nothing is where it has none of the usual kind.
        tokenizer (`PreTrainedTokenizerBase`): What makes the ids.
        name (`str`): What the error calls the model.
        pads (`bool`, defaults to `False`): Whether the tokens for padding, start and separation are used too.

    Raises:
        [`InstructMineError`]: Names both, with the highest id.
    """
    rows = embedding_rows(model)
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if rows is not None and i >= rows}
    if not beyond:
        return
    unused = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    unused -= {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token}
    if pads:
        unused -= {tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token}
    written = str(tokenizer.chat_template)
    used = {token: i for token, i in beyond.items() if token not in unused or token in written}
    if used:
        token = max(used, key=lambda t: used[t])
        raise InstructMineError(
            f"the tokenizer '{tokenizer.name_or_path}' gives ids up to {used[token]} ({token!r:.40}), but the model "
            f"'{name}' has embeddings for {rows} tokens: pass the model's own tokenizer"
        )


def embedding_rows(model: "PreTrainedModel") -> int | None:
    """How many tokens the model has embeddings for; None where it keeps them in an unusual way."""
    try:
        table = model.get_input_embeddings()
    except NotImplementedError:
        return None
    return getattr(table, "num_embeddings", None)  # which only embeddings of the usual kinds have


def own_model(model: "nn.Module") -> Any:
    """The model of transformers below adapters, and whatever wraps one for several processes or as an encoder."""
    from transformers import PreTrainedModel

    return next((module for module in model.modules() if isinstance(module, PreTrainedModel)), model)
