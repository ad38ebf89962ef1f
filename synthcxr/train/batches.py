"""Which samples a step sees, and in which words.

Everything here is a pure function of (seed, step), never of a process, a loader's state or what ran before: that is
what makes a resumed run, or one on other processes, see exactly the same samples.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from synthcxr.conditions import Condition, FindingState, to_prompt
from synthcxr.runs import derive_seed
from synthcxr.vocabulary import NIH_LABELS, Finding

NEGATABLE = tuple(finding for finding in NIH_LABELS.values() if finding is not Finding.NO_FINDING)


def step_rng(seed: int, purpose: str, step: int) -> np.random.Generator:
    """The generator of one purpose in one step."""
    return np.random.default_rng(derive_seed(seed, f"{purpose}/{step}"))


@lru_cache(maxsize=2)
def _epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng(derive_seed(seed, f"epoch/{epoch}")).permutation(count)


def batch_items(items: np.ndarray, seed: int, step: int, batch_size: int) -> np.ndarray:
    """The batch of one step, (batch_size,), out of an endless row of shuffled epochs: none is lost or repeated in one.

    Args:
        items: (n,) indices, with repeats for what shall come more often.
    """
    count = len(items)
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([items[_epoch_order(count, seed, int(p) // count)[p % count]] for p in positions])


def training_condition(
    condition: Condition,
    rng: np.random.Generator,
    caption_dropout: float = 0.0,
    part_dropout: float = 0.0,
    negatives: float = 0.0,
) -> Condition:
    """What is said of one image in one step: parts are left unsaid at random, or all of it.

    A labelled image may also be said not to have one or two of the findings that its labels leave out, so that
    the model learns the word "no". Images without any label (of unknown findings) never are.
    """
    drop, keep = rng.random(), rng.random(4) >= part_dropout
    negate, count = rng.random() < negatives, int(rng.integers(1, 3))
    others = [finding for finding in NEGATABLE if finding not in condition.findings]
    absent = rng.permutation(len(others))[:count]
    if drop < caption_dropout:
        return Condition()
    findings = dict(condition.findings)
    if negate and findings:
        findings |= {others[index]: FindingState(state="absent") for index in absent}
    return Condition(
        age=condition.age if keep[0] else None,
        sex=condition.sex if keep[1] else None,
        view=condition.view if keep[2] else None,
        findings=findings if keep[3] else {},
        race=condition.race,
        text=condition.text,
    )


def training_prompt(
    condition: Condition,
    template: str,
    rng: np.random.Generator,
    caption_dropout: float = 0.0,
    part_dropout: float = 0.0,
    negatives: float = 0.0,
) -> str:
    """`training_condition` as the canonical prompt; "" where nothing is said."""
    return to_prompt(training_condition(condition, rng, caption_dropout, part_dropout, negatives), template)


def share(batch: Sequence | np.ndarray, rank: int, processes: int) -> Sequence | np.ndarray:
    """One process's part of a batch of all processes."""
    return batch[rank::processes]
