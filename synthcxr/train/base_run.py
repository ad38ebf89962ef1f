"""The command `synthcxr train` with a base: an open model in, the retrained one out, as MODEL folder and LoRA file."""

import json
import logging
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from synthcxr.data.corpus import load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ModelError, RunError
from synthcxr.files import atomic_path, remove, write_json
from synthcxr.model.bases import base_named
from synthcxr.model.card import Training, model_card
from synthcxr.model.folder import Model, load_model, save_model
from synthcxr.runs import Run
from synthcxr.train.base_decoder import trained_decoder
from synthcxr.train.base_module import build_module, trains_text
from synthcxr.train.base_stage import BaseStage
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import Trainer
from synthcxr.train.lora import merge_lora, save_lora
from synthcxr.train.machine import accelerator_of, hours, processors
from synthcxr.train.parallel import divides, gathered

log = logging.getLogger(__name__)
MAY_CHANGE = ("base.steps", "base.decoder.steps", "base.accumulate")  # see loop.Trainer._resume
LORA = "lora"
DECODER = Path("decoder", "model")


def run(config: TrainConfig, fresh: bool = False) -> dict[str, Any]:
    """Retrain `config.base`, then write `output/model` (and `output/lora`); the same call resumes.

    Returns:
        what result.json holds: the last validation, how many prompts are cut, and the model's hash.
    Raises:
        Interrupted: a signal came; the state is saved.
        UserError: a dataset, the base, the run folder or a setting isn't as it must be, or the loss isn't finite.
    """
    datasets = [Dataset.open(path) for path in config.data]
    # Of some text encoders, the last layer isn't read.
    unused = DistributedDataParallelKwargs(find_unused_parameters=trains_text(config.base))
    accelerator = accelerator_of(config, [unused])
    divided = divides(accelerator)
    if divided and config.base.decoder.steps and not (config.output / DECODER).exists():
        raise RunError(
            f"base.decoder.steps = {config.base.decoder.steps}: processes don't divide the decoder (FSDP); train it "
            "with scripts/accelerate/ddp.yaml: the run can go on with fsdp.yaml once it's there"
        )
    with accelerator.main_process_first():
        folder = Run(config.output)
        if accelerator.is_main_process:
            folder = Run.open(config.output, config, "train", fresh, MAY_CHANGE)
        if folder.finished:
            return folder.result
        base = load_model(config.base.model)
        _check_adapters(config, type(base.pipeline).__name__)
        if accelerator.is_main_process:
            _check_base(config.output / "base.json", base.hash)
        train, validation = (
            load_corpus(datasets, split, config.resolution, config.per_patient, None) for split in ("train", "validate")
        )
    accelerator.init_trackers("tensorboard")
    decoder = {}
    if config.base.decoder.steps:
        decoder = trained_decoder(config, train, validation, accelerator, folder, base.pipeline)
    stage = BaseStage(config, train, validation, base.pipeline, accelerator)
    wordings = stage.wordings
    folder_log = {"prompts": len(wordings.prompts), "cut": wordings.cut, "limit": wordings.limit}
    if accelerator.is_main_process:
        folder.log("prompts", **folder_log, longest=wordings.tokens)
    if wordings.cut:
        log.warning(
            "%d of %d prompts are longer than the %d tokens that the text encoder reads (the longest has %d): "
            "their ends are lost", wordings.cut, len(wordings.prompts), wordings.limit, wordings.tokens,
        )  # fmt: skip
    Trainer(stage, accelerator, folder, divided).fit()
    if divided:
        _put_together(stage, accelerator)
    if accelerator.is_main_process:
        measured = {"base": stage.validate(stage.module.eval().to(accelerator.device), accelerator.device), **decoder}
        samples = {"base": config.base.steps * config.base.batch_size}
        training = Training(
            config.licence, hours(folder), processors(accelerator), samples, measured, f"{base.info.name}, sha256 "
            f"`{base.hash}`", type(base.pipeline).__name__,
        )  # fmt: skip
        model = _finished(stage, config.output)
        card = model_card(model.info, train.records, validation.records, training)
        saved = save_model(model, config.output / "model", card, shard_size="10GB")
        folder.finish({**measured, "prompts": folder_log, "model_hash": saved})
    accelerator.wait_for_everyone()
    accelerator.end_training()  # last: without the process group there is no waiting
    return folder.result


def _check_base(file: Path, now: str) -> None:
    """A checkpoint holds what's trained alone, so a run must go on from the base that it began with."""
    before = json.loads(file.read_text(encoding="utf-8"))["sha256"] if file.exists() else now
    if before != now:
        raise RunError(
            f"base.model isn't the one this run began with (sha256 {before[:12]}, now {now[:12]}); restore it"
        )
    write_json(file, {"sha256": now})


def _check_adapters(config: TrainConfig, pipeline: str) -> None:
    """Before hours of training: adapters that couldn't be written to a file aren't trained."""
    lora = config.base.lora
    if lora and lora.text_encoder and not base_named(pipeline).text_lora:
        raise ModelError(
            f"base.lora.text_encoder = true: {pipeline}'s files of adapters have no room for a text encoder's; "
            "leave it out, or train it whole (base.text_encoder=true without lora)"
        )


def _put_together(stage: BaseStage, accelerator: Accelerator) -> None:
    """Whole networks in the main process in place of divided ones: the base's own, with what was trained of them."""
    state = gathered(stage.module.state_dict(), keep=accelerator.is_main_process)
    if accelerator.is_main_process:
        whole = load_model(stage.settings.model).pipeline
        stage.pipeline.register_modules(**{name: getattr(whole, name) for name in stage.module.parts})
        half = accelerator.mixed_precision == "bf16"
        stage.module = build_module(stage.pipeline, stage.settings, stage.config.seed, half)
        stage.module.load_state_dict(state)


def _finished(stage: BaseStage, output: Path) -> Model:
    """The model with its averaged weights; adapters are written to a file of their own, then added to the weights."""
    if stage.settings.lora:
        remove(output / LORA)
        with atomic_path(output / LORA) as temporary:
            save_lora(stage.pipeline, stage.module.parts, temporary)
    for part in stage.module.parts.values():
        merge_lora(part)
    stage.pipeline.to("cpu")
    return stage.model()
