"""Whether a model is what it was: a digest of each of its parameters and buffers."""

from typing import TYPE_CHECKING

from ..outputs.digests import fast_digest


if TYPE_CHECKING:
    import torch

# Words of a tensor that are summed up at a time, so that the sum needs little memory beside the model.
_WORDS = 1 << 22


def weight_digests(model: "torch.nn.Module") -> dict[str, str]:
    """A digest of every parameter and buffer, by name, those that are not saved included.

    On a CPU it is of the bytes; on an accelerator it is a checksum computed there. A tensor that stands under a second
    name refers to the first, so that tied weights which came apart are seen too.
    """
    import torch

    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    digests, sums = {}, {}
    for name, tensor in named:
        if id(tensor) in first:
            digests[name] = f"that of {first[id(tensor)]}"
            continue
        first[id(tensor)] = name
        if tensor.device.type == "cpu":
            digests[name] = fast_digest([_bytes(tensor).numpy()])
        else:
            sums[name] = checksum(tensor)
    if sums:  # all of them are fetched at once: each transfer waits for the device
        device = next(iter(sums.values())).device
        values = torch.stack([value.to(device) for value in sums.values()]).tolist()
        digests |= {name: f"{value:016x}" for name, value in zip(sums, values)}
    return digests


def checksum(tensor: "torch.Tensor") -> "torch.Tensor":
    """A sum of the tensor's words, each times an odd number of its own, modulo 2⁶⁴: one changed word changes it."""
    import torch

    words = _bytes(tensor)
    if len(words) % 4 == 0 and words.storage_offset() % 4 == 0:
        words = words.view(torch.int32)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    odd = 2 * torch.arange(min(_WORDS, len(words)), device=tensor.device) + 1
    for part in words.split(_WORDS) if len(words) else ():
        total = total * 1_000_003 + (part.to(torch.int64) * odd[: len(part)]).sum()
    return total


def _bytes(tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)
