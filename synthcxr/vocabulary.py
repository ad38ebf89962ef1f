"""The findings vocabulary: one canonical name a finding, the labels of public data sets, and the synonyms of prompts.

Adding a finding is one line in `Finding` (its place is its place in prompts), and its synonyms in `SYNONYMS`.
"""

from enum import StrEnum
from functools import lru_cache
from typing import Literal, get_args

from synthcxr.errors import ConditionError, did_you_mean

State = Literal["present", "absent", "uncertain"]
Side = Literal["left", "right", "bilateral"]
Severity = Literal["mild", "moderate", "severe"]
Sex = Literal["female", "male"]
Race = Literal["asian", "black", "white", "hispanic", "native american", "pacific islander"]
View = Literal["PA", "AP", "LATERAL"]

STATES, SIDES, SEVERITIES, SEXES, RACES, VIEWS = map(get_args, (State, Side, Severity, Sex, Race, View))


class Finding(StrEnum):
    """Union of the CheXpert 14 (Irvin et al. 2019) and the NIH 14 (Wang et al. 2017), plus device subtypes."""

    NO_FINDING = "No Finding"
    ENLARGED_CARDIOMEDIASTINUM = "Enlarged Cardiomediastinum"
    CARDIOMEGALY = "Cardiomegaly"
    LUNG_LESION = "Lung Lesion"
    LUNG_OPACITY = "Lung Opacity"
    EDEMA = "Edema"
    CONSOLIDATION = "Consolidation"
    PNEUMONIA = "Pneumonia"
    ATELECTASIS = "Atelectasis"
    PNEUMOTHORAX = "Pneumothorax"
    PLEURAL_EFFUSION = "Pleural Effusion"
    PLEURAL_OTHER = "Pleural Other"
    FRACTURE = "Fracture"
    SUPPORT_DEVICES = "Support Devices"
    INFILTRATION = "Infiltration"
    MASS = "Mass"
    NODULE = "Nodule"
    EMPHYSEMA = "Emphysema"
    FIBROSIS = "Fibrosis"
    PLEURAL_THICKENING = "Pleural Thickening"
    HERNIA = "Hernia"
    CHEST_TUBE = "Chest Tube"
    ENDOTRACHEAL_TUBE = "Endotracheal Tube"
    CENTRAL_LINE = "Central Line"
    PACEMAKER = "Pacemaker"


FINDING_ORDER: dict[Finding, int] = {finding: place for place, finding in enumerate(Finding)}

CHEXPERT_LABELS: dict[str, Finding] = {finding.value: finding for finding in list(Finding)[:14]}

NIH_LABELS: dict[str, Finding] = {
    "No Finding": Finding.NO_FINDING,
    "Atelectasis": Finding.ATELECTASIS,
    "Cardiomegaly": Finding.CARDIOMEGALY,
    "Consolidation": Finding.CONSOLIDATION,
    "Edema": Finding.EDEMA,
    "Effusion": Finding.PLEURAL_EFFUSION,
    "Emphysema": Finding.EMPHYSEMA,
    "Fibrosis": Finding.FIBROSIS,
    "Hernia": Finding.HERNIA,
    "Infiltration": Finding.INFILTRATION,
    "Mass": Finding.MASS,
    "Nodule": Finding.NODULE,
    "Pleural_Thickening": Finding.PLEURAL_THICKENING,
    "Pneumonia": Finding.PNEUMONIA,
    "Pneumothorax": Finding.PNEUMOTHORAX,
}

# The words of a finding inside a prompt: its name in lower case, but where nobody would say that.
PHRASES: dict[Finding, str] = {finding: finding.value.lower() for finding in Finding if finding != Finding.NO_FINDING}
PHRASES[Finding.PLEURAL_OTHER] = "other pleural abnormality"

# These are said to be small or large; all others mild or severe.
SIZED = frozenset({Finding.PLEURAL_EFFUSION, Finding.PNEUMOTHORAX, Finding.MASS, Finding.NODULE, Finding.HERNIA})
SIZES: dict[str, str] = {"mild": "small", "moderate": "moderate", "severe": "large"}

# NO_FINDING reads the other way round: its absence is that something was found.
NO_FINDING_PHRASES: dict[str, str] = {
    "present": "no acute findings",
    "absent": "acute findings",
    "uncertain": "possible acute findings",
}

# The letters count only after an age ("72y F").
SEX_WORDS: dict[str, str] = {
    **dict.fromkeys(("female", "woman", "lady", "girl", "f"), "female"),
    **dict.fromkeys(("male", "man", "gentleman", "boy", "m"), "male"),
}
RACE_WORDS: dict[str, str] = {race: race for race in RACES} | {
    "african american": "black",
    "african-american": "black",
    "black/african american": "black",
    "caucasian": "white",
    "latino": "hispanic",
    "latina": "hispanic",
    "american indian": "native american",
}

# Lower case, singular; plurals in -s are understood too.
SYNONYMS: dict[str, Finding] = {
    "enlarged mediastinum": Finding.ENLARGED_CARDIOMEDIASTINUM,
    "widened mediastinum": Finding.ENLARGED_CARDIOMEDIASTINUM,
    "mediastinal widening": Finding.ENLARGED_CARDIOMEDIASTINUM,
    "enlarged heart": Finding.CARDIOMEGALY,
    "cardiac enlargement": Finding.CARDIOMEGALY,
    "enlarged cardiac silhouette": Finding.CARDIOMEGALY,
    "heart is enlarged": Finding.CARDIOMEGALY,
    "large heart": Finding.CARDIOMEGALY,
    "pulmonary lesion": Finding.LUNG_LESION,
    "pulmonary opacity": Finding.LUNG_OPACITY,
    "pulmonary opacities": Finding.LUNG_OPACITY,
    "lung opacities": Finding.LUNG_OPACITY,
    "airspace opacity": Finding.LUNG_OPACITY,
    "airspace opacities": Finding.LUNG_OPACITY,
    "opacity": Finding.LUNG_OPACITY,
    "opacities": Finding.LUNG_OPACITY,
    "opacification": Finding.LUNG_OPACITY,
    "pulmonary edema": Finding.EDEMA,
    "pulmonary oedema": Finding.EDEMA,
    "oedema": Finding.EDEMA,
    "atelectases": Finding.ATELECTASIS,
    "atelectatic change": Finding.ATELECTASIS,
    "pneumothoraces": Finding.PNEUMOTHORAX,
    "effusion": Finding.PLEURAL_EFFUSION,
    "pleural fluid": Finding.PLEURAL_EFFUSION,
    "pleural abnormality": Finding.PLEURAL_OTHER,
    "other pleural abnormality": Finding.PLEURAL_OTHER,
    "other pleural abnormalities": Finding.PLEURAL_OTHER,
    "rib fracture": Finding.FRACTURE,
    "support device": Finding.SUPPORT_DEVICES,
    "medical device": Finding.SUPPORT_DEVICES,
    "support hardware": Finding.SUPPORT_DEVICES,
    "lines and tubes": Finding.SUPPORT_DEVICES,
    "infiltrate": Finding.INFILTRATION,
    "masses": Finding.MASS,
    "lung mass": Finding.MASS,
    "lung masses": Finding.MASS,
    "pulmonary mass": Finding.MASS,
    "pulmonary masses": Finding.MASS,
    "lung nodule": Finding.NODULE,
    "pulmonary nodule": Finding.NODULE,
    "pulmonary emphysema": Finding.EMPHYSEMA,
    "pulmonary fibrosis": Finding.FIBROSIS,
    "thickened pleura": Finding.PLEURAL_THICKENING,
    "hiatal hernia": Finding.HERNIA,
    "hiatus hernia": Finding.HERNIA,
    "thoracostomy tube": Finding.CHEST_TUBE,
    "pleural drain": Finding.CHEST_TUBE,
    "chest drain": Finding.CHEST_TUBE,
    "et tube": Finding.ENDOTRACHEAL_TUBE,
    "ett": Finding.ENDOTRACHEAL_TUBE,
    "central venous catheter": Finding.CENTRAL_LINE,
    "central venous line": Finding.CENTRAL_LINE,
    "central catheter": Finding.CENTRAL_LINE,
    "picc line": Finding.CENTRAL_LINE,
    "picc": Finding.CENTRAL_LINE,
    "cardiac pacemaker": Finding.PACEMAKER,
    "pacing device": Finding.PACEMAKER,
}


def finding_names() -> dict[str, Finding]:
    """Every lower-case name or synonym a finding answers to, without plurals in -s and without those of NO_FINDING."""
    names = {name: finding for finding, phrase in PHRASES.items() for name in (phrase, finding.value.lower())}
    return names | SYNONYMS


@lru_cache(maxsize=1024)
def parse_finding(name: str) -> Finding:
    """The finding a label, member name, synonym or phrase stands for, whatever its case, `_`, `-` and plural.

    Raises:
        ConditionError: no finding has this name (with the nearest one).
    """
    key = " ".join(str(name).lower().replace("_", " ").replace("-", " ").split())
    names = finding_names() | {"no finding": Finding.NO_FINDING, "normal": Finding.NO_FINDING}
    for spelling in (key, key.removesuffix("s")):
        if spelling in names:
            return names[spelling]
    options = [*(finding.value for finding in Finding), *SYNONYMS]
    raise ConditionError(f"unknown finding {str(name)!r}{did_you_mean(str(name), options)}")
