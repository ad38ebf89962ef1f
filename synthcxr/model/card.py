"""Model cards: what a model was trained on, for how long, how well it does on held-out patients, what it can't do."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from synthcxr.data.record import Record
from synthcxr.model.folder import ModelInfo

CREDITS = {
    "nih": "NIH Clinical Center, https://nihcc.app.box.com/v/ChestXray-NIHCC; Wang X, Peng Y, Lu L, Lu Z, Bagheri M, "
    "Summers RM. ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks. CVPR 2017.",
    "hannover": "Winther HB, Laser H, Gerbel S, et al. COVID-19 Image Repository, Hannover Medical School, 2020. "
    "CC BY 3.0.",
}


DECODED = {
    "psnr": "PSNR (dB)", "ssim": "SSIM", "crop_psnr": "PSNR (dB) of the busiest eighth of its squares",
    "crop_ssim": "SSIM of the busiest eighth of its squares",
}  # fmt: skip


@dataclass(frozen=True)
class Training:
    """What a card says of a training run.

    `measured` are the last validations, by stage and name; `start` is the model that the run went on from, `layout`
    the class of pipeline that opens the folder.
    """

    licence: str
    hours: float
    processors: str
    samples: Mapping[str, int]
    measured: Mapping[str, Mapping[str, float]]
    start: str | None = None
    layout: str = "Stable Diffusion XL with one text encoder"


def model_card(info: ModelInfo, train: Sequence[Record], held_out: Sequence[Record], training: Training) -> str:
    """Markdown with no field blank; held-out patients are named, so that nobody tests on what was trained on."""
    sources = sorted({record.source for record in train})
    lines = [
        f"# {info.name}", "",
        "A latent diffusion model of frontal chest radiographs. Its pictures are synthetic. Research only, not for "
        "diagnosis.", "",
        f"- licence of the weights: {training.licence}",
        f"- resolution: {info.resolution} pixels, one channel; preprocessing: {info.preprocessing}",
        f"- prompt: `{info.template}`; layout: {training.layout}",
        f"- trained for {training.hours:.1f} hours on {training.processors}: "
        + ", ".join(f"{name} {count:,} images seen" for name, count in training.samples.items()),
        f"- went on from: {training.start or 'random weights'}",
        f"- training images: sha256 `{info.data_hash}`",
        f"- privacy audit: {info.audit or 'none yet'}", "",
        "## Data", "", "| source | images | patients | credit |", "|---|---|---|---|",
        *(_source_line(source, train) for source in sources), "",
        _counts("Training images of each finding", Counter(info.findings or {}).elements()),
        _counts("Views", (record.condition.view or "unknown" for record in train)),
        _counts("Sexes", (record.condition.sex or "unknown" for record in train)), "",
        "## Held-out patients", "",
        f"Validation, n = {len(held_out)} images of {len({record.patient for record in held_out})} patients; test "
        "patients were never read. A patient's split follows from the hash of its id alone "
        "(`synthcxr.data.prepare.split_of`).", "",
        "| what | value | n |", "|---|---|---|",
        *_measured(training.measured), "",
        "Validation patients: " + " ".join(sorted({record.patient for record in held_out})), "",
        "## What it can't do", "",
        "- Words it never saw are left out of a prompt. It knows: "
        + " ".join(word for word in info.words if word.isalpha())
        if info.words
        else "- It reads any words; it was trained on the prompts of this data alone.",
        "- Sides and severities, lateral views and children are unknown to it unless named above.",
        "- Labels were mined from reports by machine; about one in ten is wrong, and the model repeats that.",
        "- Fine detail (small nodules, lines, burned-in markers) isn't to be trusted. No claim is made of clinical "
        "realism, of fairness between groups, or that no training patient can be recognised.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _measured(measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Rows of the table of held-out patients."""
    rows = []
    if autoencoder := measured.get("few_detail") or measured.get("detail") or measured.get("autoencoder"):
        count = f"{autoencoder['images']:.0f}"
        rows.append(f"| autoencoder, PSNR | {autoencoder['psnr']:.2f} dB | {count} |")
        rows.append(f"| block PCA with as many numbers, PSNR | {autoencoder['psnr_pca']:.2f} dB | {count} |")
        rows.append(f"| autoencoder, energy of edges, of the real | {autoencoder['edges']:.2f} | {count} |")
    for name in ("denoiser", "base"):
        if told := measured.get(name):
            what = "of v" if name == "denoiser" else "of its prediction"
            rows.append(f"| denoiser, mean squared error {what} | {told['mse']:.4f} | {told['images']:.0f} |")
    if told := measured.get("distillation"):
        rows.append(f"| few-step mode, mean squared distance of its latents from those of many steps "
                    f"| {told['latents_mse']:.4f} | {told['images']:.0f} |")  # fmt: skip
    for part, told in measured.items():
        if part.split(",")[0] == "decoder":
            rows += [
                f"| {part}: {what} before training on radiographs | {told[f'{name}_before']:.3f}, now {told[name]:.3f} "
                f"| {told['images']:.0f} |"
                for name, what in DECODED.items()
            ]
    return rows


def _source_line(source: str, records: Sequence[Record]) -> str:
    own = [record for record in records if record.source == source]
    credit = CREDITS.get(source) or f"licence: {own[0].licence}"
    return f"| {source} | {len(own)} | {len({record.patient for record in own})} | {credit} |"


def _counts(title: str, values: Iterable[str]) -> str:
    counts = Counter(str(value) for value in values).most_common()
    return f"- {title}: " + (", ".join(f"{name} {count}" for name, count in counts) or "none")
