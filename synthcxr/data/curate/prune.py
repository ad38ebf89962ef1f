"""Which images carry the information: the dense is thinned, the rare kept, and what is kept stands for the rest.

The images are clustered by their features, and within a cluster an image is redundant if another that is kept lies
near enough: SemDeDup (Abbas et al. 2023, "Data-efficient learning at web-scale through semantic deduplication"). Near
enough is what leaves the share that was asked for. Whom to keep is decided farthest first (Gonzalez 1985; as a choice
of training data: Sener and Savarese 2018): each next image is the one farthest from those kept before it, so that a
smaller share keeps a subset of a larger one. Images with a rare finding stand aside: they are kept first and stand for
each other alone, or else the weights would make the rare common.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthcxr.data.curate.config import PruneConfig
from synthcxr.data.record import Record
from synthcxr.errors import UserError
from synthcxr.vocabulary import FINDING_ORDER, Finding

Verdict = Literal["kept", "redundant", "patient cap"]
_BLOCK = 1024
_SHARERS = 5
_CLUSTER = 25  # images; in larger ones the middle stands for too many


@dataclass(frozen=True)
class Pruned:
    """What was decided of each of n images.

    Attributes:
        verdict: n of them.
        cluster: (n,) numbers of clusters, from 0.
        spacing: (n,) cosine distance to the nearest image that came before it in its cluster; infinite for the first,
            and for images with a rare finding.
        rare: the rarest finding for which it's kept first, or None.
        stand_in: (n,) the index of the nearest kept image of its cluster and rare finding; its own where it's kept.
        weight: (n,) how many images a kept one stands for, itself included; 0 for the others. The sum is n. An image
            that goes is shared between the nearest _SHARERS: else the middle of a cluster, near to all, would stand for
            nearly all of it, and the weighted images would say as little as a fifth of them.
    """

    verdict: list[Verdict]
    cluster: np.ndarray
    spacing: np.ndarray
    rare: list[Finding | None]
    stand_in: np.ndarray
    weight: np.ndarray


def prune(records: Sequence[Record], features: np.ndarray, config: PruneConfig, seed: int) -> Pruned:
    """Keep `config.share` of the images.

    All images with a rare finding are kept, even beyond the share; only the cap per patient goes before that.

    Args:
        features: (n, d), of which angles about the mean count.
    """
    if not records:
        empty = np.zeros(0)
        return Pruned([], empty.astype(np.int64), empty, [], empty.astype(np.int64), empty)
    vectors = _directions(features)
    cluster = _cluster(vectors, config.clusters or -(-len(records) // _CLUSTER), seed)
    rare = rare_findings(records, config.rare)
    kind = np.array([-1 if finding is None else FINDING_ORDER[finding] for finding in rare])
    spacing = np.full(len(records), np.inf)
    for members in _groups(cluster):
        common = members[kind[members] < 0]
        spacing[common] = farthest_first(vectors[common])
    verdict = _verdicts(records, spacing, rare, config)
    stand_in, weight = _stand_ins(vectors, cluster, kind, np.array([word == "kept" for word in verdict]))
    return Pruned(verdict, cluster, spacing, rare, stand_in, weight)


def rare_findings(records: Sequence[Record], share: float) -> list[Finding | None]:
    """Of each image, the rarest of its present findings that less than `share` of the images have; None for none."""
    counts = Counter(finding for record in records for finding in record.present)
    rare = {finding for finding, count in counts.items() if count < share * len(records)}
    return [
        min(record.present & rare, key=lambda finding: (counts[finding], FINDING_ORDER[finding]), default=None)
        for record in records
    ]


def farthest_first(vectors: np.ndarray) -> np.ndarray:
    """(n,) the cosine distance from each to those before it, in the order in which each next one is the farthest.

    The first is the one nearest to the mean; its distance is infinite.

    Args:
        vectors: (n, d) of length 1.
    """
    spacing = np.full(len(vectors), np.inf)
    if not len(vectors):
        return spacing
    index = int(np.argmax(vectors @ vectors.mean(axis=0)))
    distance = np.full(len(vectors), np.inf)
    for _ in range(len(vectors)):
        spacing[index] = max(0.0, float(distance[index]))
        distance = np.minimum(distance, 1 - vectors @ vectors[index])
        distance[index] = -np.inf
        index = int(np.argmax(distance))
    return spacing


def _directions(features: np.ndarray) -> np.ndarray:
    centred = np.asarray(features, dtype=np.float32)
    centred = centred - centred.mean(axis=0)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    try:
        from sklearn.cluster import MiniBatchKMeans
    except ImportError as error:
        raise UserError('pruning needs scikit-learn: pip install "synthcxr[eval]"') from error
    clusters = min(clusters, len(np.unique(vectors, axis=0)))
    return (
        MiniBatchKMeans(clusters, batch_size=_BLOCK, n_init=3, random_state=seed).fit_predict(vectors).astype(np.int64)
    )


def _verdicts(
    records: Sequence[Record], spacing: np.ndarray, rare: Sequence[Finding | None], config: PruneConfig
) -> list[Verdict]:
    """Rare findings first, the rarest of them before others; then whatever is farthest from what is kept."""
    counts = Counter(rare)
    order = sorted(range(len(records)), key=lambda i: (counts[rare[i]] if rare[i] else len(records), -spacing[i], i))
    budget = max(1, round(config.share * len(records)))
    verdict: list[Verdict] = ["redundant"] * len(records)
    patients: Counter[str] = Counter()
    for index in order:
        patient = records[index].patient
        if rare[index] is None and budget <= 0:
            break
        if config.per_patient is not None and patients[patient] >= config.per_patient:
            verdict[index] = "patient cap"
            continue
        verdict[index] = "kept"
        patients[patient] += 1
        budget -= 1
    return verdict


def _stand_ins(
    vectors: np.ndarray, cluster: np.ndarray, kind: np.ndarray, kept: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the nearest kept image of the cluster and kind, else of the kind alone, else of all; (n,) the weights."""
    stand_in, weight = np.arange(len(vectors)), kept.astype(np.float64)
    for members in _groups(cluster):
        for what in np.unique(kind[members[~kept[members]]]):
            alike = members[kind[members] == what]
            staying, leaving = alike[kept[alike]], alike[~kept[alike]]
            if not len(staying):
                staying = np.flatnonzero(kept & (kind == what) if (kept & (kind == what)).any() else kept)
            for start in range(0, len(leaving), _BLOCK):
                block = leaving[start : start + _BLOCK]
                nearest = np.argsort(-(vectors[block] @ vectors[staying].T), axis=1, kind="stable")[:, :_SHARERS]
                stand_in[block] = staying[nearest[:, 0]]
                np.add.at(weight, staying[nearest], 1 / nearest.shape[1])
    return stand_in, weight


def _groups(codes: np.ndarray) -> list[np.ndarray]:
    """Indices of equal codes, a group each."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)
