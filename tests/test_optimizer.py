"""What an optimizer takes up from a checkpoint is what it left, in memory as well."""

import torch

from synthcxr.train.config import StageConfig
from synthcxr.train.optimizer import build_optimizer


def test_moments_lie_as_their_weights_after_a_resume():
    """A checkpoint's tensors are contiguous, convolutions in channels-last aren't: kernels that go by memory mind."""
    torch.manual_seed(0)
    one = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    two = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    images = torch.randn(2, 4, 8, 8)

    def step(layer: torch.nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(images).square().mean().backward()
        optimizer.step()

    left, taken = (build_optimizer(layer.parameters(), StageConfig(steps=9)) for layer in (one, two))
    step(one, left)
    two.load_state_dict(one.state_dict())
    state = left.state_dict()
    moments = {
        i: {key: value.clone(memory_format=torch.contiguous_format) for key, value in own.items()}
        for i, own in state["state"].items()
    }
    taken.load_state_dict({**state, "state": moments})
    for own, theirs in zip(one.parameters(), two.parameters(), strict=True):
        for name in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(left.state[own][name], taken.state[theirs][name])
            assert taken.state[theirs][name].stride() == theirs.stride() == own.stride()
    assert not two.weight.is_contiguous()
    step(one, left), step(two, taken)
    assert torch.equal(one.weight, two.weight)
