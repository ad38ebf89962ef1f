"""Membership tests: nothing to see in a model that knows everybody or nobody, all to see in one that knows its own."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from base_folders import FOLDERS
from conftest import drawn_chest
from diffusers.configuration_utils import FrozenDict

from synthcxr.conditions import Condition
from synthcxr.evaluation.membership import Denoiser, Known, losses, membership, step_errors
from synthcxr.model.folder import Model, load_model


@pytest.fixture(scope="module")
def known() -> list[Known]:
    return [Known(drawn_chest(64, seed), Condition(age=30 + seed, sex="male"), 64) for seed in range(24)]


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return load_model(tiny_model)


class Knowing(torch.nn.Module):
    """A denoiser that knows what was shown to it with a prompt, and with other prompts sees nothing."""

    def __init__(self, denoiser: Denoiser, members: list[Known], kind: str):
        super().__init__()
        with torch.inference_mode():
            self.clean, self.prompts = denoiser.latents(members), denoiser.conditions(members)[0].tokens.flatten(1)
        self.levels, self.kind = denoiser.levels, kind
        self.config = denoiser.base.denoiser_of(denoiser.pipeline).config
        self.device, self.dtype = self.clean.device, self.clean.dtype

    def forward(
        self, x: torch.Tensor, t: torch.Tensor | None = None, encoder_hidden_states: torch.Tensor | None = None,
        timestep: torch.Tensor | None = None, **_: object,
    ) -> SimpleNamespace:  # fmt: skip
        alpha, sigma = self.levels(x, int((t if timestep is None else timestep)[0]))
        apart = (encoder_hidden_states.flatten(1)[:, None] - self.prompts[None]).abs().amax(2)
        near = apart.min(dim=1)
        x0 = torch.where((near.values < 1e-3)[:, None, None, None], self.clean[near.indices], torch.zeros_like(x))
        noise = (x - alpha * x0) / sigma.clamp_min(1e-4)  # of flow, nothing is noise at time 0
        told = {
            "v_prediction": alpha * noise - sigma * x0,
            "epsilon": noise,
            "sample": x0,
            "flow_prediction": noise - x0,
        }
        return SimpleNamespace(sample=told[self.kind])


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon", "sample", "flow_prediction"])
def test_a_perfect_denoiser_makes_no_error_whatever_it_predicts(model, known, monkeypatch, kind):
    said = {**model.pipeline.scheduler.config, "prediction_type": kind}
    if kind == "epsilon":  # noise alone tells none
        said["rescale_betas_zero_snr"] = False
    monkeypatch.setattr(model.pipeline.scheduler, "_internal_dict", FrozenDict(said))
    denoiser = Denoiser(model)
    monkeypatch.setattr(model.pipeline, "unet", Knowing(denoiser, known, kind))
    assert losses(denoiser, known, 0) == pytest.approx(0, abs=1e-4)
    assert step_errors(denoiser, known) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_base_that_is_trained_is_read(known, tmp_path, monkeypatch, name):
    """Its own denoiser gives errors; one that knows its own, in what the base tells, gives them away."""
    base = load_model(FOLDERS[name](tmp_path / name))
    errors = losses(Denoiser(base), known[:4], 0), step_errors(Denoiser(base), known[:4])
    assert all((part > 0).all() and np.isfinite(part).all() for part in errors)
    denoiser = Denoiser(base)
    knowing = Knowing(denoiser, known[:8], denoiser.objective.prediction)
    monkeypatch.setattr(base.pipeline, denoiser.base.denoiser, knowing)
    told = losses(denoiser, known[:16], 0)
    assert told[:8].max() < 1e-3 * told[8:].min()


def test_a_model_that_knows_its_own_gives_them_away(model, known, monkeypatch):
    denoiser = Denoiser(model)
    monkeypatch.setattr(model.pipeline, "unet", Knowing(denoiser, known[:12], "v_prediction"))
    monkeypatch.setattr("synthcxr.evaluation.membership.SECMI_STEPS", 4)
    scores = membership(model, known[:12], known[12:])
    assert scores[0].value > 0.9 and scores[0].low > 0.6 and scores[0].n == 12


def test_errors_do_not_depend_on_the_batch_or_the_order(model, known, monkeypatch):
    denoiser = Denoiser(model)
    errors = losses(denoiser, known[:6], 1), step_errors(denoiser, known[:6])
    assert all((part > 0).all() and part.shape == (6,) for part in errors)
    monkeypatch.setattr("synthcxr.evaluation.membership.BATCH", 4)
    turned = losses(denoiser, known[:6][::-1], 1)[::-1], step_errors(denoiser, known[:6][::-1])[::-1]
    for one, other in zip(errors, turned, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3)
