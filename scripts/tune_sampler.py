"""Choose how a model's pictures are drawn by default, on validation patients.

    python scripts/tune_sampler.py MODEL [--data DATASET] [--images 128] [--write] [--settings SETTING ...]

A SETTING is SAMPLER:STEPS:GUIDANCE:GUIDED:RESCALE:FINDINGS:LEVEL, such as dpm++:20:2:0.5:0:1:true; what is left out at
its end is as the model's own settings say. Without any, a grid of them is tried. Each draws pictures of the same
conditions with the same seeds. What is printed: the kernel distance to all validation images in features of the model's
classifier (lower is better, of real ones 0), coverage, and how well the classifier finds in the pictures what was
asked, with 95% intervals. --write puts the setting with the smallest kernel distance into the model's synthcxr.json, or
one that needs fewer evaluations of the network and isn't worse beyond its interval.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np

from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.evaluation.alignment import alignment
from synthcxr.evaluation.fidelity import METRICS, bootstrap
from synthcxr.evaluation.part import chosen
from synthcxr.evaluation.scores import Score
from synthcxr.files import write_text
from synthcxr.generate import Generator, Request
from synthcxr.images import contact_sheet as sheet
from synthcxr.images import from_float, to_float, to_square, write_png
from synthcxr.model.classifier import Classifier, load_classifier
from synthcxr.model.folder import INFO, Model, load_model
from synthcxr.model.sampler import SamplerSettings

GRID = [
    SamplerSettings(sampler=sampler, steps=steps, guidance=guidance, guided=guided, rescale=0)
    for sampler, steps, (guidance, guided) in product(
        ("dpm++", "sde-dpm++"), (4, 10, 20, 40), ((1, 0), (2, 0.6), (2, 1), (4, 0.6))
    )
]


def evaluations(settings: SamplerSettings) -> int:
    """Evaluations of the network that a picture takes, of one with findings."""
    return settings.steps + settings.guided_steps * (2 if settings.finding_guidance else 1)


def parsed(setting: str) -> SamplerSettings:
    fields, parts = list(SamplerSettings.model_fields), setting.split(":")
    if len(parts) > len(fields):
        raise SystemExit(f"--settings {setting}: has {len(parts)} parts, must have {len(fields)} at most; see --help")
    return SamplerSettings(**dict(zip(fields, parts, strict=False)))


def drawn(model: Model, records: list[Record], settings: SamplerSettings) -> tuple[list[np.ndarray], float]:
    """A picture of each record's condition, and pictures a second."""
    requests = [Request(condition=record.condition, seed=seed) for seed, record in enumerate(records)]
    start = time.perf_counter()
    pictures = [one.pixels for one in Generator(model, settings, batch_size=16)(requests, progress=False)]
    return pictures, len(pictures) / (time.perf_counter() - start)


def measured(
    judge: Classifier, pictures: list[np.ndarray], records: list[Record], real: np.ndarray
) -> dict[str, Score]:
    """Distances to real features, and whether what was asked is there."""
    told = judge.read(pictures)
    scores = [*bootstrap(METRICS["kernel"], real, told.features), *bootstrap(METRICS["manifold"], real, told.features)]
    conditions = [record.condition for record in records]
    scores += alignment(told, conditions, np.arange(len(records)))
    return {score.name: score for score in scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model")
    parser.add_argument("--settings", nargs="+", default=[])
    parser.add_argument("--data", type=Path, default=Path("build/data/nih"))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--sheets", type=Path, help="folder for contact sheets")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    model, judge, dataset = load_model(asked.model), load_classifier(asked.model), Dataset.open(asked.data)
    held_out = dataset.split("validate")
    size = model.info.resolution
    real = judge.read(from_float(to_square(to_float(dataset.read(one)), size)) for one in held_out).features
    records = chosen(dataset, "validate", asked.images, seed=1)
    given = [parsed(one) for one in asked.settings] or GRID
    grid = [one.settled(model.info.sampler, model.info.few_steps) for one in given]
    found: list[tuple[SamplerSettings, Score]] = []
    for settings in grid:
        pictures, rate = drawn(model, records, settings)
        scores = measured(judge, pictures, records, real)
        name = ":".join(str(value) for value in settings.model_dump().values())
        told = [f"{scores[one].value:.3f}" for one in ("coverage", "AUROC, mean", "accuracy, sex") if one in scores]
        kernel = scores["kernel"]
        print(f"{name:32} {evaluations(settings):3} evaluations {rate:5.2f}/s   kernel {kernel.value:.3f} "
              f"[{kernel.low:.3f}, {kernel.high:.3f}]   coverage, AUROC, sex {' '.join(told)}", flush=True)  # fmt: skip
        found.append((settings, kernel))
        if asked.sheets:
            write_png(asked.sheets / f"{name.replace(':', '-')}.png", sheet(pictures[:24], 8), None)
    best = min(found, key=lambda one: one[1].value)[1]
    settings = min((one for one in found if one[1].value <= best.high), key=lambda one: evaluations(one[0]))[0]
    print(f"best: {settings.model_dump_json()}")
    if asked.write:
        file = Path(asked.model) / INFO
        said = json.loads(file.read_text(encoding="utf-8")) | {
            "sampler": settings.model_dump(mode="json"),
            "audit": None,
        }
        write_text(file, json.dumps(said, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
