"""MODEL folders: the diffusers layout plus synthcxr.json and a card. Stock folders and hub ids open as well."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from pydantic import ValidationError
from safetensors import SafetensorError

# Imported for diffusers, which takes a component of another library only from a module that is imported already.
import synthcxr.model.autoencoder  # noqa: F401
import synthcxr.model.denoiser  # noqa: F401
from synthcxr.conditions import DEFAULT_TEMPLATE
from synthcxr.config import Config
from synthcxr.errors import ModelError, shown
from synthcxr.files import atomic_path, hash_files, sha256_file, write_text
from synthcxr.model.audit import AuditRecord
from synthcxr.model.bases import base_of
from synthcxr.model.few_step import FOLDER as FEW_STEP
from synthcxr.model.few_step import few_step_pipeline
from synthcxr.model.sampler import USUAL, SamplerSettings
from synthcxr.vocabulary import Finding

EMBEDDED = Path(__file__).parents[1] / "weights"
INFO = "synthcxr.json"
CLASSIFIER = "classifier"  # the folder of model.classifier's
CONTRASTIVE = "contrastive"  # the folder of model.contrastive's
SCREEN = "screen"  # the folder of synthesis.screen's
SHARD_SIZE = "15MB"
ORIGIN = ("_name_or_path", "is_local", "local_files_only")  # keys of configurations
# What diffusers and transformers raise for missing, cut, or mismatched files.
UNLOADABLE = (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, AttributeError, SafetensorError)


class ModelInfo(Config):
    """What `synthcxr.json` adds to a diffusers folder.

    `words` are those its training prompts held, `findings` how many training images showed each finding (None:
    unknown, as for stock checkpoints). `data_hash` is of the training images, `data_licences` are theirs, `licence` is
    that of the weights. `sampler` is how its pictures are drawn by default, `few_steps` how many steps its few-step
    mode takes (None: it has none), `quick` whether that is how it's drawn from where nothing else is asked. `audit` is
    the result of the privacy audit, None until there was one.
    """

    schema_version: int = 1
    name: str
    template: str = DEFAULT_TEMPLATE
    resolution: int
    preprocessing: str = "centre square, antialiased resize, [-1, 1]"
    words: tuple[str, ...] | None = None
    findings: dict[Finding, int] | None = None
    data_hash: str | None = None
    sampler: SamplerSettings = USUAL
    few_steps: int | None = None
    quick: bool = False
    licence: str | None = None
    data_licences: tuple[str, ...] | None = None
    audit: AuditRecord | None = None


@dataclass(frozen=True)
class Model:
    """A pipeline ready to run, what is known of it, the hash of its files, and where they are (None: unsaved)."""

    pipeline: DiffusionPipeline
    info: ModelInfo
    hash: str
    folder: Path | None = None

    @cached_property
    def few_step(self) -> DiffusionPipeline:
        """The pipeline of the few-step mode, made when it's first asked for; see model.few_step."""
        return few_step_pipeline(self.pipeline, self.folder / FEW_STEP, self.info.few_steps)

    @property
    def audited(self) -> bool:
        """Whether these very weights passed a privacy audit."""
        return self.info.audit is not None and self.info.audit.passed_by(self.hash)


def save_model(
    model: Model, folder: Path, card: str, half: bool = True, classifier: Path | None = None,
    contrastive: Path | None = None, few_step: Path | None = None, shard_size: str = SHARD_SIZE,
) -> str:  # fmt: skip
    """Write a MODEL folder, whole or not at all, in place of an older one; returns its hash.

    Args:
        card: Markdown of the model card (README.md).
        half: weights as float16, which halves them at no visible cost.
        classifier: folder of a classifier to go with it (see model.classifier).
        contrastive: folder of an image-text model that reads this classifier (see model.contrastive).
        few_step: folder of the adapter of its few-step mode (see model.few_step).
        shard_size: of the largest file of weights; beyond it they are split.
    """
    folder = Path(folder)
    new = folder.with_name(f"{folder.name}.new")
    if new.exists():
        shutil.rmtree(new)
    with atomic_path(new) as temporary:
        with _as_half(model.pipeline) if half else nullcontext():
            model.pipeline.save_pretrained(temporary, safe_serialization=True, max_shard_size=shard_size)
        for part, name in ((classifier, CLASSIFIER), (contrastive, CONTRASTIVE), (few_step, FEW_STEP)):
            if part:
                shutil.copytree(part, temporary / name)
        _tidy_configs(temporary)
        (temporary / INFO).write_text(model.info.model_dump_json(indent=1) + "\n")
        (temporary / "README.md").write_text(card)
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return hash_of(folder)


@contextmanager
def _as_half(pipeline: DiffusionPipeline) -> Iterator[None]:
    """The pipeline's weights as float16; the very same float32 tensors are back afterwards."""
    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    kept = [(tensor, tensor.data) for tensor in tensors if tensor.is_floating_point()]
    for tensor, data in kept:
        tensor.data = data.half()
    try:
        yield
    finally:
        for tensor, data in kept:
            tensor.data = data


def _tidy_configs(folder: Path) -> None:
    """Make configurations say what the model is alone, so that the hash depends on nothing else.

    Where parts were loaded from goes. Text encoders are to be computed in float32, however they are stored: unlike
    diffusers, transformers would open them in the stored type, and a stock pipeline would then mix the two.
    """
    for file in folder.rglob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        kept = {key: value for key, value in content.items() if key not in ORIGIN}
        if "dtype" in kept:
            kept["dtype"] = "float32"
        if kept != content:
            file.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_model(source: str | Path | None = None, device: str | torch.device = "cpu") -> Model:
    """Open the embedded model (None), a folder in the diffusers layout, or a hub id with its revision ("id@revision").

    Only safetensors are read, and no code from the hub is run. Device "auto" is the GPU where there is one.

    Raises:
        ModelError: no such folder, no model in it, weights missing or damaged, or a hub id without a revision.
    """
    folder = resolve(EMBEDDED if source is None else source)
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{shown(folder)} isn't a model (no model_index.json); give a folder in the diffusers layout")
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        # Made for photographs, the checker blackens radiographs at random.
        without = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
        pipeline = DiffusionPipeline.from_pretrained(
            folder, torch_dtype=torch.float32, use_safetensors=True, local_files_only=True, **without
        )
    except UNLOADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(folder)} can't be loaded ({reason}); restore its files or train again") from error
    denoiser = base_of(pipeline).denoiser
    if not all(isinstance(getattr(pipeline, part, None), torch.nn.Module) for part in (denoiser, "vae")):
        raise ModelError(f"{shown(folder)} lacks {denoiser} or vae; restore its files or train again")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline.to(device)
    pipeline.set_progress_bar_config(disable=True)
    name = folder.name if folder == Path(source or EMBEDDED) else str(source)
    return Model(pipeline, _info(folder, pipeline, name), hash_of(folder), folder)


def hash_of(folder: Path) -> str:
    """sha256 over weights and configurations: what decides the pictures.

    Card, classifier, image-text model, screen and audit aren't part of it: they judge what was drawn, and may be added
    later. Nor is which of its modes is the usual one: that is chosen once they have judged.
    """
    files = (path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".txt"))
    decisive = (path for path in files if path.relative_to(folder).parts[0] not in (CLASSIFIER, CONTRASTIVE, SCREEN))
    return hash_files(decisive, _unjudged)


def _unjudged(file: Path) -> str:
    """sha256 of a file; of synthcxr.json, of what it says without what was found later, however it's laid out.

    Otherwise an audit would change the hash of a file that an editor had left without its last newline.
    """
    said = json.loads(file.read_text(encoding="utf-8")) if file.name == INFO else None
    if not isinstance(said, dict):
        return sha256_file(file)
    before = {key: value for key, value in said.items() if key != "quick"} | {"audit": None}
    return sha256(_info_text(before).encode()).hexdigest()


def _info_text(said: dict) -> str:
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def check_bindable(folder: Path, weights: str) -> None:
    """Whether `bind_audit` will do, before the hours that an audit takes.

    Raises:
        ModelError: the folder has no synthcxr.json, other weights than those of this hash, or can't be written to.
    """
    if not (folder / INFO).is_file():
        raise ModelError(f"{shown(folder)} has no {INFO}; train it with `synthcxr train`, or give bind=false")
    if hash_of(folder) != weights:
        raise ModelError(f"{shown(folder)} holds other weights than those that were audited; audit it again")
    if not os.access(folder, os.W_OK):
        raise ModelError(f"{shown(folder)} can't be written to, so the audit can't be bound to it; give bind=false")


def bind_audit(folder: Path, record: AuditRecord) -> None:
    """Write an audit into a MODEL folder's synthcxr.json and card; the model's hash stays.

    Raises:
        ModelError: as `check_bindable` raises it.
    """
    check_bindable(folder, record.weights)
    file, card = folder / INFO, folder / "README.md"
    said = json.loads(file.read_text(encoding="utf-8"))
    write_text(file, _info_text(said | {"audit": record.model_dump(mode="json")}))
    line = f"- privacy audit: {record}"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {said['name']}\n"
    told, count = re.subn(r"^- privacy audit: .*$", lambda _: line, text, count=1, flags=re.MULTILINE)
    write_text(card, told if count else f"{text.rstrip()}\n\n{line}\n")


def resolve(source: str | Path) -> Path:
    """The local folder of a model; a hub id is fetched at its pinned revision."""
    path = Path(source)
    if path.exists():
        return path
    match = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w.-]+)", str(source))
    if not match:
        raise ModelError(
            f"model {str(source)!r} must be a folder in the diffusers layout, "
            "or a hub id with its revision (owner/name@revision)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*/*.safetensors", "*.model"]
    others = ["*.fp16.*", "*.non_ema.*", "safety_checker/*"]  # the same weights again, and what isn't loaded
    try:
        return Path(snapshot_download(match[1], revision=match[2], allow_patterns=patterns, ignore_patterns=others))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"model {source!r} can't be fetched ({reason}); check the id, the revision, the network"
        ) from error


def read_info(folder: Path) -> ModelInfo | None:
    """What synthcxr.json of a MODEL folder says; None for a stock folder, which has none.

    Raises:
        ModelError: it isn't valid.
    """
    file = folder / INFO
    if not file.is_file():
        return None
    try:
        return ModelInfo.model_validate(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{shown(file)} isn't valid ({reason}); restore it or train again") from error


def _info(folder: Path, pipeline: DiffusionPipeline, name: str) -> ModelInfo:
    if told := read_info(folder):
        return told
    # A stock folder: its native size is that of the denoiser, one number or height and width.
    size = base_of(pipeline).denoiser_of(pipeline).config.sample_size or 64
    side = size if isinstance(size, int) else min(size)
    return ModelInfo(name=name, resolution=side * pipeline.vae_scale_factor)
