"""How well the image-text model of a MODEL folder tells real images from one another, beside chance and the classifier.

python scripts/score_image_text.py DATASET [--model MODEL] [--split test] [--clip FOLDER] [--cache build/features]
"""

import argparse
from pathlib import Path

import numpy as np

from synthcxr.data.dataset import Dataset
from synthcxr.evaluation.alignment import alignment
from synthcxr.evaluation.features import features_of, judge, readings
from synthcxr.evaluation.image_text import Pairs, open_image_text, retrieval, similarity, zero_shot
from synthcxr.evaluation.part import chosen
from synthcxr.evaluation.resampling import bootstrap_score, cluster_weights, weighted_auc
from synthcxr.evaluation.scores import Score
from synthcxr.model.classifier import LABELS, Readings, load_classifier, targets

MOST, SIZE = 2000, 256  # as `synthcxr evaluate` takes them, so that its cache serves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", help="MODEL folder; none: the embedded one")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clip", help="another image-text model: transformers' CLIPModel")
    parser.add_argument("--cache", type=Path, default=Path("build/features"))
    asked = parser.parse_args()
    dataset = Dataset.open(asked.dataset)
    records = chosen(dataset, asked.split, MOST, 0)
    conditions, units = [record.condition for record in records], np.array([record.patient for record in records])
    reader, model = judge(load_classifier(asked.model)), open_image_text(asked.clip, asked.model)
    told = readings(features_of(reader, dataset, records, SIZE, asked.cache))
    rows = told.features
    if model.extractor:
        rows = features_of(model.extractor, dataset, records, SIZE, asked.cache)
    prompts = [model.prompt(condition) for condition in conditions]
    pairs = Pairs(model.images(rows), model.embed(prompts), prompts)
    print(f"{len(records)} images of {len(set(units))} patients ({asked.split}), {len(set(prompts))} prompts")
    for score in similarity(pairs, units):
        print(line(score))
    for found in retrieval(pairs, units=units):
        print(f"{line(found.score)}; by chance {found.chance:.3f}")
    judged = {score.name: score for score in [*alignment(told, conditions, units), *choices(told, conditions, units)]}
    for score in zero_shot(model, pairs.images, conditions, units):
        print(f"{line(score)}; classifier {line(judged[score.name])}" if score.name in judged else line(score))


def choices(told: Readings, conditions: list, units: np.ndarray) -> list[Score]:
    """The classifier's AUROC of sex and view, which `alignment` gives as accuracies."""
    known, weights, scores = targets(conditions), cluster_weights(units), []
    for name, chance in (("male", told.male), ("AP", told.ap)):
        labels = known[:, LABELS.index(name)]
        asked = np.isfinite(labels)
        there = labels[asked] == 1
        value = weighted_auc(chance[asked], there, np.ones((1, asked.sum())))[0]
        draws = weighted_auc(chance[asked], there, weights[:, asked])
        scores.append(bootstrap_score(f"AUROC, {name}", value, draws, int(there.sum()), "higher"))
    return scores


def line(score: Score) -> str:
    return f"{score.name} {score.value:.3f} [{score.low:.3f}, {score.high:.3f}] n={score.n}"


if __name__ == "__main__":
    main()
