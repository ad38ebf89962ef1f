"""The layouts of latent diffusion models that are known: how each encodes prompts and is asked for a prediction.

base.py              what a layout has to say
stable_diffusion.py  Stable Diffusion 1.x and 2.x, and XL with two text encoders (the embedded model has one)
sana.py              Sana, a flow-matching transformer

Another layout is one file and one line of the table.
"""

from diffusers import DiffusionPipeline

from synthcxr.errors import ModelError
from synthcxr.model.bases.base import Base, PromptEmbeddings
from synthcxr.model.bases.sana import SANA
from synthcxr.model.bases.stable_diffusion import STABLE_DIFFUSION, STABLE_DIFFUSION_XL

BASES: dict[str, Base] = {
    "StableDiffusionPipeline": STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": STABLE_DIFFUSION_XL,
    "SanaPipeline": SANA,
}

__all__ = ["BASES", "Base", "PromptEmbeddings", "base_of", "base_named"]


def base_named(pipeline: str) -> Base:
    """The layout of a pipeline's class name, as model_index.json gives it.

    Raises:
        ModelError: it's none of the table.
    """
    if pipeline not in BASES:
        raise ModelError(f"a model of class {pipeline} isn't known; give one of {', '.join(BASES)}")
    return BASES[pipeline]


def base_of(pipeline: DiffusionPipeline) -> Base:
    """The layout of a pipeline. Raises ModelError as `base_named` does."""
    return base_named(type(pipeline).__name__)
