"""How fast `synthcxr synthesize` is beside a stock diffusers pipeline, on the same weights, in the same run.

python scripts/bench_generate.py [--model DIR] [--images 200] [--stock 10] [--steps N] [--memory 200 2000]

Stock is called as bulk scripts of the field do: one prompt a call, guidance 3, on all processors. Pictures of the
stock pipeline aren't looked at, so that it doesn't matter which schedule a model was trained on. Synthesize
draws as the model usually does, in its guided steps, and with `--steps` in as many. `--memory 0` leaves the memory out.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler, PNDMScheduler

from synthcxr.errors import UserError
from synthcxr.model.folder import EMBEDDED, load_model
from synthcxr.model.sampler import SamplerSettings
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.engines.local import default_workers, devices_of, quiet
from synthcxr.synthesis.run import run
from synthcxr.synthesis.screen import ScreenConfig

PROMPTS = ("72 year old female. PA view. Pleural effusion.", "45 year old male. AP view. Cardiomegaly.")
GOAL_PNDM, GOAL_DPM, GOAL_SCREEN, GOAL_MEMORY = 8, 2, 0.8, 1.1


def config(model: Path, output: Path, rows: int, **fields: object) -> SynthesizeConfig:
    """A balanced plan, of which each worker gets at least a shard."""
    plan = {
        "kind": "balanced", "rows": rows, "findings": ["No Finding", "Cardiomegaly", "Pleural Effusion"],
        "sex": ["female", "male"], "age": [[20, 90]], "view": ["PA", "AP"],
    }  # fmt: skip
    given = {"screen": None, "licence": "none", "batch_size": 8, "shard_rows": 32, **fields}
    return SynthesizeConfig(plan=plan, output=output, model=str(model), **given)


def stock(pipeline: DiffusionPipeline, scheduler: object, steps: int, images: int, size: int) -> float:
    """Images a second; the first call, which finds nothing ready, isn't counted."""
    pipeline.scheduler = scheduler
    for number in range(images + 1):
        if number == 1:
            start = time.perf_counter()
        pipeline(PROMPTS[number % 2], num_inference_steps=steps, guidance_scale=3.0, height=size, width=size)
    return images / (time.perf_counter() - start)


@dataclass(frozen=True)
class Rate:
    """Images kept a second, end to end and while drawing alone (without starting processes and loading models); and
    pictures drawn a second, of which a screen lets some pass."""

    whole: float
    kept: float
    drawn: float


def synthesize(model: Path, images: int, **fields: object) -> Rate:
    """What a run gives."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out"
        asked = config(model, output, images, **fields)
        workers = min(-(-images // asked.shard_rows), default_workers(asked.threads, devices_of(asked.engine)))
        start = time.perf_counter()
        made = run(asked).made
        seconds = time.perf_counter() - start
        lines = map(json.loads, (output.with_name("out.run") / "log.jsonl").read_text().splitlines())
        shards = [line for line in lines if line["event"] == "shard"]
        drawing = sum(line["seconds"] for line in shards) / workers
    return Rate(made / seconds, made / drawing, sum(line["drawn"] for line in shards) / drawing)


def peak(model: Path, images: int, steps: int) -> float:
    """MiB of a process of its own that draws so many with one worker, the screen off."""
    command = [sys.executable, __file__, "--model", str(model), "--steps", str(steps), "--measure", str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(model: Path, images: int, steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = SamplerSettings(steps=steps)
        run(config(model, Path(folder) / "out", images, settings=settings, engine={"workers": 1}))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def speed(model: Path, images: int, stock_images: int, steps: int | None) -> None:
    info = load_model(model).info
    pipeline = DiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, use_safetensors=True)
    pipeline.set_progress_bar_config(disable=True)
    name, schedule = type(pipeline).__name__, pipeline.scheduler.config
    where = f"{torch.get_num_threads()} threads, {torch.cuda.device_count()} GPUs"
    print(f"{where}; stock is {name}, {info.resolution} pixels")
    if torch.cuda.is_available():
        pipeline.to("cuda")
    pndm = stock(pipeline, PNDMScheduler.from_config(schedule, skip_prk_steps=True), 75, stock_images, info.resolution)
    print(f"{'stock, PNDM 75':44} {pndm:8.3f} images/s")
    dpm = stock(pipeline, DPMSolverMultistepScheduler.from_config(schedule), 25, stock_images, info.resolution)
    print(f"{'stock, DPM-Solver++ 25':44} {dpm:8.3f} images/s   {dpm / pndm:6.2f} x PNDM")
    del pipeline
    usual = SamplerSettings().settled(info.sampler, info.few_steps, info.quick)
    others = [info.sampler, *([SamplerSettings(steps=steps)] if steps else [])]
    asked = [usual, *(one.settled(info.sampler, info.few_steps) for one in others)]
    rates = []
    for settings in dict.fromkeys(asked):
        rates.append(synthesize(model, images, settings=settings))
        print_rate(f"synthesize, {settings.sampler} {settings.steps}", rates[-1], pndm, dpm)
    print(f"{'':44} goal at least {GOAL_PNDM} x and {GOAL_DPM} x")
    half = synthesize(model, images, settings=usual, precision="bfloat16")
    print_rate(f"{usual.sampler} {usual.steps} in bfloat16", half, pndm, dpm)
    try:
        screened = synthesize(model, images, screen=ScreenConfig())
    except UserError as error:
        return print(f"screening can't be measured: {error}")
    share, kept = screened.drawn / rates[0].drawn, screened.kept / screened.drawn
    goal, again = (
        f"{share:6.2f} x unscreened, goal {GOAL_SCREEN} x",
        f"{kept:6.1%} of the drawn, others are drawn again",
    )
    print(f"{'screened, pictures drawn':44} {screened.drawn:8.3f} images/s   {goal}")
    print(f"{'screened, images kept':44} {screened.kept:8.3f} images/s   {again}")


def print_rate(what: str, rate: Rate, pndm: float, dpm: float) -> None:
    for part, value in (("end to end", rate.whole), ("drawing alone", rate.kept)):
        said = f"{value:8.3f} images/s   {value / pndm:6.2f} x PNDM   {value / dpm:6.2f} x DPM-Solver++"
        print(f"{f'{what}, {part}':44} {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=EMBEDDED)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--stock", type=int, default=10)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--memory", type=int, nargs="*", default=[200, 2000])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    quiet()
    if given.measure:
        return measure(given.model, given.measure, given.steps)
    speed(given.model, given.images, given.stock, given.steps)
    peaks = {count: peak(given.model, count, steps=2) for count in given.memory if count}
    for count, mib in peaks.items():
        ratio = mib / peaks[given.memory[0]]
        line = f"peak memory, one worker, {count} images"
        print(f"{line:44} {mib:8.0f} MiB   {ratio:6.2f} x, goal at most {GOAL_MEMORY:g} x")


if __name__ == "__main__":
    main()
