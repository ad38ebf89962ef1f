"""How pictures are drawn from a model: settings, and diffusers' samplers for them."""

import math
from typing import Literal

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, SchedulerMixin
from pydantic import Field

from synthcxr.config import Config
from synthcxr.errors import ModelError

SamplerName = Literal["dpm++", "sde-dpm++", "ddim", "few-step"]


class SamplerSettings(Config):
    """How pictures are drawn from a model; what isn't given is as the model's own settings say.

    `dpm++` is the second-order multistep solver of Lu et al. 2022 (DPM-Solver++), `ddim` that of Song et al. 2021
    without noise; both are deterministic once the initial noise is drawn. `sde-dpm++` is the former with fresh noise
    in each step, which comes from the picture's seed too: it wants more steps, and what the model got wrong in one of
    them it may mend in the next. `few-step` is the mode of models that learned one (model.few_step): DDIM through their
    adapter, in a number of steps that is theirs, without guidance.
    """

    sampler: SamplerName | None = None
    steps: int | None = Field(None, ge=1, le=1000)
    guidance: float | None = Field(None, ge=1, le=30, description="classifier-free guidance; 1 switches it off")
    guided: float | None = Field(
        None, ge=0, le=1, description="share of the steps, from the first on, that are guided (Kynkaanniemi et al. "
        "2024: guidance at low noise adds nothing); the others cost half; all of them where the layout allows no end",
    )  # fmt: skip
    rescale: float | None = Field(
        None, ge=0, le=1, description="how far guidance's contrast is taken back (Lin et al. 2024, eq. 16), "
        "by a factor: levels move with it",
    )  # fmt: skip
    finding_guidance: float | None = Field(
        None, ge=0, le=30, description="in guided steps of prompts that have a finding present: how often the way to "
        "the prompt from the same one without any is gone once more (see model.guidance), half as dear again; 0: not",
    )  # fmt: skip
    keep_level: bool | None = Field(
        None, description="guidance leaves the mean of each channel of latents as the prompt alone has it, so that "
        "pictures get neither lighter nor darker by it",
    )  # fmt: skip

    @property
    def guided_steps(self) -> int:
        """How many steps are guided, of settings that are all given: each evaluates the network twice at least."""
        return math.ceil(self.guided * self.steps) if self.guidance > 1 else 0

    def over(self, others: "SamplerSettings") -> "SamplerSettings":
        """These settings, and where they say nothing, the others."""
        return others.model_copy(update=self.model_dump(exclude_none=True))

    def settled(self, others: "SamplerSettings", few_steps: int | None, quick: bool = False) -> "SamplerSettings":
        """All of them, of a model whose own settings are `others` and whose few-step mode takes `few_steps`.

        Args:
            quick: where nothing is asked, that mode is meant.

        Raises:
            ModelError: the few-step mode of a model that has none, or in another number of steps; guidance by findings
                where nothing is guided.
        """
        asked = SamplerSettings(sampler="few-step") if quick and self == SamplerSettings() else self
        settings = asked.over(others).over(USUAL)
        if settings.sampler == "few-step":
            if few_steps is None:
                raise ModelError(
                    "settings.sampler = 'few-step' needs a model that learned it (distillation.steps); give dpm++"
                )
            if self.steps not in (None, few_steps):
                raise ModelError(
                    f"settings.steps = {self.steps}: sampler 'few-step' of this model takes {few_steps}; leave it out"
                )
            settings = settings.model_copy(update={"steps": few_steps, "guidance": 1.0, "guided": 0.0, "rescale": 0.0})
        if settings.guided_steps:
            return settings
        if self.finding_guidance:
            raise ModelError(
                f"settings.finding_guidance = {self.finding_guidance:g} needs guided steps; give a guidance above 1, "
                "guided above 0, and a sampler other than few-step"
            )
        return settings.model_copy(update={"finding_guidance": 0.0, "keep_level": False})


# Of models that say nothing of themselves, as stock checkpoints.
USUAL = SamplerSettings(
    sampler="dpm++", steps=25, guidance=4.0, guided=1.0, rescale=0.0, finding_guidance=0.0, keep_level=False
)


def build_sampler(name: SamplerName, schedule: SchedulerMixin) -> SchedulerMixin:
    """A fresh sampler over the noise schedule that a model was trained with.

    Raises:
        ModelError: the model's schedule isn't one these samplers run on.
    """
    if not hasattr(schedule, "betas"):
        raise ModelError(f"sampler {name!r} doesn't run on the schedule of this model ({type(schedule).__name__})")
    if name in ("ddim", "few-step"):
        if schedule.config.get("prediction_type") == "flow_prediction":
            raise ModelError(f"sampler {name!r} doesn't draw from a model that tells flow; give dpm++ or sde-dpm++")
        return DDIMScheduler.from_config(schedule.config, clip_sample=False, set_alpha_to_one=True)
    algorithm = "sde-dpmsolver++" if name == "sde-dpm++" else "dpmsolver++"
    return DPMSolverMultistepScheduler.from_config(
        schedule.config, algorithm_type=algorithm, solver_order=2, final_sigmas_type="zero"
    )
