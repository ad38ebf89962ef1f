"""What a denoiser learns to tell: known answers, and solvers that invert it."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, PNDMScheduler

from synthcxr.errors import ModelError
from synthcxr.model.objective import objective_of, scheduler_for

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
X, NOISE = torch.randn(2, 6, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def objectives():
    plain = PNDMScheduler(**BETAS)
    v = scheduler_for(plain, "v_prediction", True, None)
    flow, sample = scheduler_for(plain, "flow_prediction", False, 3.0), PNDMScheduler(**BETAS)
    sample.register_to_config(prediction_type="sample")
    return {"epsilon": plain, "v": v, "flow": flow, "sample": sample}


@pytest.mark.parametrize("name", ["epsilon", "v", "flow", "sample"])
def test_what_is_told_gives_the_clean_latents_back(name):
    """x_0 from the prediction and x_t, as every sampler computes it."""
    objective = objective_of(objectives()[name])
    t = objective.times(torch.linspace(0.01, 0.9, 6))
    alpha, sigma = objective.levels(t)
    noisy, told = alpha * X + sigma * NOISE, objective.target(X, NOISE, alpha, sigma)
    back = {
        "epsilon": lambda: (noisy - sigma * told) / alpha,
        "v_prediction": lambda: alpha * noisy - sigma * told,
        "flow_prediction": lambda: noisy - sigma * told,
        "sample": lambda: told,
    }[objective.prediction]()
    assert torch.allclose(back, X, atol=1e-3)
    clean, noise = objective.split(noisy, told, alpha, sigma)
    assert torch.allclose(clean, X, atol=1e-3) and torch.allclose(noise, NOISE, atol=1e-3)


def test_alphas_are_those_of_stock_schedulers():
    scheduler = PNDMScheduler(**BETAS)
    assert torch.allclose(objective_of(scheduler).alphas_cumprod, scheduler.alphas_cumprod)
    zero = scheduler_for(scheduler, "v_prediction", True, None)
    assert isinstance(zero, DDIMScheduler) and objective_of(zero).alphas_cumprod[-1] == 0
    assert zero.config.timestep_spacing == "trailing"


def test_noise_alone_tells_no_epsilon():
    with pytest.raises(ModelError, match="v_prediction"):
        objective_of(scheduler_for(PNDMScheduler(**BETAS), None, True, None))


def test_min_snr_weights_of_epsilon_and_v():
    snr = torch.tensor([0.1, 5.0, 80.0])
    alpha, sigma = ((snr / (1 + snr)).sqrt().view(-1, 1, 1, 1), (1 / (1 + snr)).sqrt().view(-1, 1, 1, 1))
    schedulers = objectives()
    of_epsilon = objective_of(schedulers["epsilon"], 5.0).weight(alpha, sigma)
    of_v = objective_of(schedulers["v"], 5.0).weight(alpha, sigma)
    assert torch.allclose(of_epsilon, torch.tensor([1.0, 1.0, 5 / 80]))
    assert torch.allclose(of_v, torch.tensor([0.1 / 1.1, 5 / 6, 5 / 81]))
    assert torch.allclose(objective_of(schedulers["sample"], 5.0).weight(alpha, sigma), torch.tensor([0.1, 5.0, 5.0]))
    with pytest.raises(ModelError, match="min_snr"):
        objective_of(schedulers["flow"], 5.0)
    assert objective_of(schedulers["v"]).weight(alpha, sigma).tolist() == [1, 1, 1]


def test_times_of_flow_lean_to_noise_and_cover_their_strata():
    uniform = torch.rand(1000, generator=torch.Generator().manual_seed(1))
    plain = objective_of(DPMSolverMultistepScheduler(prediction_type="flow_prediction", flow_shift=1.0)).times(uniform)
    shifted = objective_of(FlowMatchEulerDiscreteScheduler(shift=3.0)).times(uniform)
    assert plain.median() == pytest.approx(500, abs=10) and shifted.median() == pytest.approx(750, abs=10)
    assert (plain.diff() >= 0).all() and 0 < plain.min() and shifted.max() < 1000
