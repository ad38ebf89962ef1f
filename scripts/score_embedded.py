"""Recompute the goals of the embedded model from its weights, on test patients who trained no part of it.

    python scripts/score_embedded.py [MODEL] [--data DATASET] [--steps N] [--output build/score] [--card]

For each test image, at most 5 of a patient, a picture of its condition is drawn, once at the model's default settings,
once in at most 4 evaluations of the network and once in 25 steps, and judged by the classifier beside the model, which
real images trained. Prints the table of goals, each with n and 95% interval, and what it is compared with; --card
writes it to the model's card. What was drawn is kept under --output, so that a run that was cut off goes on. The row on
privacy is that of the audit which is bound to the weights (`synthcxr audit`).
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from benchmark import seconds

from synthcxr.conditions import to_prompt
from synthcxr.data.corpus import ShardPixels
from synthcxr.data.dataset import Dataset
from synthcxr.data.record import Record
from synthcxr.evaluation.alignment import alignment
from synthcxr.evaluation.features import squares
from synthcxr.evaluation.fidelity import METRICS, bootstrap
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_auc, weighted_mean
from synthcxr.evaluation.scores import Score
from synthcxr.files import write_text
from synthcxr.generate import Generator, Request
from synthcxr.images import to_float
from synthcxr.model.autoencoder import edge_energy, psnr
from synthcxr.model.classifier import Classifier, Readings, load_classifier
from synthcxr.model.folder import EMBEDDED, Model, load_model
from synthcxr.model.lapped import block_pca, pca_reconstruction
from synthcxr.model.sampler import SamplerSettings
from synthcxr.synthesis.config import SynthesizeConfig
from synthcxr.synthesis.run import run as synthesize

MARKS = ("<!-- goals -->", "<!-- end of goals -->")
FEW = SamplerSettings(sampler="few-step")
COMPARED = SamplerSettings(sampler="dpm++", steps=25)
CONTROLLED = ("Pleural Effusion", "Cardiomegaly", "Edema", "Pneumothorax", "Consolidation")
FEWEST = 5  # images that show a finding: its interval says how little they tell
PCA_IMAGES = 1000
MEGABYTES = 60.0


@dataclass(frozen=True)
class Goal:
    """A row of the table: what was measured, beside what, and whether that is enough."""

    part: str
    what: str
    goal: str
    measured: str
    beside: str
    met: bool | None


def told(score: Score, digits: int = 3, unit: str = "") -> str:
    return f"{score.value:.{digits}f}{unit} [{score.low:.{digits}f}, {score.high:.{digits}f}], n = {score.n}"


def drawn(model: Path, records: list[Record], settings: SamplerSettings, output: Path) -> Dataset:
    """A DATASET with a picture of the condition of each of these; the one that is there already, if it's whole."""
    prompts = output.with_suffix(".jsonl")
    write_text(prompts, "".join(json.dumps({"prompt": to_prompt(record.condition)}) + "\n" for record in records))
    config = SynthesizeConfig(
        plan={"kind": "prompts", "file": prompts}, model=str(model), licence="unknown", output=output,
        settings=settings, screen=None, shard_rows=64, split="test", precision="auto",
    )  # fmt: skip
    synthesize(config)
    return Dataset.open(output)


def autoencoder_goals(
    model: Model, train: list[np.ndarray], test: list[np.ndarray], patients: np.ndarray
) -> list[Goal]:
    """PSNR beside that of a block PCA with as many numbers, and the energy of edges beside that of the real ones."""
    vae = model.pipeline.vae
    tensors = [torch.from_numpy(np.stack([to_float(one) for one in part]))[:, None] for part in (train, test)]
    pca = block_pca(tensors[0], vae.config.latent_channels)
    gains, floors, edges = [], [], []
    with torch.no_grad():
        for images in tensors[1].split(16):
            latents = vae.encode(images).latent_dist.mode()
            shown, floor = vae.decode(latents).sample, psnr(images, pca_reconstruction(images, pca))
            gains.append(psnr(images, shown) - floor)
            floors.append(floor)
            edges.append(edge_energy(shown) / edge_energy(images))
    weights = cluster_weights(patients)
    scores = (torch.cat(part).double().numpy() for part in (gains, edges))
    gain, edge = (
        bootstrap_score("", float(np.mean(values)), weighted_mean(values, weights), len(values), "higher")
        for values in scores
    )
    return [
        Goal(
            "autoencoder",
            "PSNR above the block PCA",
            ">= 1.5 dB",
            told(gain, 2, " dB"),
            f"the block PCA's: {torch.cat(floors).mean():.2f} dB",
            gain.value >= 1.5,
        ),
        Goal("autoencoder", "edge energy, of real", "0.9 to 1.1", told(edge), "real: 1", 0.9 <= edge.value <= 1.1),
    ]


def fidelity_goals(
    train: np.ndarray, test: np.ndarray, made: np.ndarray, few: np.ndarray, steps25: np.ndarray,
    patients: tuple[np.ndarray, np.ndarray],
) -> list[Goal]:  # fmt: skip
    """Distances of feature sets that are cut to one size; `patients` are those of the training and the test images."""
    size = min(map(len, (train, test, made, few, steps25)))
    train, test, made, few, steps25 = (part[:size] for part in (train, test, made, few, steps25))
    units = [part[:size] for part in patients]

    def measured(metric: str, number: int, features: np.ndarray, groups: np.ndarray | None = None) -> Score:
        return bootstrap(METRICS[metric], test, features, units[1], groups)[number]

    floor, real_cover = (measured(name, number, train, units[0]) for name, number in (("frechet", 0), ("manifold", 3)))
    value, quick, slow = (measured("frechet", 0, features) for features in (made, few, steps25))
    cover = measured("manifold", 3, made)
    ratio, share = value.value / floor.value, cover.value / real_cover.value
    return [
        Goal("fidelity", "Frechet distance to held-out, of training to held-out", "<= 2", f"{ratio:.2f}",
             f"{told(value)}; training: {told(floor)}", ratio <= 2),
        Goal("fidelity", "coverage, of the real one", ">= 0.7", f"{share:.2f}",
             f"{told(cover)}; training: {told(real_cover)}", share >= 0.7),
        Goal("few steps", "Frechet distance in 4 evaluations, of 25 steps", "<= 1.1", f"{quick.value / slow.value:.2f}",
             f"{told(quick)}; 25 steps: {told(slow)}", quick.value <= 1.1 * slow.value),
    ]  # fmt: skip


def control_goals(real: Readings, made: Readings, records: list[Record]) -> list[Goal]:
    """What the classifier finds of what was asked, beside what it finds in the real images that show it."""
    conditions, units = [record.condition for record in records], np.array([record.patient for record in records])
    sets = []
    for readings in (real, made):
        scores = {score.name: score for score in alignment(readings, conditions, units, least=FEWEST)}
        for name, chance, positive in (("sex", readings.male, "male"), ("view", readings.ap, "AP")):
            said = np.array([getattr(condition, name) or "" for condition in conditions])
            known = said != ""
            there, weights = said[known] == positive, cluster_weights(units)[:, known]
            value = float(weighted_auc(chance[known], there, np.ones((1, len(there))))[0])
            draws = weighted_auc(chance[known], there, weights)
            scores[f"AUROC, {name}"] = bootstrap_score(f"AUROC, {name}", value, draws, int(there.sum()), "higher")
        sets.append(scores)
    ceiling, found = sets
    goals = []
    for name, least in (
        *((f"AUROC, {what}", 0.9) for what in ("sex", "view", *CONTROLLED)), ("correlation, age", 0.8),
    ):  # fmt: skip
        if name not in ceiling or name not in found:
            goals.append(Goal("control", name, f">= {least} of real", "too few images", "", None))
            continue
        share = found[name].value / ceiling[name].value
        beside = f"{told(found[name])}; real: {told(ceiling[name])}"
        goals.append(Goal("control", name, f">= {least} of real", f"{share:.2f}", beside, share >= least))
    return goals


def privacy_goal(model: Model) -> Goal:
    what, goal = "excess copy rate, upper 95% bound", "<= 2%, copies planted are caught"
    audit = model.info.audit
    if audit is None or audit.weights != model.hash:
        return Goal("privacy", what, goal, "no audit of these weights yet", "", None)
    beside = f"{audit.excess:.1%} [{audit.excess_low:.1%}, {audit.excess_high:.1%}], n = {audit.images}"
    return Goal("privacy", what, goal, f"{audit.excess_high:.1%}", beside, audit.excess_high <= 0.02 and model.audited)


def cost_goals(folder: Path, rate: float) -> list[Goal]:
    with tempfile.TemporaryDirectory() as output:
        prompt = "72 year old female. Large right pleural effusion."
        command = [sys.executable, "-m", "synthcxr.cli", "generate", prompt, "-o", f"{output}/out", "--model", folder]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        cold = time.perf_counter() - start
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    threads = f"{torch.get_num_threads()} threads"
    return [
        Goal("speed", "one picture cold", "<= 10 s", f"{cold:.1f} s", threads, cold <= 10),
        Goal("speed", "warm, default settings", ">= 1 image/s", f"{rate:.2f} images/s", threads, rate >= 1),
        Goal("size", "in the repository", "<= 60 MB", f"{size:.1f} MB", "", size <= MEGABYTES),
    ]


def table(goals: list[Goal]) -> str:
    said = {True: "yes", False: "no", None: "not known"}
    rows = [f"| {g.part} | {g.what} | {g.goal} | {g.measured} | {said[g.met]} | {g.beside} |" for g in goals]
    return "\n".join(
        ["| part | what | goal | measured | met | values, 95% interval, n |", "|---|---|---|---|---|---|", *rows]
    )


def readings(judge: Classifier, dataset: Dataset, records: list[Record], size: int) -> Readings:
    """Of images at the model's resolution, smaller ones enlarged: as the classifier was trained and pictures are."""
    return judge.read(ShardPixels([(dataset, record) for record in records], size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", nargs="?", type=Path, default=EMBEDDED)
    parser.add_argument("--data", type=Path, default=Path("build/data/nih"))
    parser.add_argument("--steps", type=int, help="instead of the default settings; the card then stays as it is")
    parser.add_argument("--output", type=Path, default=Path("build/score"))
    parser.add_argument("--card", action="store_true")
    asked = parser.parse_args()
    model, judge, data = load_model(asked.model), load_classifier(asked.model), Dataset.open(asked.data)
    size, output = model.info.resolution, asked.output / model.hash[:12]

    train, test = (some_a_patient(data.split(split)) for split in ("train", "test"))
    train = [train[row] for row in np.random.default_rng(0).permutation(len(train))[: max(len(test), PCA_IMAGES)]]
    # Without a few-step mode of its own, a model is asked for as many plain steps.
    quick = FEW if model.info.few_steps else SamplerSettings(sampler="dpm++", steps=4, guidance=1.0)
    usual = SamplerSettings(steps=asked.steps) if asked.steps else SamplerSettings()
    modes = [Generator(model, settings).settings for settings in (usual, quick, COMPARED)]
    made = {mode: drawn(asked.model, test, mode, output / f"{mode.sampler}-{mode.steps}") for mode in set(modes)}
    patients = tuple(np.array([record.patient for record in part]) for part in (train, test))
    of_train, of_test = (readings(judge, data, records, size) for records in (train, test))
    of_modes = {mode: readings(judge, part, part.records, size) for mode, part in made.items()}
    of_made, of_few, of_slow = (of_modes[mode] for mode in modes)
    sharp = [[r for r in part if min(r.native_width, r.native_height) >= size] for part in (train, test)]
    pixels = [list(squares(data, part, size)) for part in sharp]
    generator, requests = Generator(model, batch_size=8), [Request(seed=seed) for seed in range(8)]
    rate = 8 / seconds(lambda: list(generator(requests, progress=False)))

    goals = [
        *autoencoder_goals(model, *pixels, np.array([record.patient for record in sharp[1]])),
        *fidelity_goals(
            of_train.features, of_test.features, of_made.features, of_few.features, of_slow.features, patients
        ),
        *control_goals(of_test, of_made, test),
        privacy_goal(model),
        *cost_goals(asked.model, rate),
    ]
    print(table(goals))
    write_text(asked.output / "goals.md", table(goals) + "\n")
    if asked.card and not asked.steps:
        write_card(asked.model / "README.md", table(goals), model, len(test), len(set(patients[1])))


def some_a_patient(records: list[Record], most: int = 5) -> list[Record]:
    """The first images of each patient: long series would rule."""
    seen: Counter[str] = Counter()
    kept = []
    for record in records:
        seen[record.patient] += 1
        kept += [record] if seen[record.patient] <= most else []
    return kept


def write_card(card: Path, goals: str, model: Model, images: int, patients: int) -> None:
    text = card.read_text(encoding="utf-8")
    if MARKS[0] in text:
        before, rest = text.split(MARKS[0])
        after = rest.split(MARKS[1])[1].lstrip("\n")
    else:
        before, after = text.split("## What it can't do")
        after = "## What it can't do" + after
    settings = Generator(model).settings
    turned = {"sampler", "steps"} if settings.sampler == "few-step" else None  # the rest is learned in
    drawn_by = ", ".join(f"{name} {value}" for name, value in settings.model_dump(mode="json", include=turned).items())
    section = (
        f"{MARKS[0]}\n## Goals\n\nMeasured by `python scripts/score_embedded.py` on the weights "
        f"`{model.hash[:12]}`, at the default settings ({drawn_by}), beside {images} images of {patients} "
        f"test patients, at most 5 of each.\n\n{goals}\n\n{MARKS[1]}\n\n"
    )
    write_text(card, before + section + after)


if __name__ == "__main__":
    main()
