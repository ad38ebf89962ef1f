"""Training steps of `synthcxr train` against a loop that does what diffusers' text-to-image example does.

    python scripts/bench_train.py                      # a Stable Diffusion 1.5 of an eighth of the width, on the CPU
    python scripts/bench_train.py --width 1 --size 512 --batch 8 --device auto     # its real width, on a GPU

All train the same UNet (random weights) on the same drawn images at the same batch size; the example's loop reads,
shrinks and encodes images and encodes prompts in each step, ours reads both from its caches and also averages its
weights. With --precision bf16 the example runs twice, in float32, as it does unless told otherwise, and in autocast.
The arms take turns, each time in a process of its own, so that each has its own peak of memory. Seconds of the
processor are given as well: on a CPU that others use, they tell more than the clock.

Model FLOPs are those of the UNet's forward and backward pass alone, and their utilisation is the share of what a matrix
product reaches on the same machine. What caching alone can save is the encoders' FLOPs: it's printed as `by FLOPs`. At
512 pixels and full width an image costs 1.12 TFLOP in the VAE's encoder, 0.013 in CLIP, and 3 x 0.80 in the UNet; at an
eighth of the width and 256 pixels, the default here, the shares are nearly the same (0.40 of the UNet's, not 0.47).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from synthcxr.conditions import Condition, canonical_words
from synthcxr.data.corpus import load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.data.writer import DatasetWriter
from synthcxr.model.bases.published import STABLE_DIFFUSION_15
from synthcxr.model.embedded import build_tokenizer
from synthcxr.runs import Run
from synthcxr.train.autoencoder import to_images
from synthcxr.train.base_stage import BaseStage
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import Trainer

IMAGES = 64
OURS, EXAMPLE = "ours", "example"


def build(width: float) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5 with random weights and `width` of its channels."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(canonical_words(), 77)
    cls, config, shape = STABLE_DIFFUSION_15.text["text_encoder"]
    narrow = {key: int(shape[key] * width) for key in ("hidden_size", "intermediate_size")}
    text = cls(config(**{**shape, **narrow}, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=1, pad_token_id=1))
    unet_cls, unet = STABLE_DIFFUSION_15.denoiser
    channels = tuple(int(channel * width) for channel in (320, 640, 1280, 1280))
    groups = {"norm_num_groups": 32 if width == 1 else 8}
    unet = unet_cls(**{**unet, "block_out_channels": channels, "cross_attention_dim": int(768 * width), **groups})
    vae_cls, vae = STABLE_DIFFUSION_15.vae
    vae = vae_cls(**{**vae, "block_out_channels": tuple(int(c * width) for c in vae["block_out_channels"]), **groups})
    scheduler_cls, scheduler = STABLE_DIFFUSION_15.scheduler
    return StableDiffusionPipeline(
        vae, text, tokenizer, unet, scheduler_cls(**scheduler), None, None, requires_safety_checker=False
    )


def draw(folder: Path, size: int) -> Dataset:
    rng = np.random.default_rng(0)
    with DatasetWriter(folder, origin="real") as writer:
        for index in range(IMAGES + 8):
            patient, split = f"p{index}", "train" if index < IMAGES else "validate"
            condition = Condition(findings=["Edema"], age=20 + index, sex="female")
            pixels = rng.integers(0, 255, (size // 8, size // 8), np.uint8).repeat(8, 0).repeat(8, 1)
            writer.add(pixels, id=f"i{index}", patient=patient, study=patient, split=split, source="drawn",
                       licence="CC0", condition=condition)  # fmt: skip
    return writer.dataset


def ours(config: TrainConfig, steps: int) -> tuple[float, float, int]:
    """Seconds of the steps by the clock and of the processor, and FLOPs of one."""
    precision = "bf16" if config.precision == "bf16" else "no"
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
    dataset = Dataset.open(config.data[0])
    train, validation = (load_corpus([dataset], split, config.resolution, 5, None) for split in ("train", "validate"))
    pipeline = StableDiffusionPipeline.from_pretrained(config.base.model, torch_dtype=torch.float32)
    stage = BaseStage(config, train, validation, pipeline, accelerator)
    trainer = Trainer(stage, accelerator, Run.open(config.output, config, "bench"))
    with FlopCounterMode(display=False) as counter:
        trainer._optimize()
    trainer.step += 1

    def step() -> None:
        trainer._optimize()
        trainer.step += 1

    return *_timed(step, steps), counter.get_total_flops()


def example(config: TrainConfig, steps: int) -> tuple[float, float, int]:
    """The same by the example's loop: an image and its prompt are read and encoded in each step."""
    precision = "bf16" if config.precision == "bf16" else "no"
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
    device, dtype = accelerator.device, torch.bfloat16 if precision == "bf16" else torch.float32
    (corpus,) = (load_corpus([Dataset.open(config.data[0])], "train", config.resolution, 5, None),)
    pipeline = StableDiffusionPipeline.from_pretrained(config.base.model, torch_dtype=torch.float32)
    vae, text = (part.requires_grad_(False).eval().to(device, dtype) for part in (pipeline.vae, pipeline.text_encoder))
    schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
    unet = pipeline.unet.train()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-5)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    rng = np.random.default_rng(0)

    def step() -> None:
        indices = rng.integers(0, IMAGES, config.base.batch_size)
        images = to_images(corpus.pixels[indices]).repeat(1, 3, 1, 1).to(device, dtype)
        prompts = [f"{corpus.records[i].condition.age} year old female. Edema." for i in indices]
        ids = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        latents = vae.encode(images).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        t = torch.randint(0, 1000, (len(indices),), device=device)
        told = unet(schedule.add_noise(latents, noise, t), t, text(ids.to(device))[0]).sample
        accelerator.backward(mse_loss(told.float(), noise.float()))
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        step()
    return *_timed(step, steps), counter.get_total_flops()


def _timed(step: Callable[[], None], steps: int) -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, time.process_time() - busy


def matmul_flops(bf16: bool, device: str) -> float:
    """FLOP/s that a square matrix product reaches."""
    size = 8192 if device == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    best = float("inf")
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def arm(name: str, config: TrainConfig, steps: int) -> None:
    if name != OURS:
        config = config.model_copy(update={"precision": name.removeprefix(f"{EXAMPLE} ")})
    seconds, busy, flops = (ours if name == OURS else example)(config, steps)
    cuda = config.device != "cpu" and torch.cuda.is_available()
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if cuda else kilobytes * 1024
    top = matmul_flops(config.precision == "bf16", "cuda" if cuda else "cpu")
    print(json.dumps({"seconds": seconds, "busy": busy, "flops": flops, "peak": peak, "top": top}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=float, default=0.125, help="of Stable Diffusion 1.5's channels")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each arm")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "auto"), default="cpu")
    parser.add_argument("--arm", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = Path(given.arm[1]) if given.arm else Path(tempfile.mkdtemp())
    config = TrainConfig(
        data=[folder / "data"], output=folder / "run", resolution=given.size, precision=given.precision,
        device=given.device, base={"model": str(folder / "base"), "batch_size": given.batch},
    )  # fmt: skip
    if given.arm:
        return arm(given.arm[0], config, given.steps)
    build(given.width).save_pretrained(folder / "base")
    draw(folder / "data", given.size)
    arms = [f"{EXAMPLE} fp32", *([f"{EXAMPLE} bf16"] if given.precision == "bf16" else []), OURS]
    told: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for name in arms * given.rounds:
        shutil.rmtree(folder / "run" / "base", ignore_errors=True)  # the caches stay
        command = [sys.executable, __file__, *sys.argv[1:], "--arm", name, str(folder)]
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"DIFFUSERS_VERBOSITY": "error"}
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        told[name].append(json.loads(done.stdout.splitlines()[-1]))
    report(told, given.steps, given.batch)


def report(told: dict[str, list[dict[str, float]]], steps: int, batch: int) -> None:
    """Each arm's turns together, and ours against each of the example's, turn by turn."""
    flops = told[OURS][0]["flops"]
    for name, turns in told.items():
        seconds, top = sum(one["seconds"] for one in turns), max(one["top"] for one in turns)
        rate, used = len(turns) * steps * batch / seconds, len(turns) * steps * flops / seconds / top
        peak = max(one["peak"] for one in turns) / 2**30
        print(f"{name:12} {rate:8.3f} samples/s  peak {peak:6.2f} GiB  model FLOPs utilisation {used:.1%}")
    for name in told:
        if name != OURS:
            compare(name, list(zip(told[name], told[OURS], strict=True)), steps)


def compare(name: str, pairs: list[tuple[dict[str, float], dict[str, float]]], steps: int) -> None:
    """One arm of the example beside ours, turn by turn."""
    for key, what in (("seconds", "by the clock"), ("busy", "by seconds of the processor"), ("flops", "by FLOPs")):
        ratios = [theirs[key] / own[key] for theirs, own in pairs]
        total = sum(theirs[key] for theirs, _ in pairs) / sum(own[key] for _, own in pairs)
        print(f"ours: {total:5.2f} x the samples/s of {name}, {what} ({min(ratios):.2f} to {max(ratios):.2f})")
    memory = max(own["peak"] for _, own in pairs) / max(theirs["peak"] for theirs, _ in pairs)
    print(f"ours: {memory:5.2f} x the memory of {name}, over {len(pairs)} turns of {steps} steps each")


if __name__ == "__main__":
    main()
