"""The few-step mode: a Gaussian's flow in closed form, an adapter that learns the rest, and drawing through both."""

import copy
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from test_denoiser import CHANNELS, SIDE, directed, stationary
from test_train import COMMON, DISTILLATION, set_up

from synthcxr.conditions import Condition
from synthcxr.data.corpus import load_corpus
from synthcxr.diffusion import alpha_sigma, image_noise
from synthcxr.errors import ModelError
from synthcxr.generate import Generator, Request
from synthcxr.model.denoiser import TIMESTEPS, Gaussian, after, build_scheduler
from synthcxr.model.folder import Model, load_model
from synthcxr.model.sampler import SamplerSettings
from synthcxr.train.config import TrainConfig
from synthcxr.train.distillation import DistillationStage, Student


@pytest.fixture(params=[stationary, directed])
def gaussian(request) -> Gaussian:
    rng = torch.Generator().manual_seed(0)
    made, _ = request.param(rng)
    made.mean.copy_(torch.randn(made.mean.shape, generator=rng))
    return made


def flowed(gaussian: Gaussian, seen: torch.Tensor, steps: int, tell) -> torch.Tensor:
    """Where DDIM in so many steps comes from pure noise, with v told by tell(seen, now, then)."""
    scheduler = DDIMScheduler.from_config(build_scheduler().config, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        now = alpha_sigma(build_scheduler().alphas_cumprod, t.reshape(1))
        seen = scheduler.step(tell(seen, now, after(t.reshape(1), TIMESTEPS // steps)), t, seen).prev_sample
    return seen


@pytest.mark.parametrize("steps", [1, 4, 10])
def test_secants_of_a_gaussian_end_where_its_flow_ends_in_any_number_of_steps(gaussian, steps):
    noise = torch.randn(5, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    # From noise of deviation 1 a direction grows to its own deviation: the flow's end in closed form.
    expected = gaussian.mean + gaussian._each_direction(noise, gaussian.loudness[None], gaussian.spectrum[None])
    assert torch.allclose(flowed(gaussian, noise, steps, gaussian.secant), expected, atol=2e-2)


def test_secants_over_short_ways_are_tangents(gaussian):
    seen = torch.randn(5, CHANNELS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([500])
    now = alpha_sigma(build_scheduler().alphas_cumprod, t)
    tangent = gaussian.v(seen, *now)
    far, near = ((gaussian.secant(seen, now, after(t, way)) - tangent).abs().max().item() for way in (100, 5))
    assert near < 0.1 * far and near < 0.02 * tangent.abs().max().item()


@pytest.fixture(scope="module")
def quick(tmp_path_factory, tiny_dataset) -> Model:
    """A tiny model with a few-step mode of two steps."""
    run = set_up(tmp_path_factory.mktemp("few"), tiny_dataset, classifier={"steps": 0}, contrastive={"steps": 0})
    assert run.train() == 0, run.said
    return load_model(run.path / "run" / "model")


REQUESTS = [Request(condition=Condition(age=40 + i, sex="female"), seed=i) for i in range(3)]
FEW = SamplerSettings(sampler="few-step")


def test_the_mode_draws_by_its_adapter_in_its_own_number_of_steps(quick):
    generator = Generator(quick, FEW)
    asked = generator.settings
    assert (asked.steps, asked.guidance, asked.guided_steps) == (2, 1.0, 0)
    seen = []
    pictures = [one.pixels for one in generator(REQUESTS, observe=lambda step, latents: seen.append(step))]
    assert seen == [1, 2]
    plain = [one.pixels for one in Generator(quick, SamplerSettings(sampler="ddim", steps=2, guidance=1))(REQUESTS)]
    assert not np.array_equal(pictures, plain)
    assert quick.pipeline.unet.few_steps is None  # the other mode's denoiser is as it was
    again = [one.pixels for one in Generator(quick, SamplerSettings(sampler="ddim", steps=2, guidance=1))(REQUESTS)]
    assert np.array_equal(plain, again)


def test_a_picture_of_the_mode_is_the_same_in_any_batch(quick):
    one, three = ([picture.pixels for picture in Generator(quick, FEW, batch_size=n)(REQUESTS)] for n in (1, 3))
    assert np.abs(np.array(one, float) - np.array(three, float)).max() <= 1


def test_the_adapter_is_a_file_of_the_stock_form(quick):
    pipeline = load_model(quick.folder).pipeline
    pipeline.load_lora_weights(quick.folder / "few_step")
    pipeline.unet.few_steps = 2
    ours, noise = quick.few_step.unet, image_noise([0], (4, 4, 4))
    told = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
    t, words = torch.tensor([999]), torch.ones(1, 16, 32)
    with torch.no_grad():
        assert torch.allclose(
            pipeline.unet(noise, t, words, added_cond_kwargs=told).sample,
            ours(noise, t, words, added_cond_kwargs=told).sample, atol=1e-5,
        )  # fmt: skip


def test_what_the_mode_cannot_do_is_said(quick):
    with pytest.raises(ModelError, match="settings.steps = 9.*takes 2"):
        Generator(quick, SamplerSettings(sampler="few-step", steps=9))
    settings = SamplerSettings(sampler="few-step")
    with pytest.raises(ModelError, match="distillation.steps"):
        settings.settled(quick.info.sampler, None)


def test_a_damaged_adapter_is_named(quick, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(quick.folder, copy)
    (copy / "few_step" / "pytorch_lora_weights.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="few_step"):
        Generator(load_model(copy), FEW)


def test_the_mode_is_the_usual_one_where_the_model_says_so_and_nothing_else_is_asked(quick, tmp_path):
    folder = shutil.copytree(quick.folder, tmp_path / "model")
    said = json.loads((folder / "synthcxr.json").read_text())
    (folder / "synthcxr.json").write_text(json.dumps(said | {"quick": True}))
    usual = load_model(folder)
    assert Generator(usual).settings == Generator(quick, FEW).settings
    for asked in (SamplerSettings(steps=3), SamplerSettings(guidance=2.0), SamplerSettings(sampler="ddim")):
        assert Generator(usual, asked).settings == Generator(quick, asked).settings == asked.over(quick.info.sampler)
    assert Generator(quick).settings == quick.info.sampler
    assert usual.hash == quick.hash  # it's the same model, before and after the choice


def test_the_students_own_way_is_what_is_drawn_and_what_is_measured_against_the_teachers(quick, tiny_dataset, tmp_path):
    config = TrainConfig(
        data=(tiny_dataset.path,), output=tmp_path, resolution=64, distillation={**COMMON, **DISTILLATION}
    )
    corpora = [load_corpus([tiny_dataset], split, 64, config.per_patient, tmp_path) for split in ("train", "validate")]
    stage = DistillationStage(config, *corpora, quick, tmp_path, quick.folder / "few_step")
    seeds, conditions = range(len(stage.ways)), stage.conditions
    noise = image_noise(seeds, stage.ways.shape[2:])
    reached = stage._walk(stage.module, noise, conditions)
    own = torch.cat([noise[:, None], reached.detach()], dim=1).numpy()
    drawn = {}
    requests = [Request(condition=condition, seed=seed) for condition, seed in zip(conditions, seeds, strict=True)]
    list(Generator(quick, FEW, len(requests))(requests, observe=lambda step, latents: drawn.update({step: latents})))
    assert sorted(drawn) == [1, 2]
    for step, latents in drawn.items():
        assert np.allclose(own[:, step], latents.numpy(), atol=5e-3)
    cpu = torch.device("cpu")
    stage.ways = own
    assert stage.loss(stage.module, 0, 0, 1, cpu) < 1e-9
    stage.ways = own.copy()
    stage.ways[:, 1] += 0.5  # the teacher was elsewhere after the first of two steps, which leads the student nowhere
    whole = stage.loss(stage.module, 0, 0, 1, cpu).item()
    assert whole == pytest.approx(0.5**2 / 2, rel=1e-3)
    stage.ways[0] += 1
    shares = [stage.loss(stage.module, 0, rank, 2, cpu).item() for rank in (0, 1)]
    assert np.mean(shares) == pytest.approx(stage.loss(stage.module, 0, 0, 1, cpu).item(), rel=1e-5)
    # What the first step does wrong counts at the end too.
    begin = noise.clone().requires_grad_()
    assert torch.autograd.grad(stage._walk(stage.module, begin, conditions)[:, -1].sum(), begin)[0].any()


def test_a_students_steps_stay_on_its_device(quick, monkeypatch):
    """Shown on the device of shapes alone, which refuses tensors of another one as a GPU does."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # it knows none
    parts = copy.deepcopy((quick.pipeline.unet, quick.pipeline.text_encoder_2))
    noise, tokens = torch.empty(3, *latent_shape(quick), device="meta"), torch.ones(3, 16, dtype=torch.long)
    reached = Student(*parts, 2).to("meta")(noise, tokens.to("meta"), torch.empty(3, 6, device="meta"))
    assert reached.shape == (3, 2, *latent_shape(quick)) and reached.device.type == "meta"


def latent_shape(model: Model) -> tuple[int, int, int]:
    config = model.pipeline.unet.config
    return config.in_channels, config.sample_size, config.sample_size


def test_distillation_goes_on_from_the_adapter_of_its_start(quick, tiny_dataset, tmp_path):
    still = {
        stage: {"steps": 0}
        for stage in ("autoencoder", "detail", "few_detail", "denoiser", "classifier", "contrastive")
    }
    little = {**COMMON, **DISTILLATION, "steps": 1, "learning_rate": 1e-9}
    run = set_up(tmp_path / "next", tiny_dataset, start=str(quick.folder), **still, distillation=little)
    assert run.train() == 0, run.said
    name = "few_step/pytorch_lora_weights.safetensors"
    before, after = (load_file(folder / name) for folder in (quick.folder, run.path / "run" / "model"))
    assert before.keys() == after.keys() and any("lora_B" in key and part.any() for key, part in before.items())
    assert all(torch.allclose(before[key].float(), after[key].float(), atol=1e-5) for key in before)
    other = set_up(
        tmp_path / "other", tiny_dataset, start=str(quick.folder), **still, distillation={**little, "rank": 3}
    )
    assert other.train() == 0 and "distillation begins anew: the adapter in" in other.said
