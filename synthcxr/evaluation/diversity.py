"""How unlike each other the pictures of one prompt are, beside real pictures of different patients of one kind."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from synthcxr.data.record import Record
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_mean
from synthcxr.evaluation.scores import Score, eval_module
from synthcxr.images import to_float

WINDOW = 11  # pixels of the Gaussian window
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales (Wang et al. 2003)
PAIRS = 5  # of a prompt, at most


def ms_ssim(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(n,) multi-scale structural similarity (Wang, Simoncelli and Bovik 2003) of square images of one size.

    Five scales, as published, from 176 pixels on; of smaller images as many as fit, weighted as before.
    """
    module = eval_module("torchmetrics.functional.image")
    told = []
    for one, other in pairs:
        both = [torch.from_numpy(to_float(image))[None, None] / 2 + 0.5 for image in (one, other)]
        scales = sum(one.shape[0] >= (WINDOW - 1) * 2**level + 1 for level in range(len(BETAS)))
        betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
        similarity = module.multiscale_structural_similarity_index_measure
        told.append(float(similarity(*both, data_range=1.0, betas=betas, normalize="relu")))
    return np.array(told)


def pairs_within(keys: Sequence[object], units: Sequence[object], most: int, seed: int = 0) -> list[tuple[int, int]]:
    """Random pairs of rows with the same key and of different units: at most PAIRS a key, at most `most` in all."""
    rng = np.random.default_rng(seed)
    rows: dict[object, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    found = []
    for own in rows.values():
        order = [own[place] for place in rng.permutation(len(own))]
        chosen = zip(order[::2], order[1::2], strict=False)
        found += [pair for pair in chosen if units[pair[0]] != units[pair[1]]][:PAIRS]
    return [found[place] for place in np.sort(rng.permutation(len(found))[:most])]


def kind_of(record: Record) -> tuple[object, ...]:
    """What real images must share to stand in for pictures of one prompt: findings, sex, view and decade of age."""
    condition = record.condition
    decade = None if condition.age is None else condition.age // 10
    return (frozenset(record.present), condition.sex, condition.view, decade)


def similarity_within(name: str, values: np.ndarray, keys: np.ndarray, seed: int = 0) -> Score:
    """The mean similarity of pairs (n,), its interval by prompts: lower is more varied, down to that of real pairs."""
    draws = weighted_mean(values, cluster_weights(keys, seed=seed))
    return bootstrap_score(name, values.mean(), draws, len(values), "lower")
