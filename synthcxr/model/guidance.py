"""What a picture's guidance does beside leading it to its prompt: it leads findings farther, and keeps the brightness.

Guidance leads from what most images are to what the prompt says. Findings are a small part of that, labels of them are
often wrong, and few images have them, so pictures of a finding often hardly show it. Led once more, from the same
prompt without findings, they do, and nothing else of the picture is led farther: it's a guidance of its own for the
part that is said last, as Brooks et al. 2023 (eq. 3) have for an image and what is to be done with it.

Healthy lungs are a little lighter than most images, and guidance makes them a lot lighter: a shortcut to who is well.
So it may leave the mean of each channel alone; Sadat et al. 2025 take out more for the same end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.conditions import Condition
from synthcxr.model.bases import PromptEmbeddings, base_of


def without_findings(condition: Condition) -> Condition:
    """The same of a picture whose findings nobody told."""
    return condition.model_copy(update={"findings": {}})


@contextmanager
def guided(
    pipeline: DiffusionPipeline, count: int, rows: Sequence[int], unsaid: PromptEmbeddings | None, share: float,
    keep_level: bool,
) -> Iterator[None]:  # fmt: skip
    """Within, what the pipeline's denoiser tells in guided steps is changed before the pipeline guides by it.

    The pipeline makes u + g (p - u) of it, where u is told of the empty prompt, p of the picture's, and g is guidance.
    With findings p becomes c + share (c - d), where c was told of the prompt and d of the prompt without them: in all
    that's u + g (c - u) + g share (c - d). To keep the level, c - d loses its mean over each channel, and u gets p's.

    Args:
        count: pictures that the pipeline draws at once; guided steps see each of them twice, the empty prompt first.
        rows: which of them have findings; `unsaid`: the embeddings of their prompts without these, in this order.
    """
    base = base_of(pipeline)
    denoiser = base.denoiser_of(pipeline)
    own = False  # it's asked from in here

    def change(_: nn.Module, arguments: tuple, named: dict, told: tuple) -> tuple | None:
        nonlocal own
        latents, t, *_ = arguments
        if own or len(latents) != 2 * count:
            return None
        empty, prompted = told[0].clone().chunk(2)
        if rows:
            asked = [count + row for row in rows]
            sizes = (named.get("added_cond_kwargs") or {}).get("time_ids")
            own = True
            found = base.predict(denoiser, latents[asked], t, unsaid, None if sizes is None else sizes[asked])
            own = False
            way = prompted[rows] - found
            prompted[rows] += share * (way - _level(way) if keep_level else way)
        if keep_level:
            empty += _level(prompted - empty)
        return (torch.cat([empty, prompted]), *told[1:])

    hook = denoiser.register_forward_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _level(told_bchw: torch.Tensor) -> torch.Tensor:
    return told_bchw.mean(dim=(2, 3), keepdim=True)
