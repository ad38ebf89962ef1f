"""Guidance by findings and at one level: how far it leads, what it leaves alone, what it costs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from base_folders import FOLDERS

from synthcxr.conditions import parse_prompt
from synthcxr.errors import ModelError
from synthcxr.generate import Generator, Request, Stopped
from synthcxr.model.folder import Model, load_model
from synthcxr.model.sampler import USUAL, SamplerSettings

SAID, UNSAID = "72 year old female. PA view. Cardiomegaly.", "72 year old female. PA view."
HEALTHY = "40 year old male. No acute findings."
GUIDED = SamplerSettings(sampler="ddim", steps=4, guidance=3.0, guided=0.5).over(USUAL)
LED = SamplerSettings(finding_guidance=1.5).over(GUIDED)


@pytest.fixture(scope="module")
def opened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    root = tmp_path_factory.mktemp("layouts")
    return lambda name: load_model(tiny_model if name == "embedded" else FOLDERS[name](root / name))


def requests(*prompts: str) -> list[Request]:
    return [Request(condition=parse_prompt(prompt), seed=7) for prompt in prompts]


def after_one_step(model: Model, settings: SamplerSettings, *prompts: str) -> torch.Tensor:
    """Latents (b, channels, side, side)."""
    seen: list[torch.Tensor] = []
    generator = Generator(model, settings, len(prompts))
    list(generator(requests(*prompts), progress=False, observe=lambda step, latents: seen.append(latents.clone())))
    return seen[0]


def drawn(model: Model, settings: SamplerSettings, batch_size: int, *prompts: str) -> np.ndarray:
    generator = Generator(model, settings, batch_size)
    return np.stack([one.pixels for one in generator(requests(*prompts), progress=False)]).astype(int)


@pytest.mark.parametrize("layout", ["embedded", "sd15", "sdxl"])
def test_it_leads_by_its_share_of_the_way_from_the_prompt_without_findings(opened, layout):
    """DDIM's step is linear in what is told: at guidance g, two prompts end g times as far apart as they are told."""
    model = opened(layout)
    said, healthy, unsaid = after_one_step(model, GUIDED, SAID, HEALTHY, UNSAID)
    led, left, alike = after_one_step(model, LED, SAID, HEALTHY, UNSAID)
    way = (said - unsaid) * (LED.finding_guidance / GUIDED.guidance)
    assert way.abs().max() > 1e-4
    assert torch.allclose(led - said, way, atol=2e-5, rtol=1e-3)
    assert torch.allclose(left, healthy, atol=1e-5) and torch.allclose(alike, unsaid, atol=1e-5)


@pytest.mark.parametrize("layout", ["embedded", "sd15", "sdxl"])
@pytest.mark.parametrize("settings", [GUIDED, LED])
def test_to_keep_the_level_takes_the_means_from_guidance_and_nothing_else(opened, layout, settings):
    model = opened(layout)
    alone = after_one_step(model, GUIDED.model_copy(update={"guidance": 1.0}), SAID, HEALTHY)
    moved, kept = (
        after_one_step(model, settings.model_copy(update={"keep_level": keep}), SAID, HEALTHY) for keep in (False, True)
    )
    means = [latents.mean(dim=(2, 3), keepdim=True) for latents in (alone, moved, kept)]
    assert (means[1] - means[0]).abs().max() > 1e-4
    assert torch.allclose(means[2], means[0], atol=2e-5)
    assert torch.allclose(kept - means[2], moved - means[1], atol=2e-5)


def test_batch_size_changes_nothing_and_prompts_without_findings_stay(opened):
    model, prompts = opened("embedded"), (SAID, HEALTHY, "Pleural effusion.", "", SAID)
    alone = drawn(model, LED, 1, *prompts)
    for batch_size in (2, 5):
        assert np.abs(drawn(model, LED, batch_size, *prompts) - alone).max() <= 1
    without = drawn(model, GUIDED, 1, *prompts)
    same = [(one == other).all() for one, other in zip(alone, without, strict=True)]
    assert same == [False, True, False, True, False]


def test_only_guided_steps_of_prompts_with_findings_cost_more(opened):
    model, seen = opened("embedded"), []
    watched = model.pipeline.unet.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    try:
        drawn(model, LED, 3, SAID, HEALTHY, SAID)
        assert seen == [6, 2, 6, 2, 3, 3]
        seen.clear()
        drawn(model, LED, 1, HEALTHY)
        assert seen == [2, 2, 1, 1]
    finally:
        watched.remove()


def test_it_ends_with_the_picture_and_with_one_that_is_stopped(opened):
    model = opened("embedded")
    drawn(model, LED, 1, SAID)
    assert not model.pipeline.unet._forward_hooks
    with pytest.raises(Stopped):
        list(Generator(model, LED)(requests(SAID), progress=False, stop=lambda: True))
    assert not model.pipeline.unet._forward_hooks


def test_only_findings_that_are_there_are_led(opened):
    model, prompts = opened("embedded"), ("Possible cardiomegaly.", "No cardiomegaly.", "No acute findings.")
    assert (drawn(model, LED, 3, *prompts) == drawn(model, GUIDED, 3, *prompts)).all()


def test_where_it_cannot_be_it_says_so(opened):
    model = opened("embedded")
    with pytest.raises(ModelError, match=r"settings.finding_guidance = 1.5 needs guided steps; give a guidance"):
        Generator(model, SamplerSettings(guidance=1.0, finding_guidance=1.5))
    with pytest.raises(ModelError, match="needs guided steps"):
        SamplerSettings(sampler="few-step", finding_guidance=1.5).settled(GUIDED, 4)
    sana = opened("sana")
    for name, value in (("finding_guidance", 1.5), ("keep_level", True)):
        with pytest.raises(ModelError, match=rf"settings.{name} isn't there in models of this layout"):
            Generator(sana, GUIDED.model_copy(update={"sampler": "dpm++", name: value}))


def test_a_model_of_before_has_neither(opened):
    model = opened("embedded")
    before = model.info.sampler.model_copy(update={"finding_guidance": None, "keep_level": None})
    older = replace(model, info=model.info.model_copy(update={"sampler": before}))
    assert Generator(older).settings.finding_guidance == 0 and Generator(older).settings.keep_level is False


@pytest.mark.parametrize(
    "asked",
    [
        SamplerSettings(),
        SamplerSettings(guidance=1.0),
        SamplerSettings(guided=0.0),
        SamplerSettings(sampler="few-step"),
    ],
)
def test_settled_settings_settle_no_further(asked):
    """They go from one to the next: what draws a picture is recorded, and draws it again."""
    model = LED.model_copy(update={"keep_level": True})
    settled = asked.settled(model, 4)
    assert settled.settled(model, 4) == settled == settled.settled(USUAL, 4)
    guided = asked == SamplerSettings()
    assert (settled.finding_guidance, settled.keep_level) == ((1.5, True) if guided else (0.0, False))
