"""From a condition to the words that one model was trained on, and on to its embeddings."""

from collections.abc import Collection, Iterable, Mapping

import torch
from diffusers import DiffusionPipeline

from synthcxr.conditions import Condition, FindingState, to_prompt, unseen_words
from synthcxr.model.bases import PromptEmbeddings, base_of
from synthcxr.vocabulary import Finding

RARE = 100  # training images of a finding, below which a user is told


def words_of(prompts: Iterable[str], ages: Collection[int]) -> tuple[str, ...]:
    """What a model trained on these prompts has seen: their words, and every age between the youngest and oldest."""
    words = set(unseen_words(" ".join(sorted(set(prompts))), ()))
    words = {word for word in words if not word.isdigit()}
    if ages:
        words |= {str(age) for age in range(min(ages), max(ages) + 1)}
    return tuple(sorted(words))


def understood(condition: Condition, template: str, words: Collection[str] | None) -> tuple[Condition, list[str]]:
    """The part of a condition that a model has words for, and the words it never saw.

    A word without training is noise to the model, so it's left out, never guessed at: a side or severity it never saw
    goes, a finding stays; a finding it never saw, or "no" where it never saw "no", goes whole.

    Args:
        words: lower case; None for a model of unknown vocabulary (any stock checkpoint), which is told everything.
    """
    if words is None:
        return condition, []
    known = set(words)
    missing = unseen_words(to_prompt(condition, template), known)

    def says(**fields: object) -> bool:
        return not unseen_words(to_prompt(Condition(**fields), template), known)

    findings: dict[Finding, FindingState] = {}
    for finding, state in condition.findings.items():
        for kept in (state, FindingState(state=state.state, side=state.side), FindingState(state=state.state)):
            if says(findings={finding: kept}):
                findings[finding] = kept
                break
    single = {name: getattr(condition, name) for name in ("age", "sex", "race", "view", "text")}
    kept_fields = {name: value for name, value in single.items() if value is None or says(**{name: value})}
    return Condition(findings=findings, **kept_fields), missing


def rare(condition: Condition, counts: Mapping[Finding, int] | None) -> dict[Finding, int]:
    """Findings of the condition that fewer than RARE training images showed, and how many; {} where nobody counted."""
    asked = [finding for finding, state in condition.findings.items() if state.state == "present"]
    return {f: counts.get(f, 0) for f in asked if counts.get(f, 0) < RARE} if counts is not None else {}


@torch.no_grad()
def embed(pipeline: DiffusionPipeline, prompts: list[str]) -> PromptEmbeddings:
    """Embeddings of prompts through the pipeline's own `encode_prompt`."""
    return base_of(pipeline).encode(pipeline, prompts, pipeline._execution_device)
