"""Stage 3: an adapter that does in one step what the model does in several guided ones.

Progressive distillation (Salimans and Ho 2022) in one go: after each of its DDIM steps the student is to be where the
teacher was several steps later, on the way that its own steps lead. The teacher is the model of stage 2 at its own
settings, guidance and all (Meng et al. 2023), whose way from noise to picture is recorded once; the student is its
denoiser with adapters (Hu et al. 2022).
"""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextModelWithProjection

from synthcxr.conditions import Condition, to_prompt
from synthcxr.data.corpus import Corpus
from synthcxr.diffusion import alpha_sigma, ddim_step, image_noise
from synthcxr.errors import RunError, shown
from synthcxr.files import atomic_path
from synthcxr.generate import Generator, Request
from synthcxr.images import contact_sheet, from_float
from synthcxr.model.denoiser import TIMESTEPS, ChestUNet, after, build_scheduler
from synthcxr.model.few_step import FILE
from synthcxr.model.folder import Model
from synthcxr.model.hashes import module_hash
from synthcxr.model.sampler import SamplerSettings
from synthcxr.runs import derive_seed
from synthcxr.train.batches import batch_items, share, step_rng, training_condition
from synthcxr.train.config import TrainConfig
from synthcxr.train.denoiser import DenoiserModule
from synthcxr.train.lora import Adapters

log = logging.getLogger(__name__)
# All that carries a picture through the UNet: attention, feed-forward, convolutions, and how time acts on them.
ADAPTED = (
    "to_q", "to_k", "to_v", "to_out.0", "net.0.proj", "net.2", "proj_in", "proj_out", "time_emb_proj",
    "conv1", "conv2", "conv", "conv_shortcut", "conv_in", "conv_out",
)  # fmt: skip
DRAWN_AT_ONCE = 16


class Student(DenoiserModule):
    """A denoiser that takes all its few steps in one forward pass, as a wrapper for several processes wants it."""

    def __init__(self, unet: ChestUNet, text_encoder: CLIPTextModelWithProjection, evaluations: int):
        super().__init__(unet, text_encoder)
        unet.few_steps = evaluations
        stride = TIMESTEPS // evaluations
        self.timesteps = torch.arange(TIMESTEPS - 1, -1, -stride)[:evaluations]
        now = alpha_sigma(build_scheduler().alphas_cumprod, self.timesteps)
        self.steps = ddim_step(now, after(self.timesteps, stride))

    def forward(self, noise: torch.Tensor, tokens: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """Latents after each step, float32 (b, evaluations, channels, side, side); noise (b, channels, side, side)."""
        conditions, seen, reached = self.conditions(tokens, time_ids), noise, []
        for t, kept, turned in zip(self.timesteps, *(part.to(noise.device) for part in self.steps), strict=True):
            seen = seen.contiguous(memory_format=torch.channels_last)
            v = self.unet(seen, t, **conditions).sample  # diffusers puts a t without dimension where the latents are
            seen = kept * seen + turned * v.float()
            reached.append(seen)
        return torch.stack(reached, dim=1)


class DistillationStage:
    """What the loop asks of a stage; see loop.Stage."""

    name = "distillation"

    def __init__(
        self, config: TrainConfig, train: Corpus, validation: Corpus, teacher: Model, cache: Path,
        begin: Path | None = None,
    ):  # fmt: skip
        """`begin` is the folder of an adapter to go on from; None: at nothing beside the weights."""
        self.config, self.settings, self.teacher = config, config.distillation, teacher
        self.drawn = _deterministic(
            self.settings.teacher.settled(teacher.info.sampler, None), self.settings.evaluations
        )
        self.conditions = self._conditions(train)
        self.checked_conditions = [record.condition for record in validation.records[: self.settings.validation_images]]
        self.ways = self._recorded(cache, "train", self.conditions)
        self.checked_ways = self._recorded(cache, "validation", self.checked_conditions)
        student = copy.deepcopy(teacher.pipeline.unet)
        torch.manual_seed(derive_seed(config.seed, "adapters of distillation"))
        rank = self.settings.rank
        wanted = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights=True, target_modules=list(ADAPTED))
        text_encoder = teacher.pipeline.text_encoder_2
        self.module = Student(
            student.requires_grad_(False), text_encoder.requires_grad_(False), self.settings.evaluations
        )
        inject_adapter_in_model(wanted, student)
        if begin:
            self._go_on_from(begin, student)

    def _go_on_from(self, folder: Path, student: ChestUNet) -> None:
        own = get_peft_model_state_dict(student)
        weights = {name.removeprefix("unet."): part for name, part in load_file(folder / FILE).items()}
        shapes = [{name: part.shape for name, part in told.items()} for told in (weights, own)]
        if shapes[0] != shapes[1]:
            log.info("distillation begins anew: the adapter in %s is of another rank or denoiser", shown(folder))
            return
        set_peft_model_state_dict(student, weights)

    def _conditions(self, train: Corpus) -> list[Condition]:
        """What the teacher's pictures show: what training images do, findings more often, with parts unsaid."""
        repeats = np.repeat(train.ill, self.config.finding_repeats - 1)
        items = np.concatenate([np.arange(len(train.records)), repeats])
        rng, settings = step_rng(self.config.seed, "distillation pictures", 0), self.settings
        return [
            training_condition(train.records[index].condition, rng, 0.0, settings.part_dropout, settings.negatives)
            for index in np.resize(rng.permutation(items), settings.pictures)
        ]

    def _recorded(self, cache: Path, part: str, conditions: Sequence[Condition]) -> np.ndarray:
        """The teacher's latents where a step of the student begins or ends, float16 (n, evaluations + 1, c, h, w)."""
        said = [to_prompt(condition, self.teacher.info.template) for condition in conditions]
        told = [self.drawn.model_dump_json(), self.settings.evaluations, *said]
        told += [module_hash(getattr(self.teacher.pipeline, name)) for name in ("unet", "text_encoder_2")]
        path = cache / f"ways-{derive_seed(self.config.seed, f'{part}/{told}'):016x}.npy"
        if not path.exists():
            requests = [
                Request(condition=condition, seed=derive_seed(self.config.seed, f"distillation/{part}/{number}"))
                for number, condition in enumerate(conditions)
            ]
            with atomic_path(path) as temporary:
                self._record(temporary, requests)
        return np.load(path, mmap_mode="r")

    def _record(self, path: Path, requests: list[Request]) -> None:
        unet, stride = self.teacher.pipeline.unet.config, self.drawn.steps // self.settings.evaluations
        latent = (unet.in_channels, unet.sample_size, unet.sample_size)
        shape = (len(requests), self.settings.evaluations + 1, *latent)
        ways = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        generator = Generator(self.teacher, self.drawn, batch_size=DRAWN_AT_ONCE)
        for start in tqdm(range(0, len(requests), DRAWN_AT_ONCE), "the teacher's pictures"):
            batch = requests[start : start + DRAWN_AT_ONCE]
            rows = ways[start : start + len(batch)]
            rows[:, 0] = image_noise([request.seed for request in batch], latent).numpy()

            def observe(step: int, latents: torch.Tensor, rows: np.ndarray = rows) -> None:
                if step % stride == 0:
                    rows[:, step // stride] = latents.float().cpu().numpy()

            list(generator(batch, progress=False, observe=observe))
        ways.flush()

    def sample_ids(self, step: int) -> list[str]:
        """What the pictures of a step show, for error messages."""
        return [to_prompt(self.conditions[index], self.teacher.info.template) for index in self._items(step)]

    def _items(self, step: int) -> np.ndarray:
        return batch_items(np.arange(len(self.ways)), self.config.seed, step, self.settings.batch_size)

    def loss(self, module: nn.Module, step: int, rank: int, processes: int, device: torch.device) -> torch.Tensor:
        """Mean squared distance from the teacher's latents at the end of each step, over this process's pictures.

        The student is asked where its own steps led it. What it gets wrong in the first grows about a hundredfold (in
        variance) by the last, so steps learned each for itself, from the teacher's latents, would say little of the
        picture at the end: see docs/log.md.
        """
        own = share(self._items(step), rank, processes)
        return self._distances(module, self.ways[own], [self.conditions[item] for item in own], device).mean()

    def _distances(
        self, module: nn.Module, ways: np.ndarray, conditions: Sequence[Condition], device: torch.device
    ) -> torch.Tensor:
        """Mean squared distance (b, evaluations) of the student's latents from the teacher's after each step."""
        recorded = torch.from_numpy(ways.astype(np.float32)).to(device)
        reached = self._walk(module, recorded[:, 0], conditions)
        return (reached - recorded[:, 1:]).square().mean(dim=(2, 3, 4))

    def _walk(self, module: nn.Module, noise: torch.Tensor, conditions: Sequence[Condition]) -> torch.Tensor:
        """The student's latents after each of its steps, as `Student` returns them."""
        prompts = [to_prompt(condition, self.teacher.info.template) for condition in conditions]
        tokens = self.teacher.pipeline.tokenizer_2(
            prompts, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        size = float(self.teacher.info.resolution)
        sizes = torch.tensor([[size, size, 0, 0, size, size]]).repeat(len(prompts), 1)
        return module(noise, tokens.to(noise.device), sizes.to(noise.device)).float()

    @torch.no_grad()
    def validate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """On prompts of held-out patients: mean squared distance of the latents, of all steps and at the end."""
        parts = np.array_split(np.arange(len(self.checked_ways)), max(1, len(self.checked_ways) // 32))
        found = [
            self._distances(module, self.checked_ways[rows], [self.checked_conditions[row] for row in rows], device)
            for rows in parts
        ]
        distances = torch.cat(found).mean(dim=0)
        images = float(len(self.checked_ways))
        return {"loss": float(distances.mean()), "latents_mse": float(distances[-1]), "images": images}

    @torch.no_grad()
    def sheet(self, module: nn.Module, device: torch.device) -> np.ndarray:
        """The first held-out prompts: a row by the teacher, a row by the student, and so on."""
        count, shown = min(16, len(self.checked_ways)), []
        ways = torch.from_numpy(self.checked_ways[:count].astype(np.float32)).to(device)
        teacher, student = ways[:, -1], self._walk(module, ways[:, 0], self.checked_conditions[:count])[:, -1]
        vae = self.teacher.pipeline.vae
        for latents in (teacher[:8], student[:8], teacher[8:], student[8:]):
            if len(latents):
                pixels = vae.decode(latents / vae.config.scaling_factor).sample
                shown += list(from_float(pixels.float().mean(dim=1).clamp(-1, 1).cpu().numpy()))
        return contact_sheet(shown, columns=min(8, count))

    def finish(self, device: torch.device) -> Adapters:
        """The adapters; call with the EMA weights in place."""
        return Adapters(self.teacher.pipeline, {"unet": self.module.unet})


def _deterministic(settings: SamplerSettings, evaluations: int) -> SamplerSettings:
    """The teacher's settings, if they can be learned from."""
    if settings.sampler not in ("dpm++", "ddim"):
        raise RunError(
            f"distillation.teacher.sampler = {settings.sampler!r} must be deterministic, or no step could be learned; "
            "give dpm++ or ddim"
        )
    if settings.steps % evaluations or TIMESTEPS % evaluations:
        raise RunError(
            f"distillation.teacher.steps = {settings.steps} and {TIMESTEPS} must be multiples of "
            f"distillation.evaluations = {evaluations}"
        )
    return settings
