"""Retraining an open model: each published layout, whole or by adapters, ends where an undisturbed run ends."""

import importlib.util
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from base_folders import FOLDERS
from safetensors.torch import load_file

from synthcxr.data.corpus import load_corpus
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ModelError, RunError
from synthcxr.generate import Generator, Request, SamplerSettings
from synthcxr.model.folder import Model, load_model
from synthcxr.model.push import PushConfig, check
from synthcxr.train.base_stage import BaseStage
from synthcxr.train.checkpoint import latest_checkpoint
from synthcxr.train.config import TrainConfig
from synthcxr.train.loop import Interrupted, Trainer
from synthcxr.train.run import run
from synthcxr.train.wordings import embeddings

STEPS = 6
COMMON = {"steps": STEPS, "batch_size": 4, "warmup": 1, "log_every": 1, "validate_every": 100, "checkpoint_every": 2}
COMMON |= {"validation_images": 2, "learning_rate": 1e-3, "ema": 0.5, "sample_steps": 1, "wordings": 2}
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Folder:
    """A base of one of the layouts, written once. Not to be changed."""
    root = tmp_path_factory.mktemp("bases")
    return lambda name: root / name if (root / name).exists() else FOLDERS[name](root / name)


def config(base: Path, dataset: Dataset, output: Path, **changes: object) -> TrainConfig:
    outer = {"data": [dataset.path], "output": output, "resolution": 64, "device": "cpu", "precision": "fp32"}
    outer["licence"] = "CC BY 4.0"
    return TrainConfig(**outer, base={**COMMON, "model": str(base), **changes})


def stopped(settings: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that gets SIGTERM after a step."""
    report = Trainer._report

    def signalling(self: Trainer, event: str, **values: float) -> None:
        report(self, event, **values)
        if event == "step" and self.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_report", signalling)
        with pytest.raises(Interrupted):
            run(settings)


def assert_same_end(one: Path, other: Path) -> None:
    ours, theirs = (latest_checkpoint(path / "base" / "checkpoints") for path in (one, other))
    assert ours.step == theirs.step == STEPS and ours.tensors.keys() == theirs.tensors.keys()
    assert [name for name, tensor in ours.tensors.items() if not torch.equal(tensor, theirs.tensors[name])] == []
    assert load_model(one / "model").hash == load_model(other / "model").hash


@pytest.mark.parametrize("name", FOLDERS)
def test_every_layout_trains_and_opens_in_stock_diffusers_and_here(folder, tiny_dataset, tmp_path, name):
    base = folder(name)
    result = run(config(base, tiny_dataset, tmp_path / "run"))
    stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "run" / "model", torch_dtype=torch.float32)
    assert type(stock).__name__ == json.loads((base / "model_index.json").read_text())["_class_name"]
    stock.set_progress_bar_config(disable=True)
    plain = {"use_resolution_binning": False, "complex_human_instruction": None} if name == "sana" else {}
    (image,) = stock("Cardiomegaly.", num_inference_steps=2, height=64, width=64, output_type="np", **plain).images
    assert image.shape == (64, 64, 3) and np.isfinite(image).all()
    model = load_model(tmp_path / "run" / "model")
    assert model.hash == result["model_hash"] and model.info.resolution == 64
    (picture,) = Generator(model, SamplerSettings(steps=2, sampler="dpm++"))([Request()], progress=False)
    assert picture.pixels.shape == (64, 64)
    denoiser = "transformer" if name == "sana" else "unet"
    before, after = (load_file(path / denoiser / "diffusion_pytorch_model.safetensors")
                     for path in (base, tmp_path / "run" / "model"))  # fmt: skip
    assert before.keys() == after.keys()
    changed = [key for key in before if not torch.allclose(before[key].float(), after[key].float(), atol=2e-3)]
    assert changed
    assert "image-text" not in (tmp_path / "run" / "model" / "README.md").read_text()
    check(PushConfig(model=tmp_path / "run" / "model", repository="a/b", public=True))  # its card has no blank


@pytest.mark.parametrize(
    "changes",
    [{}, {"lora": {"rank": 2}}, {"latents": "live", "text_encoder": True, "caption_dropout": 0.5, "noise_offset": 0.1}],
    ids=["full", "lora", "live-text"],
)
def test_stopped_training_ends_like_one_left_in_peace(folder, tiny_dataset, tmp_path, monkeypatch, changes):
    straight = config(folder("sd15"), tiny_dataset, tmp_path / "straight", **changes)
    run(straight)
    again = config(folder("sd15"), tiny_dataset, tmp_path / "again", **changes)
    stopped(again, 3, monkeypatch)
    newest = sorted((again.output / "base" / "checkpoints").iterdir())[-1]
    assert newest.name == "step-00000003"
    if not changes:  # broken, it costs the steps since the one before
        shard = next(newest.glob("*.safetensors"))
        shard.write_bytes(shard.read_bytes()[:-1] + b"\0\0")
    run(again)
    assert_same_end(straight.output, again.output)


def test_a_signal_ends_a_look_at_once(folder, tiny_dataset, tmp_path, monkeypatch):
    """Validation and a sheet may take minutes; what a signal allows is seconds."""
    straight, again = (
        config(folder("sd15"), tiny_dataset, tmp_path / name, validate_every=3) for name in ("straight", "again")
    )
    run(straight)
    assert sorted(path.name for path in (straight.output / "base" / "sheets").iterdir()) == [
        "step-00000003.png", "step-00000006.png"
    ]  # fmt: skip
    validate = BaseStage.validate

    def signalling(self: BaseStage, module: torch.nn.Module, device: torch.device) -> dict[str, float]:
        told = validate(self, module, device)
        os.kill(os.getpid(), signal.SIGTERM)
        return told

    with monkeypatch.context() as patch:
        patch.setattr(BaseStage, "validate", signalling)
        with pytest.raises(Interrupted, match="saved at step 3"):
            run(again)
    assert not (again.output / "base" / "sheets").exists()
    run(again)
    assert_same_end(straight.output, again.output)


@pytest.mark.parametrize(
    ("name", "text"), [("sd15", False), ("sd15", True), pytest.param("sdxl", True, marks=pytest.mark.slow)]
)
def test_adapters_are_a_standard_file_that_draws_our_pictures_in_a_stock_pipeline(
    folder, tiny_dataset, tmp_path, name, text
):
    """The base with the file, and the model with its adapters merged; alpha isn't the rank, so a lost scale shows."""
    base = folder(name)
    lora = {"rank": 2, "alpha": 8.0, "text_encoder": text}
    run(config(base, tiny_dataset, tmp_path / "run", lora=lora, steps=3, learning_rate=3e-2))
    state = latest_checkpoint(tmp_path / "run" / "base" / "checkpoints").tensors
    assert all("lora" in key for key in state if key.startswith("model/"))
    keys = load_file(tmp_path / "run" / "lora" / "pytorch_lora_weights.safetensors").keys()
    encoders = {"text_encoder", "text_encoder_2"} if name == "sdxl" else {"text_encoder"}
    assert {key.split(".")[0] for key in keys} == {"unet"} | (encoders if text else set())
    # As published CLIP keys begin, and as every other program than diffusers expects them.
    assert all(key.split(".")[1:3] == ["text_model", "encoder"] for key in keys if key.startswith("text_encoder"))
    stock = diffusers.DiffusionPipeline.from_pretrained(base, torch_dtype=torch.float32)
    plain = _drawn(stock)
    stock.load_lora_weights(tmp_path / "run" / "lora")
    merged = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "run" / "model", torch_dtype=torch.float32)
    merged.scheduler = stock.scheduler
    ours, theirs = _drawn(merged), _drawn(stock)
    gap, effect = np.abs(ours - theirs).max(), np.abs(plain - theirs).max()
    assert gap < 0.02 * effect, (gap, effect)  # the model's weights are float16
    said = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    told = [one.encode_prompt("Edema.", **said)[0] for one in (stock, merged)]
    assert torch.allclose(*told, atol=2e-2)
    assert _moved(load_model(base), load_model(tmp_path / "run" / "model"), "text_encoder") == (
        {"q_proj", "k_proj", "v_proj", "out_proj"} if text else set()
    )


def _drawn(pipeline: diffusers.DiffusionPipeline) -> np.ndarray:
    """Latents of one picture, before a random decoder squashes them."""
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    said = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 2.0, "negative_prompt": ""}
    return pipeline("Edema.", generator=noise, output_type="latent", **said).images.numpy()


def _moved(before: Model, after: Model, part: str) -> set[str]:
    """Which kinds of layers have other weights; float16 alone isn't another weight."""
    theirs = getattr(after.pipeline, part).state_dict()
    return {
        key.split(".")[-2]
        for key, value in getattr(before.pipeline, part).state_dict().items()
        if (value - theirs[key]).abs().max() > 5e-3
    }


def test_adapters_that_no_file_has_room_for_are_refused_before_training(folder, tiny_dataset, tmp_path):
    with pytest.raises(ModelError, match=r"base\.lora\.text_encoder = true: SanaPipeline"):
        run(config(folder("sana"), tiny_dataset, tmp_path / "run", lora={"rank": 2, "text_encoder": True}))
    assert not (tmp_path / "run" / "cache").exists()


def test_parts_of_a_batch_and_gradient_checkpointing_change_nothing(folder, tiny_dataset, tmp_path, caplog):
    whole = config(folder("sd15"), tiny_dataset, tmp_path / "whole", steps=2)
    parts = config(
        folder("sd15"), tiny_dataset, tmp_path / "parts", steps=2, accumulate=2, gradient_checkpointing=True,
        xformers=True, optimizer="adamw8bit",
    )  # fmt: skip
    run(whole), run(parts)
    for package, line in (("xformers", "xformers can't be loaded"), ("bitsandbytes", "8-bit Adam can't be loaded")):
        assert (line in caplog.text) == (importlib.util.find_spec(package) is None)
    ours, theirs = (latest_checkpoint(path / "base" / "checkpoints").tensors for path in (whole.output, parts.output))
    close = {name: torch.allclose(tensor, theirs[name], atol=1e-5) for name, tensor in ours.items() if "model/" in name}
    assert close and sum(close.values()) > 0.98 * len(close)


def test_flow_and_v_with_zero_terminal_snr_are_written_into_the_scheduler(folder, tiny_dataset, tmp_path):
    v = {"prediction": "v_prediction", "zero_terminal_snr": True, "min_snr": 5.0, "steps": 1}
    for name, changes in {"v": v, "flow": {"prediction": "flow_prediction", "flow_shift": 2.0, "steps": 1}}.items():
        run(config(folder("sd15"), tiny_dataset, tmp_path / name, **changes))
        model = load_model(tmp_path / name / "model")
        told = model.pipeline.scheduler.config
        assert told.prediction_type == changes["prediction"]
        (picture,) = Generator(model, SamplerSettings(steps=2, sampler="dpm++"))([Request()], progress=False)
        assert picture.pixels.shape == (64, 64)
        stock = diffusers.DiffusionPipeline.from_pretrained(tmp_path / name / "model", torch_dtype=torch.float32)
        (image,) = stock("Edema.", num_inference_steps=2, output_type="np").images
        assert np.isfinite(image).all()
        assert told.rescale_betas_zero_snr if name == "v" else told.flow_shift == 2.0


def test_what_a_step_is_computed_from_does_what_its_settings_say(folder, tiny_dataset, tmp_path):
    """Offset of the noise, empty captions, sizes and views, of the layout that has them all."""
    settings = config(folder("sdxl"), tiny_dataset, tmp_path, noise_offset=0.5, caption_dropout=0.5, batch_size=8)
    train, validation = (load_corpus([tiny_dataset], split, 64, 5, None) for split in ("train", "validate"))
    train = replace(train, native=np.arange(8) * 8 + 8)
    stage = BaseStage(settings, train, validation, load_model(folder("sdxl")).pipeline, Accelerator(cpu=True))
    own = stage.batch((0, 0, 1))
    stage.settings = settings.base.model_copy(update={"noise_offset": 0.0, "caption_dropout": 0.0})
    plain = stage.batch((0, 0, 1))
    shift = own.draws - plain.draws
    assert torch.equal(own.draws[:, 0], plain.draws[:, 0]) and shift[:, 1].flatten(2).std(2).max() < 1e-5
    assert 0.3 < shift[:, 1, :, 0, 0].std() < 0.7  # 32 draws of deviation 0.5
    silent = (own.prompts.tokens == embeddings(stage.told, [0]).tokens).flatten(1).all(1)
    assert 0 < silent.sum() < 8 and torch.equal(own.prompts.tokens[~silent], plain.prompts.tokens[~silent])
    assert {"PA", "AP"} == {
        word for prompt in stage.wordings.prompts for word in prompt.split() if word in ("PA", "AP")
    }
    assert own.sizes[:, 0].tolist() == train.native[own.images].tolist() and (own.sizes[:, 4:] == 64).all()
    with torch.no_grad():
        told = [stage.module(own.draws[:, 1], own.times, own.prompts, sizes) for sizes in (own.sizes, own.sizes * 2)]
    assert (told[0] - told[1]).abs().max() > 1e-3


def test_prompts_that_are_too_long_are_counted(folder, tiny_dataset, tmp_path, caplog):
    template = "{impression} " + "opacity " * 80 + "{age} year old."
    result = run(config(folder("sd15"), tiny_dataset, tmp_path / "run", steps=0, template=template))
    assert result["prompts"]["cut"] == result["prompts"]["prompts"] - 1  # the empty prompt is short
    assert "longer than the 77 tokens" in caplog.text


def test_a_loss_that_explodes_names_its_images(folder, tiny_dataset, tmp_path):
    with pytest.raises(RunError, match=r"base: the (loss|gradient) of step \d isn't finite; its images: drawn-\d\d"):
        run(config(folder("sd15"), tiny_dataset, tmp_path / "run", learning_rate=1e30))


def test_the_decoder_is_trained_alone_and_measured(folder, tiny_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("synthcxr.train.base_decoder.MIN_IMAGES", 1)
    decoder = {"steps": 4, "batch_size": 2, "crop": 32, "validation_images": 4, "learning_rate": 1e-2, "warmup": 1}
    result = run(config(folder("sd15"), tiny_dataset, tmp_path / "run", steps=0, decoder=decoder))
    told = result["decoder"]
    assert told["psnr"] > told["psnr_before"] and -1 <= told["ssim"] <= 1
    before, after = (load_model(path).pipeline.vae for path in (folder("sd15"), tmp_path / "run" / "model"))
    for part in ("encoder", "quant_conv"):
        theirs = getattr(after, part).state_dict()
        for key, value in getattr(before, part).state_dict().items():
            assert torch.allclose(value, theirs[key], atol=2e-3), key
    assert not torch.allclose(before.decoder.conv_out.weight, after.decoder.conv_out.weight, atol=2e-3)
    by_finding = json.loads((tmp_path / "run" / "decoder" / "result.json").read_text())
    assert by_finding["after"]["all"]["images"] == 2
    assert result["decoder, Cardiomegaly"]["images"] == 1
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    for name in ("PSNR (dB)", "SSIM", "SSIM of the busiest eighth of its squares"):
        for part in ("decoder", "decoder, Cardiomegaly"):
            assert f"| {part}: {name} before training on radiographs | " in card


def test_a_damaged_cache_part_is_made_again_alone(folder, tiny_dataset, tmp_path):
    settings = config(folder("sd15"), tiny_dataset, tmp_path / "one", steps=0)
    run(settings)
    (latents,) = [path for path in (tmp_path / "one" / "cache").glob("latents-*") if len(np.load(
        path / "00000" / "moments.npy", mmap_mode="r")) == 8]  # fmt: skip
    kept = np.load(latents / "00000" / "moments.npy")
    assert kept.shape == (8, 8, 8, 8) and kept.dtype == np.float16
    shutil.rmtree(latents / "00000")
    (settings.output / "result.json").unlink()
    run(settings)
    assert np.array_equal(np.load(latents / "00000" / "moments.npy"), kept)
