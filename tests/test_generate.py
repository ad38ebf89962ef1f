"""Generator: a picture is a function of model, condition, seed and settings, whatever the batch."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from synthcxr import generate
from synthcxr.conditions import parse_prompt
from synthcxr.generate import Generator, Request, Stopped
from synthcxr.model.folder import Model, load_model
from synthcxr.model.sampler import USUAL, SamplerSettings

HEART, EFFUSION = "72 year old female. PA view. Cardiomegaly.", "40 year old male. Pleural effusion."
QUICK = SamplerSettings(sampler="sde-dpm++", steps=3, guidance=2.0)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


def requests(*prompts: str, seeds: Sequence[int] = (0,)) -> list[Request]:
    return [Request(condition=parse_prompt(prompt), seed=seed) for prompt in prompts for seed in seeds]


def pictures(model: Model, asked: list[Request], settings: SamplerSettings = QUICK, batch_size: int = 4) -> np.ndarray:
    drawn = Generator(model, settings, batch_size)(asked, progress=False)
    return np.stack([one.pixels for one in drawn]).astype(int)


@pytest.mark.parametrize("sampler", ["dpm++", "sde-dpm++", "ddim"])
def test_batch_size_changes_nothing(model: Model, sampler: str) -> None:
    settings = SamplerSettings(sampler=sampler, steps=4, guidance=3)
    asked = requests(HEART, EFFUSION, seeds=(0, 1)) + requests("", seeds=(5,))
    alone = pictures(model, asked, settings, batch_size=1)
    assert alone.std(axis=(1, 2)).min() > 1  # pictures, not a flat gray
    for batch_size in (2, 3, 8):
        # Sums in another order may move a value over a rounding edge: one gray level, which is 1/255.
        assert np.abs(pictures(model, asked, settings, batch_size) - alone).max() <= 1


def test_floats_agree_over_batch_sizes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(batch_size: int) -> np.ndarray:
        seen: list[np.ndarray] = []
        monkeypatch.setattr(generate, "from_float", lambda image: [seen.append(one) or one for one in image])
        list(Generator(model, QUICK, batch_size)(requests(HEART, EFFUSION, seeds=(0, 1)), progress=False))
        return np.stack(seen)

    assert np.abs(drawn(1) - drawn(4)).max() <= 1e-3


def test_what_was_drawn_before_changes_no_bit(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker that goes on after a kill would draw other bytes than one that drew all."""
    monkeypatch.setattr(generate, "REMEMBERED", 3)
    monkeypatch.setattr(generate, "from_float", lambda images: images)
    prompts = (HEART, EFFUSION, "Edema.", "60 year old male.", "", "Nodule.", EFFUSION)

    def drawn(generator: Generator, *asked: str) -> np.ndarray:
        return np.stack([one.pixels for one in generator(requests(*asked), progress=False)])

    straight = Generator(model, QUICK)
    drawn(straight, *prompts[:4])
    later = drawn(straight, *prompts[4:])
    assert (later == drawn(Generator(model, QUICK), *prompts[4:])).all() and len(straight._embedded) == 3
    assert (drawn(Generator(model, QUICK), *prompts)[4:] == later).all()


def test_pictures_depend_on_seed_prompt_sampler_and_guidance(model: Model) -> None:
    base = pictures(model, requests(HEART))
    variants = [
        pictures(model, requests(HEART, seeds=(1,))),
        pictures(model, requests(EFFUSION)),
        pictures(model, requests(HEART), SamplerSettings(steps=3, sampler="ddim")),
        pictures(model, requests(HEART), SamplerSettings(steps=3, guidance=8)),
        pictures(model, requests(HEART), SamplerSettings(steps=3, guidance=8, guided=0.5)),
        pictures(model, requests(HEART), SamplerSettings(steps=3, guidance=8, rescale=0.7)),
    ]
    assert all((one != other).any() for one, other in pairwise([base, *variants]))
    assert (pictures(model, requests(HEART)) == base).all()


def test_guidance_of_no_step_is_none_and_of_some_ends_there(model: Model) -> None:
    seen: list[int] = []
    watched = model.pipeline.unet.register_forward_pre_hook(lambda _module, given: seen.append(len(given[0])))
    try:
        half = pictures(model, requests(HEART), SamplerSettings(steps=4, guidance=3, guided=0.5))
        assert seen == [2, 2, 1, 1]  # with the empty prompt, then without
        again = pictures(model, requests(HEART), SamplerSettings(steps=4, guidance=3, guided=0.5))
    finally:
        watched.remove()
    assert (half == again).all()
    without = pictures(model, requests(HEART), SamplerSettings(steps=4, guidance=1))
    assert (pictures(model, requests(HEART), SamplerSettings(steps=4, guidance=3, guided=0)) == without).all()


def test_a_model_says_how_it_is_drawn_from(model: Model) -> None:
    own = replace(model, info=model.info.model_copy(update={"sampler": QUICK.over(USUAL)}))
    assert Generator(own).settings == QUICK.over(USUAL)
    assert Generator(own, SamplerSettings(steps=2)).settings == SamplerSettings(steps=2).over(QUICK.over(USUAL))
    assert (pictures(own, requests(HEART), SamplerSettings()) == pictures(model, requests(HEART))).all()


def test_any_range_of_seeds_can_be_made_alone(model: Model) -> None:
    four = pictures(model, requests(HEART, seeds=range(4)), batch_size=3)
    last = pictures(model, requests(HEART, seeds=(2, 3)), batch_size=3)
    assert np.abs(four[2:] - last).max() <= 1


def test_each_distinct_prompt_is_encoded_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    embed = generate.embed
    monkeypatch.setattr(
        generate, "embed", lambda pipeline, prompts: encoded.extend(prompts) or embed(pipeline, prompts)
    )
    list(Generator(model, QUICK, batch_size=2)(requests(HEART, EFFUSION, HEART, seeds=(0, 1)), progress=False))
    assert len(encoded) == len(set(encoded)) == 3  # two prompts and the empty one


def test_stop_ends_it_within_a_step(model: Model) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 4  # in the second picture: each takes three steps

    drawn = Generator(model, QUICK, batch_size=1)(requests(HEART, seeds=range(5)), progress=False, stop=stop)
    next(drawn)
    with pytest.raises(Stopped):
        next(drawn)
    assert asked == 5


def test_words_the_model_never_saw_are_left_out_and_named(model: Model) -> None:
    told, unseen = Generator(model).prompt(parse_prompt("72 year old female. Large right pleural effusion. Pacemaker."))
    assert told == "72 year old female. Right pleural effusion."
    assert unseen == ["large", "pacemaker"]
