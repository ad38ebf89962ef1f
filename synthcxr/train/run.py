"""The command `synthcxr train`: DATASETs in, MODEL folder out, one stage after the other."""

import gc
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers import CLIPTokenizer

from synthcxr.data.corpus import Corpus, load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ModelError, RunError, shown
from synthcxr.files import atomic_path, write_json
from synthcxr.model.autoencoder import ChestAutoencoder
from synthcxr.model.card import Training, model_card
from synthcxr.model.folder import CLASSIFIER, CONTRASTIVE, FEW_STEP, Model, load_model, resolve, save_model
from synthcxr.runs import Run
from synthcxr.train import base_run
from synthcxr.train.autoencoder import AutoencoderStage
from synthcxr.train.classifier import ClassifierStage
from synthcxr.train.config import TrainConfig
from synthcxr.train.contrastive import ContrastiveStage
from synthcxr.train.denoiser import DenoiserStage
from synthcxr.train.detail import DetailStage
from synthcxr.train.distillation import DistillationStage
from synthcxr.train.few_detail import FewDetailStage
from synthcxr.train.loop import Trainer
from synthcxr.train.machine import accelerator_of, hours, processors
from synthcxr.train.parallel import divides

log = logging.getLogger(__name__)
TrainedPart = AutoencoderStage | DetailStage | FewDetailStage | DistillationStage | ClassifierStage | ContrastiveStage
PARTS = ("autoencoder", "detail", "few_detail", "denoiser", "distillation", "classifier", "contrastive")
MAY_CHANGE = tuple(f"{part}.steps" for part in PARTS)  # see loop.Trainer._resume


def run(config: TrainConfig, fresh: bool = False) -> dict[str, Any]:
    """Train every stage that isn't finished yet, then write `output/model`; the same call resumes.

    The steps of a stage may change while its learning rate hasn't begun to fall: the end is that of a run which had
    the new number from the start.

    Returns:
        what result.json holds: the last validation of each stage and the model's hash.
    Raises:
        Interrupted: a signal came; the state is saved.
        UserError: a dataset, the run folder or a setting isn't as it must be, or the loss isn't finite.
    """
    if config.base:
        return base_run.run(config, fresh)
    _check_classifier(config)
    datasets = [Dataset.open(path) for path in config.data]
    accelerator = accelerator_of(config)
    if divides(accelerator):
        raise RunError("processes don't divide the embedded model (FSDP); launch with scripts/accelerate/ddp.yaml")
    cache = config.output / "cache"
    with accelerator.main_process_first():
        folder = Run(config.output)
        if accelerator.is_main_process:
            folder = Run.open(config.output, config, "train", fresh, MAY_CHANGE)
        if folder.finished:
            return folder.result
        train, validation = (
            load_corpus(datasets, split, config.resolution, config.per_patient, cache)
            for split in ("train", "validate")
        )
    accelerator.init_trackers("tensorboard")
    start = load_model(config.start, accelerator.device) if config.start else None
    if start and not isinstance(start.pipeline.vae, ChestAutoencoder):
        raise ModelError(
            f"start = {shown(config.start)} must be a model that `synthcxr train` wrote; leave it out, or give one"
        )
    autoencoder = _autoencoder(config, train, validation, accelerator, folder, start)
    stage = DenoiserStage(config, train, validation, autoencoder, cache, accelerator, start)
    Trainer(stage, accelerator, folder).fit()
    few_steps = start.info.few_steps if start else None
    few_step = _few_step(config, train, validation, accelerator, folder, stage.model(stage.module), few_steps)
    classifier = _classifier(config, train, validation, accelerator, folder)
    contrastive = _contrastive(config, train, validation, accelerator, folder, classifier)
    if accelerator.is_main_process:
        model = stage.model(stage.module)
        if few_step:
            mode = {"few_steps": config.distillation.evaluations}  # whether it may be the usual one isn't known yet
            if not config.distillation.steps:
                mode = start.info.model_dump(include={"few_steps", "quick"})
            model = replace(model, info=model.info.model_copy(update=mode))
        measured = {"denoiser": stage.validate(stage.module.eval(), accelerator.device)}
        for name in PARTS:
            if (file := folder.folder / name / "result.json").exists():
                measured[name] = json.loads(file.read_text())
        samples = {name: getattr(config, name).steps * getattr(config, name).batch_size for name in sorted(measured)}
        before = f"{start.info.name}, sha256 `{start.hash}`" if start else None
        training = Training(config.licence, hours(folder), processors(accelerator), samples, measured, before)
        card = model_card(model.info, train.records, validation.records, training)
        parts = {"classifier": classifier, "contrastive": contrastive, "few_step": few_step}
        saved = save_model(model, config.output / "model", card, **parts)
        folder.finish({**measured, "model_hash": saved})
    accelerator.wait_for_everyone()
    accelerator.end_training()  # last: without the process group there is no waiting
    return folder.result


def _autoencoder(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, folder: Run,
    start: Model | None,
) -> ChestAutoencoder:  # fmt: skip
    """The autoencoder of earlier runs of its three stages, or else of runs now; always read back from its files."""
    told = start.pipeline.vae if start else None
    for stage in (AutoencoderStage, DetailStage, FewDetailStage):
        path = folder.folder / stage.name / "model"
        if stage is not AutoencoderStage and not getattr(config, stage.name).steps:
            continue
        if stage is FewDetailStage and told.config.detail_order == 1:
            log.info("few_detail is left out: %s draws detail in %d already", config.start, told.config.detail_steps)
            continue
        if not path.exists():
            _train_part(stage(config, train, validation, told), accelerator, folder, path)
            _release(accelerator)
        told = ChestAutoencoder.from_pretrained(path, use_safetensors=True)
        told.requires_grad_(False).eval().to(accelerator.device)
    return told


def _release(accelerator: Accelerator) -> None:
    """Memory of a stage that has ended: of its weights, their average and moments."""
    accelerator.free_memory()
    gc.collect()


def _few_step(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, folder: Run, model: Model,
    few_steps: int | None,
) -> Path | None:  # fmt: skip
    """The folder of the adapter that this run trained, or of that of a model whose denoiser it left as it was.

    Args:
        few_steps: those of the model that it started from, whose adapter it goes on from if they are as many.
    """
    path = folder.folder / "distillation" / "model"
    if config.distillation.steps and not path.exists():
        begin = resolve(config.start) / FEW_STEP if few_steps == config.distillation.evaluations else None
        with accelerator.main_process_first(), accelerator.autocast():  # it draws pictures
            stage = DistillationStage(config, train, validation, model, config.output / "cache", begin)
        _train_part(stage, accelerator, folder, path, half=True)
    if not path.exists() and not config.new_latents and not config.denoiser.steps:
        path = resolve(config.start) / FEW_STEP
    return path if path.exists() else None


def _classifier(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, folder: Run
) -> Path | None:
    """The folder of the classifier that this run trained, or else of that of the model it started from."""
    path = folder.folder / "classifier" / "model"
    if config.classifier.steps and not path.exists():
        _train_part(ClassifierStage(config, train, validation), accelerator, folder, path, half=True)
    if not path.exists() and config.start:
        path = resolve(config.start) / CLASSIFIER
    return path if path.exists() else None


def _contrastive(
    config: TrainConfig, train: Corpus, validation: Corpus, accelerator: Accelerator, folder: Run,
    classifier: Path | None,
) -> Path | None:  # fmt: skip
    """The folder of the image-text model that this run trained, or else of that of the model it started from."""
    path = folder.folder / "contrastive" / "model"
    if config.contrastive.steps and not path.exists():
        with accelerator.main_process_first():
            stage = ContrastiveStage(config, train, validation, classifier, config.output / "cache", accelerator.device)
        _train_part(stage, accelerator, folder, path, half=True, tokenizer=stage.tokenizer)
    if not path.exists() and config.start and classifier == resolve(config.start) / CLASSIFIER:
        path = resolve(config.start) / CONTRASTIVE
    return path if path.exists() else None


def _train_part(
    stage: TrainedPart, accelerator: Accelerator, folder: Run, path: Path,
    half: bool = False, tokenizer: CLIPTokenizer | None = None,
) -> None:  # fmt: skip
    """Train a part that has a folder of its own: there, and beside it what its last validation gave."""
    Trainer(stage, accelerator, folder).fit()
    if accelerator.is_main_process:
        stage.module.eval()
        part = stage.finish(accelerator.device)
        write_json(path.with_name("result.json"), stage.validate(stage.module, accelerator.device))
        with atomic_path(path) as temporary:
            (part.half() if half else part).save_pretrained(temporary)
            if tokenizer:
                tokenizer.save_pretrained(temporary)
    accelerator.wait_for_everyone()


def _check_classifier(config: TrainConfig) -> None:
    """Before hours of training: words are compared with the features of a classifier, so there must be one."""
    if not config.contrastive.steps or config.classifier.steps:
        return
    if config.start is None or not (resolve(config.start) / CLASSIFIER).is_dir():
        raise ModelError(
            f"contrastive.steps = {config.contrastive.steps} needs classifier.steps above 0, or start= from a model "
            "with a classifier: its features are what words are compared with"
        )
