"""What a retraining will take of a GPU's memory, without its weights: run once on tensors that have shapes alone."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from synthcxr.errors import ModelError
from synthcxr.model.bases import PromptEmbeddings
from synthcxr.model.bases.published import PUBLISHED
from synthcxr.train.base_module import BaseModule, build_module, trains_text
from synthcxr.train.config import TrainConfig

GIB = 2**30
CONTEXT = 0.6 * GIB  # what the libraries of a GPU hold themselves
FRAGMENTS = 1.05  # the allocator's rounding


@dataclass(frozen=True)
class Estimate:
    """Bytes on one GPU, and parameters."""

    trained: int
    frozen: int
    weights: int
    gradients: int
    moments: int
    average: int
    activations: int

    @property
    def total(self) -> float:
        parts = self.weights + self.gradients + self.moments + self.average + self.activations
        return CONTEXT + FRAGMENTS * parts

    def __str__(self) -> str:
        parts = ("weights", "gradients", "moments", "average", "activations")
        told = ", ".join(f"{name} {getattr(self, name) / GIB:.1f}" for name in parts)
        return (
            f"GPU memory, by estimate: {self.total / GIB:.1f} GiB ({told}); "
            f"{self.trained / 1e6:.1f} M parameters trained, {self.frozen / 1e6:.0f} M beside them"
        )


def estimate(config: TrainConfig, half: bool, processes: int = 1) -> Estimate:
    """Memory of one step of a base, the most it takes after the caches are made.

    Args:
        half: bfloat16 is computed in.
        processes: GPUs that share a batch.
    Raises:
        ModelError: the base is neither a folder nor one whose shape is known.
    """
    lora = config.base.lora
    # Adapters are reckoned with: made of tensors without content, they couldn't be moved.
    plain = {"xformers": False, "lora": None, "text_encoder": trains_text(config.base)}
    settings = config.base.model_copy(update=plain)
    rows = max(1, settings.batch_size // (settings.accumulate * processes))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.random.fork_rng(devices=[]):
        pipeline, tokens = _hollow(settings.model)
        module = build_module(pipeline, settings, config.seed, half=False)
        adapted = _adapted(module) if lora else []
        module.denoiser.requires_grad_(settings.denoiser and not lora)
        side = config.resolution // pipeline.vae_scale_factor
        saved = _saved(module, rows, side, tokens, half, adapted)
    total = sum(parameter.numel() for parameter in module.parameters())
    if lora:
        trained = sum(lora.rank * (layer.in_features + layer.out_features) for layer in adapted)
        frozen, width = total, 2 if half else 4
    else:
        trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        frozen, width = total - trained, 2 if half else 4
    copies = 2 * trained if half else 0  # autocast keeps a copy of the weights it computes with
    moments = trained * (2 if settings.optimizer == "adamw8bit" else 8)
    return Estimate(trained, frozen, 4 * trained + width * frozen + copies, 4 * trained, moments, 4 * trained, saved)


def _adapted(module: BaseModule) -> list[nn.Linear]:
    """The layers that get an adapter; peft goes by the ends of names as well."""
    wanted = {name: module.base.text_lora for name in module.text_encoders} | {module.base.denoiser: module.base.lora}
    return [
        layer
        for part, network in module.parts.items()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and f".{name}".endswith(tuple(f".{end}" for end in wanted[part]))
    ]


def _hollow(model: str) -> tuple[DiffusionPipeline, int]:
    """The pipeline without weights, and how many tokens its prompts have."""
    folder, name = Path(model), model.split("@")[0].split("/")[-1]
    if (folder / "model_index.json").is_file():
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        made = {part: _part(folder, part, said) for part, said in index.items() if _is_network(said)}
        cls, tokens = getattr(diffusers, index["_class_name"]), 300 if "Sana" in index["_class_name"] else 77
    elif name in PUBLISHED:
        published = PUBLISHED[name]
        cls, tokens = getattr(diffusers, published.pipeline), published.tokens
        kind = "transformer" if "Sana" in published.pipeline else "unet"
        made = {part: of(**shape) for part, (of, shape) in ((kind, published.denoiser), ("vae", published.vae))}
        made |= {part: of(config(**shape)) for part, (of, config, shape) in published.text.items()}
    else:
        raise ModelError(f"{model!r} isn't here, and its shape isn't known: no estimate; fetch it into a folder first")
    others = {part: None for part in _arguments(cls) if part not in made}
    if "requires_safety_checker" in others:
        others["requires_safety_checker"] = False
    others["scheduler"] = diffusers.DDPMScheduler(steps_offset=1, clip_sample=False)
    return cls(**made, **{part: value for part, value in others.items() if part not in OPTIONAL}), tokens


OPTIONAL = ("force_zeros_for_empty_prompt", "add_watermarker")


def _arguments(cls: type[DiffusionPipeline]) -> list[str]:
    code = cls.__init__.__code__
    return list(code.co_varnames[1 : code.co_argcount])


def _is_network(said: object) -> bool:
    return isinstance(said, list) and said[1] is not None and said[1].endswith(("Model", "AutoencoderKL", "DC",
                                                                                 "Projection"))  # fmt: skip


def _part(folder: Path, part: str, said: list[str]) -> nn.Module:
    library, name = said
    if library == "transformers":
        cls = getattr(transformers, name)
        return cls(cls.config_class.from_pretrained(folder / part))
    cls = getattr(diffusers, name)
    return cls.from_config(cls.load_config(folder / part))


def _saved(module: BaseModule, rows: int, side: int, tokens: int, half: bool, adapted: Sequence[nn.Linear]) -> int:
    """Bytes that one forward pass keeps for its backward pass, weights apart; adapters keep what goes into them."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage()._cdata) not in own:
            kept.setdefault(place, tensor)
        return tensor

    def keep_input(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        cast = inputs[0].to(torch.bfloat16 if half else torch.float32)
        kept.setdefault(inputs[0].untyped_storage()._cdata, cast)  # once for those that read the same

    config = module.denoiser.config
    width = config.get("cross_attention_dim") if module.base.denoiser == "unet" else config.caption_channels
    pooled = None
    if config.get("addition_embed_type") == "text_time":
        pooled = torch.zeros(rows, config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim)
    mask = torch.ones(rows, tokens, dtype=torch.long) if module.base.denoiser == "transformer" else None
    told = PromptEmbeddings(torch.zeros(rows, tokens, width), pooled, mask)
    latents = torch.zeros(rows, config.in_channels, side, side, requires_grad=bool(adapted))
    for layer in adapted:
        layer.register_forward_pre_hook(keep_input)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            error = module(latents, torch.full((rows,), 500.0), told, torch.zeros(rows, 6)).float().square().mean()
            for encoder in module.text_encoders.values():
                ids = torch.zeros(rows, tokens, dtype=torch.long)
                error = error + encoder(ids, output_hidden_states=True)[0].float().mean()
    # Casts of the weights are kept as well, but counted with them.
    casts = {p.shape for p in module.parameters()}
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if tensor.shape not in casts)
