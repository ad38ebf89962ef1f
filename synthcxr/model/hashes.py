"""What a network that is open is known by."""

from hashlib import sha256

from torch import nn


def module_hash(module: nn.Module) -> str:
    """sha256 of a module's weights, in float32 whatever they are stored in."""
    digest = sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
