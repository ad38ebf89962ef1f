"""The Frechet distance that training follows, the rows it compares, and the pictures it follows it through."""

import numpy as np
import pytest
import torch
from test_few_step import FEW, REQUESTS, quick  # noqa: F401 (a fixture)
from test_train import set_up

from synthcxr.conditions import Condition, to_prompt
from synthcxr.diffusion import image_noise
from synthcxr.evaluation.fidelity import frechet_distance
from synthcxr.generate import Generator
from synthcxr.images import from_float
from synthcxr.model.classifier import LABELS, ClassifierShape, build_classifier
from synthcxr.train.matching import MatchingModule, Reference, Rows, features


def drawn(seed: int, count: int = 400, width: int = 5) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((count, width)) @ rng.standard_normal((width, width)))


def test_the_distance_is_the_one_that_pictures_are_scored_by():
    one, other = drawn(0), drawn(1) + 0.5
    expected = frechet_distance(one.numpy(), other.numpy()) / one.shape[1]
    assert Reference(one).distance(other).item() == pytest.approx(expected, rel=5e-3)  # but for the ridge
    assert Reference(one).distance(one).item() == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([1.0, 0, 0, 2, 0])
    assert Reference(one).distance(one + shift).item() == pytest.approx(5 / 5)


def test_its_gradient_is_that_of_differences_even_where_rows_span_few_dimensions():
    reference, rows = Reference(drawn(0)), drawn(1, count=4).requires_grad_(True)
    reference.distance(rows).backward()
    for place in ((0, 0), (2, 3)):
        step = torch.zeros_like(rows)
        step[place] = 1e-5
        with torch.no_grad():
            slope = (reference.distance(rows + step) - reference.distance(rows - step)) / 2e-5
        assert rows.grad[place].item() == pytest.approx(slope.item(), rel=1e-4)


def test_following_it_gives_rows_the_mean_and_covariance_of_the_reference():
    real = drawn(0)
    reference, rows = Reference(real), drawn(1).requires_grad_(True)
    optimizer = torch.optim.Adam([rows], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        reference.distance(rows).backward()
        optimizer.step()
    told = rows.detach()
    assert torch.allclose(told.mean(0), real.mean(0), atol=0.02)
    assert torch.allclose(told.T.cov(), real.T.cov(), atol=0.05 * real.T.cov().abs().max().item())


def test_what_is_not_said_counts_as_the_mean_and_each_column_has_its_own_scale():
    conditions = [Condition(age=20 + i, sex=("male", "female")[i % 2], findings=["No Finding"]) for i in range(60)]
    seen = drawn(3, count=60).float()
    rows = Rows(seen, conditions, weight=3.0)
    told = rows(seen, conditions)
    assert torch.allclose(told[:, :5].std(0), torch.ones(5), atol=1e-5)
    age, male, ap = (5 + LABELS.index(name) for name in ("age", "male", "AP"))
    assert told[:, [age, male]].std(0, unbiased=False) == pytest.approx([3.0, 3.0], rel=1e-4)
    assert (told[:, ap] == 0).all()  # said of none
    silent = rows(seen[:1], [Condition()])
    assert (silent[0, 5:] == 0).all() and torch.equal(silent[0, :5], told[0, :5])


def test_pictures_that_are_trained_are_those_that_the_mode_draws(quick):  # noqa: F811
    expected = np.stack([one.pixels for one in Generator(quick, FEW)(REQUESTS)])
    pipeline, size = quick.pipeline, float(quick.info.resolution)
    torch.manual_seed(0)
    critic = build_classifier(ClassifierShape(size=32, channels=(8, 8, 8, 16), depths=(1, 1, 1, 1)))
    module = MatchingModule(quick.few_step.unet, pipeline.text_encoder_2, pipeline.vae, critic).train()
    assert module.unet.training and not critic.training
    words = [to_prompt(request.condition, quick.info.template) for request in REQUESTS]
    tokens = pipeline.tokenizer_2(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
    noise = image_noise([request.seed for request in REQUESTS], (4, 4, 4))
    sizes = torch.tensor([[size, size, 0, 0, size, size]]).repeat(len(words), 1)
    module.eval()
    with torch.no_grad():
        pixels = module.pictures(noise, tokens, sizes)
        assert torch.allclose(module(noise, tokens, sizes), features(critic, pixels), atol=1e-5)
    assert np.abs(from_float(pixels[:, 0].numpy()).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"critic": {"steps": 0}}, "critic.steps"),
        ({"distillation": {"steps": 0}}, "matching.steps = 8 goes on with a few-step adapter"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_trained(tiny_dataset, tmp_path, changes, said):
    run = set_up(tmp_path, tiny_dataset, **changes)
    assert run.train() == 2 and said in run.said
    assert not (run.path / "run").exists()
