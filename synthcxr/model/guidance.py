"""What guidance does beside leading a picture to its prompt: it leads findings farther, and keeps the brightness.

Guidance leads from what most images are to what the prompt says. Findings are a small part of that, labels of them are
often wrong, and few images have them, so pictures of a finding often hardly show it. Led once more, from the same
prompt without findings, they do, and nothing else of the picture is led farther: it's a guidance of its own for the
part that is said last, as Brooks et al. 2023 (eq. 3) have for an image and what is to be done with it.

Images without findings are a little lighter than others, and guidance makes them a lot lighter: a shortcut to who is
well. So it may leave the mean of each channel alone; Sadat et al. 2025 take more out of it for the same end.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from diffusers import DiffusionPipeline
from torch import nn

from synthcxr.model.bases import PromptEmbeddings, base_of
from synthcxr.model.sampler import SamplerSettings


@contextmanager
def steered(
    pipeline: DiffusionPipeline, settings: SamplerSettings, count: int, rows: Sequence[int],
    unsaid: PromptEmbeddings | None,
) -> Iterator[None]:  # fmt: skip
    """Within, what the pipeline's denoiser tells in guided steps is changed before the pipeline guides by it.

    The pipeline makes u + g (p - u) of it, where u is told of the empty prompt, p of the picture's, and g is guidance.
    With findings p becomes c + w / g (c - d), where c was told of the prompt, d of the prompt without them, and w is
    finding_guidance: in all that's u + g (c - u) + w (c - d). To keep the level, c - d loses its mean over each
    channel, and u gets p's.

    Args:
        pipeline: of a layout whose guided steps see each picture twice, the empty prompt first.
        settings: all of them given.
        count: pictures that it draws at once.
        rows: which of them have findings to be led.
        unsaid: the embeddings of their prompts without findings, (len(rows), ...); None without any.
    """
    base = base_of(pipeline)
    denoiser = base.denoiser_of(pipeline)
    share = settings.finding_guidance / settings.guidance

    def change(_: nn.Module, arguments: tuple, named: dict, told: tuple) -> tuple | None:
        latents, t, *_ = arguments
        if len(latents) != 2 * count:  # a step without guidance, or what is asked below
            return None
        both = told[0].clone()
        empty, prompted = both.chunk(2)
        if rows:
            asked = [count + row for row in rows]
            sizes = (named.get("added_cond_kwargs") or {}).get("time_ids")
            found = base.predict(denoiser, latents[asked], t, unsaid, None if sizes is None else sizes[asked])
            way = prompted[rows] - found
            prompted[rows] += share * (way - _level(way) if settings.keep_level else way)
        if settings.keep_level:
            empty += _level(prompted - empty)
        return (both, *told[1:])

    hook = denoiser.register_forward_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _level(told_bchw: torch.Tensor) -> torch.Tensor:
    return told_bchw.mean(dim=(2, 3), keepdim=True)
