"""What a denoiser tells, and over which noise: epsilon, v, flow or x_0, by the schedule of a stock scheduler."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, SchedulerMixin

from synthcxr.diffusion import alpha_sigma, min_snr_weight, stratified, stratified_timesteps, v_target
from synthcxr.errors import ModelError

Prediction = Literal["epsilon", "v_prediction", "flow_prediction", "sample"]
STEPS = 1000
TINY = 1e-4  # least share of latents or noise that is divided by


@dataclass(frozen=True)
class Objective:
    """x_t = alpha x_0 + sigma eps; alpha^2 + sigma^2 = 1, but for flow: alpha + sigma = 1.

    Attributes:
        alphas_cumprod: alpha^2 at each of the 1000 timesteps; None for flow.
        shift: of flow, how far times lean to noise (Esser et al. 2024, eq. 23).
        min_snr: gamma of min-SNR weighting; None: every timestep alike.
    """

    prediction: Prediction
    alphas_cumprod: torch.Tensor | None
    shift: float = 1.0
    min_snr: float | None = None

    def times(self, uniform_b: torch.Tensor) -> torch.Tensor:
        """Times (b,), one in each of b equal strata: timesteps in [0, 1000); for flow, 1000 sigma.

        Flow's are logit-normal, then shifted (Esser et al. 2024, sections 3.1 and 5.3.2).
        """
        if self.alphas_cumprod is not None:
            return stratified_timesteps(uniform_b, len(self.alphas_cumprod))
        sigma = torch.special.ndtri(stratified(uniform_b).clamp(1e-6, 1 - 1e-6)).sigmoid()
        return (STEPS * self.shift * sigma / (1 + (self.shift - 1) * sigma)).float()

    def levels(self, t_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha and sigma at these times, each (b, 1, 1, 1)."""
        if self.alphas_cumprod is not None:
            return alpha_sigma(self.alphas_cumprod, t_b)
        sigma = (t_b / STEPS).view(-1, 1, 1, 1)
        return 1 - sigma, sigma

    def target(
        self, x_bchw: torch.Tensor, noise_bchw: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """What should be told: the noise; v; x_0; or the flow eps - x_0 (Liu et al. 2023, eq. 1)."""
        match self.prediction:
            case "epsilon":
                return noise_bchw
            case "v_prediction":
                return v_target(x_bchw, noise_bchw, alpha, sigma)
            case "sample":
                return x_bchw
            case "flow_prediction":
                return noise_bchw - x_bchw

    def split(
        self, x_t: torch.Tensor, told: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents and noise, as one who tells this sees them in x_t (Salimans and Ho 2022, appendix D)."""
        match self.prediction:
            case "epsilon":
                return (x_t - sigma * told) / alpha.clamp_min(TINY), told
            case "v_prediction":
                return alpha * x_t - sigma * told, sigma * x_t + alpha * told
            case "sample":
                return told, (x_t - alpha * told) / sigma.clamp_min(TINY)
            case "flow_prediction":
                return x_t - sigma * told, x_t + alpha * told

    def weight(self, alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Weights of the squared error, (b,): for x_0, min(SNR, gamma) (Hang et al. 2023, eq. 6); for others alike."""
        if self.min_snr is None:
            return torch.ones(len(alpha), device=alpha.device)
        of_v = min_snr_weight(alpha, sigma, self.min_snr)
        # With alpha^2 + sigma^2 = 1, SNR + 1 = 1 / sigma^2; v's error is epsilon's over alpha^2 and x_0's over sigma^2.
        over = {"epsilon": alpha.square(), "sample": sigma.square()}.get(self.prediction, 1.0)
        return (of_v / over).flatten()


def objective_of(scheduler: SchedulerMixin, min_snr: float | None = None) -> Objective:
    """What a model with this scheduler was trained to tell.

    Raises:
        ModelError: it tells something else, or its weights would be infinite.
    """
    config = scheduler.config
    flow = config.get("prediction_type") == "flow_prediction" or "FlowMatch" in type(scheduler).__name__
    if flow:
        if min_snr is not None:
            raise ModelError("base.min_snr is for epsilon, v and x_0; leave it out for a model that tells flow")
        return Objective("flow_prediction", None, config.get("flow_shift", config.get("shift", 1.0)))
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in get_args(Prediction):
        raise ModelError(f"what a model tells as {prediction!r} isn't known; give one of epsilon, v, flow or sample")
    zero = bool(config.get("rescale_betas_zero_snr"))
    if zero and prediction == "epsilon":
        raise ModelError("base.zero_terminal_snr goes with base.prediction=v_prediction: noise alone tells no epsilon")
    schedule = DDPMScheduler.from_config(config, rescale_betas_zero_snr=zero)
    return Objective(prediction, schedule.alphas_cumprod, min_snr=min_snr)


def scheduler_for(
    scheduler: SchedulerMixin, prediction: Prediction | None, zero_terminal_snr: bool | None, shift: float | None
) -> SchedulerMixin:
    """The stock scheduler that draws from a model so trained; None: as it was.

    A change to flow brings a solver of flow along, and zero terminal SNR one that can begin at pure noise.
    """
    config = scheduler.config
    if prediction == "flow_prediction" or (prediction is None and config.get("prediction_type") == "flow_prediction"):
        changes = {} if shift is None else {"flow_shift": shift}
        return DPMSolverMultistepScheduler.from_config(
            config, prediction_type="flow_prediction", use_flow_sigmas=True, **changes
        )
    told = {"prediction_type": prediction or config.get("prediction_type", "epsilon")}
    if zero_terminal_snr:
        trailing = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
        return DDIMScheduler.from_config(config, **told, **trailing, set_alpha_to_one=True)
    return type(scheduler).from_config(config, **told)
