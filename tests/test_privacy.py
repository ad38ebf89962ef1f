"""The privacy audit: it finds the copies that it plants and those it's shown, and passes fresh real images."""

from dataclasses import replace

import numpy as np
import pytest

from synthcxr.evaluation.copies import COPIES, planted_copy
from synthcxr.evaluation.copying import AuditError, calibrated_p, excess_rate, flagged_level
from synthcxr.evaluation.feature_set import AuditSettings, FeatureSet, Found, Planted, one_a_patient
from synthcxr.evaluation.pixels import nearest_shifted, pixel_features
from synthcxr.evaluation.privacy import NotComparable, audit
from synthcxr.images import read_image

pytest.importorskip("scipy")
pytest.importorskip("sklearn")

WIDTH = 8


def of_patients(rng: np.random.Generator, patients: int, start: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of patients with 1 to 9 images each, alike within a patient, and whose they are."""
    series = np.minimum(rng.geometric(0.5, patients), 9)
    names = np.repeat(np.arange(start, start + patients), series)
    alike = np.repeat(rng.standard_normal((patients, WIDTH)), series, axis=0)
    return alike + 0.4 * rng.standard_normal((len(names), WIDTH)), names


def one_each(features: np.ndarray, patients: np.ndarray) -> np.ndarray:
    return features[np.unique(patients, return_index=True)[1]]


def altered(rng: np.random.Generator, rows: np.ndarray) -> np.ndarray:
    """Copies, as features see them: a little off."""
    return rows + 0.05 * rng.standard_normal(rows.shape)


def turned(features: np.ndarray) -> np.ndarray:
    """Another extractor's view: half of the numbers, bent."""
    return np.tanh(features[:, : WIDTH // 2]) + 0.3 * features[:, WIDTH // 2 :]


class Scene:
    """Training, held-out and synthetic features by two extractors, and planted copies."""

    def __init__(self, seed: int, train: int, held_out: int, fresh: int, copies: int = 0, shift: float = 0.0):
        rng = np.random.default_rng(seed)
        self.train, self.train_patients = of_patients(rng, train)
        self.held_out, self.held_out_patients = of_patients(rng, held_out, start=10**6)
        self.held_out += shift
        self.fresh = one_each(*of_patients(rng, fresh))
        self.copied = rng.choice(len(self.train), copies, replace=False)
        self.synthetic = np.concatenate([self.fresh, altered(rng, self.train[self.copied])])
        sources = self.train[rng.choice(len(self.train), 100, replace=False)]
        self.planted = {"exact": sources, "noisy": altered(rng, sources)}

    def sets(self) -> list[FeatureSet]:
        def features(name, view):
            planted = tuple(Planted(kind, view(rows)) for kind, rows in self.planted.items())
            return FeatureSet(name, *map(view, (self.train, self.held_out, self.synthetic)), planted)

        return [features("straight", lambda rows: rows), features("turned", turned)]

    def audit(self, **settings) -> object:
        return audit(
            self.sets(), self.train_patients, self.held_out_patients, settings=AuditSettings(**settings)
        )  # fmt: skip


@pytest.mark.parametrize("ratio", [1, 10, 40])
def test_fresh_patients_are_flagged_at_the_nominal_rate_whatever_the_sizes(ratio):
    """By two feature sets together, with several images a patient; a Bonferroni correction would flag half as many."""
    rates, zero, trials, settings = [], 0, 24, AuditSettings(neighbours=1, alpha=0.02, sample=200)
    _, level = flagged_level(0.02, 99)
    for seed in range(trials):
        scene = Scene(seed, train=99 * ratio, held_out=99, fresh=200)
        one = one_a_patient(scene.held_out_patients, seed)
        found = [
            Found(replace(features, held_out=features.held_out[one]), scene.train_patients, settings)
            for features in scene.sets()
        ]
        synthetic, held_out = (np.min([getattr(f, part) for f in found], axis=0) for part in ("synthetic", "held_out"))
        p = calibrated_p(synthetic, held_out)
        score = excess_rate("x", p, 0.02, 99)
        rates.append((p <= 0.02).mean())
        zero += score.low <= 0 <= score.high
    assert zero / trials >= 0.9
    assert abs(np.mean(rates) - level) < 3.5 * np.std(rates) / np.sqrt(trials)


def test_one_copy_in_a_hundred_of_five_thousand_is_found():
    found, excess, false = [], [], []
    for seed in range(2):
        scene = Scene(seed, train=2000, held_out=2000, fresh=4950, copies=50)
        result = scene.audit()
        suspects = {suspect.synthetic: suspect for suspect in result.suspects}
        found.append(np.mean([4950 + number in suspects for number in range(50)]))
        false.append(np.mean([row < 4950 for row in suspects]))
        excess.append(result.excess.low > 0)
        originals = [suspects[4950 + n].train == row for n, row in enumerate(scene.copied) if 4950 + n in suspects]
        assert np.mean(originals) == 1
        assert result.listable == 25 and result.excess.value == pytest.approx(0.01, abs=0.006)
    assert np.mean(found) >= 0.95 and np.mean(false) <= 0.15 and all(excess)


def test_an_honest_model_passes_with_its_controls_found():
    result = Scene(1, train=800, held_out=600, fresh=1500).audit()
    assert result.passed, result.failures
    assert [score.name for score in result.controls] == ["planted copies, exact", "planted copies, noisy"]
    assert result.controls[0].value >= 0.999 and result.controls[1].value >= 0.99
    assert all(score.low < score.value <= score.high <= 1 for score in result.controls)
    assert result.fresh[0] <= (result.p <= 0.01).mean() <= result.fresh[1]
    told = [score for one in result.sets for score in (one.excess, one.nearness, one.data_copying, one.authenticity)]
    assert sum(score.low <= 0 <= score.high for score in told) >= 7  # of 8 intervals of 95%


def test_a_model_that_copies_fails_in_every_number():
    result = Scene(2, train=800, held_out=600, fresh=700, copies=300).audit()
    assert not result.passed and "images are copied" in result.failures[0]
    assert result.excess.low > 0.2 and len(result.suspects) > 290
    for one in result.sets:
        assert one.excess.low > 0.15 and one.nearness.low > 0.15
        assert one.data_copying.high < 0 and one.authenticity.low > 0.05


def test_bland_pictures_are_told_from_copies_in_words():
    """Half the contrast is near to everybody and a copy of nobody: d1 flags nearly all of them, the ratio few."""
    rng = np.random.default_rng(0)
    train, held_out, fresh = (rng.standard_normal((n, 40)) for n in (800, 600, 400))
    planted, people = (Planted("exact", train[:50]),), (np.arange(800), np.arange(800, 1400))

    def found(synthetic):
        return audit([FeatureSet("numbers", train, held_out, synthetic, planted)], *people).sets[0]

    bland, honest = found(0.5 * fresh), found(fresh)
    assert bland.excess.low > 0.9 and bland.nearness.high < 0.1 and "where a copy is near to one" in bland.remark()
    assert honest.remark() is None
    copied = found(np.concatenate([fresh[:200], altered(rng, train[:200])]))
    assert copied.excess.low > 0.3 and copied.nearness.low > 0.3 and "how copies look" in copied.remark()
    changed = found(2 * np.concatenate([fresh[:200], train[:200]]))
    assert changed.excess.low <= 0 and changed.nearness.low > 0.2 and "much changed" in changed.remark()


def test_copies_that_one_feature_set_alone_sees_are_found():
    scene = Scene(3, train=800, held_out=600, fresh=700, copies=100)
    seeing, other = scene.sets()
    rng = np.random.default_rng(0)

    def noise(rows):
        return rng.standard_normal((len(rows), 4))

    planted = tuple(Planted(copies.kind, noise(copies.features)) for copies in other.planted)
    blind = FeatureSet("blind", *map(noise, (other.train, other.held_out, other.synthetic)), planted)
    people = (scene.train_patients, scene.held_out_patients)
    result = audit([blind, seeing], *people)
    assert {row for row in range(700, 800)} <= {suspect.synthetic for suspect in result.suspects}
    assert all(suspect.features == "straight" for suspect in result.suspects if suspect.synthetic >= 700)
    alone = audit([blind], *people)
    assert sum("don't see such copies" in line for line in alone.failures) == 2


def test_an_extractor_that_knows_its_training_images_does_not_tell_the_sets_apart():
    """Whether training and held-out patients are alike is asked of what never saw the model."""
    scene = Scene(5, train=400, held_out=300, fresh=100)
    plain, other = scene.sets()
    knowing = replace(other, held_out=other.held_out + 0.8)
    people = (scene.train_patients, scene.held_out_patients)
    with pytest.raises(NotComparable):
        audit([plain, knowing], *people)
    assert audit([plain, replace(knowing, of_model=True)], *people).told_apart.low <= 0.5


def test_the_order_of_images_does_not_matter():
    scene = Scene(4, train=200, held_out=150, fresh=120, copies=5)
    first, again = scene.audit(), scene.audit()
    order = np.random.default_rng(0).permutation(125)
    scene.synthetic = scene.synthetic[order]
    np.testing.assert_array_equal(scene.audit().p, first.p[order])
    np.testing.assert_array_equal(first.p, again.p)
    assert first.sets[0].data_copying == again.sets[0].data_copying and first.told_apart == again.told_apart


def test_what_can_not_be_audited_says_why():
    with pytest.raises(NotComparable, match="split one collection by patient") as raised:
        Scene(0, train=300, held_out=200, fresh=50, shift=0.5).audit()
    assert raised.value.score.low > 0.5
    with pytest.raises(AuditError, match="at least 99"):
        Scene(0, train=100, held_out=60, fresh=50).audit()
    scene = Scene(0, train=200, held_out=150, fresh=50)
    one, people = scene.sets()[0], (scene.train_patients, scene.held_out_patients)
    both = scene.held_out_patients.copy()
    both[:3] = scene.train_patients[0]
    cut = FeatureSet("cut", one.train, one.held_out, one.synthetic[:-1], one.planted)
    for sets, patients, message in (
        ([one], (people[0], both), "both in training and held out"),
        ([one, cut], people, "cut and straight must be of the same images"),
        ([one], (people[0][:-1], people[1]), "names for"),
        ([], people, "at least one feature set"),
        ([replace(one, planted=())], people, "needs planted copies"),
    ):
        with pytest.raises(AuditError, match=message):
            audit(sets, *patients)


def test_fresh_radiographs_pass_and_their_planted_copies_are_caught(cxr_open):
    """The whole audit on real patients, by pixels alone: fresh ones pose as synthetic, and altered copies do."""
    paths = sorted((cxr_open / "nih" / "images-128").glob("*.jpg"))[::5]
    images = [read_image(path) for path in paths]
    patients = np.array([path.stem.split("_")[0] for path in paths])
    features = pixel_features(images)
    names = np.random.default_rng(0).permutation(np.unique(patients))
    assert len(names) > 500
    train, held_out, fresh = (
        np.isin(patients, part) for part in np.split(names, [len(names) // 2, len(names) * 3 // 4])
    )
    sources = np.flatnonzero(train)[::12]
    planted = tuple(
        Planted(kind, pixel_features(planted_copy(images[row], kind, seed=int(row)) for row in sources))
        for kind in COPIES
    )
    _, first = np.unique(patients[fresh], return_index=True)
    one = FeatureSet("pixels", features[train], features[held_out], features[fresh][first], planted, nearest_shifted)
    result = audit([one], patients[train], patients[held_out], settings=AuditSettings(neighbours=20, max_excess=0.1))
    assert result.passed, result.failures
    assert result.excess.low <= 0 <= result.excess.high
    assert result.fresh[0] <= (result.p <= 0.01).mean() <= result.fresh[1]
    assert [score.value >= (0.999 if "exact" in score.name else 0.99) for score in result.controls] == [True] * len(
        COPIES
    )
