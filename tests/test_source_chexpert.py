"""CheXpert, whole and small, and CheXpert Plus, in Stanford's layouts."""

import json
from pathlib import Path

import pytest
from published import picture, radiograph, table

from synthcxr.conditions import Condition, FindingState
from synthcxr.data.sources import Rejected, chexpert, chexpert_plus
from synthcxr.errors import SourceError

LABELS = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
    "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
HEADER = "Path,Sex,Age,Frontal/Lateral,AP/PA," + LABELS
PLUS = (
    "path_to_image,path_to_dcm,frontal_lateral,ap_pa,deid_patient_id,patient_report_date_order,report,section_narrative,"
    "section_clinical_history,section_history,section_comparison,section_technique,section_procedure_comments,"
    "section_findings,section_impression,section_end_of_impression,section_summary,section_accession_number,age,sex,"
    "race,ethnicity,interpreter_needed,insurance_type,recent_bmi,deceased,split"
)
ONE, SIDE, OLD = (
    "patient00001/study1/view1_frontal",
    "patient00001/study1/view2_lateral",
    "patient64541/study1/view1_frontal",
)


def _tables(root: Path, prefix: str) -> None:
    person = {"Sex": "Female", "Age": 68, "No Finding": "1.0", "Support Devices": "1.0"}
    rows = [
        person | {"Path": f"{prefix}/train/{ONE}.jpg", "Frontal/Lateral": "Frontal", "AP/PA": "AP"},
        person | {"Path": f"{prefix}/train/{SIDE}.jpg", "Frontal/Lateral": "Lateral"},
    ]
    table(root / "train.csv", HEADER, rows)
    unknown = {"Path": f"{prefix}/valid/{OLD}.jpg", "Sex": "Unknown", "Age": 0, "Frontal/Lateral": "Frontal"}
    table(root / "valid.csv", HEADER, [unknown | {"AP/PA": "PA", "Edema": "0.0", "Fracture": "-1.0"}])


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
@pytest.mark.parametrize("folder", ["train", "CheXpert-v1.0 batch 2 (train 1)"])
def test_both_releases_in_the_folders_of_either(tmp_path, prefix, folder):
    _tables(tmp_path, prefix)
    for name in (f"{folder}/{ONE}.jpg", f"{folder}/{SIDE}.png", f"valid/{OLD}.jpg"):
        picture(tmp_path / name)
    one, side, old = chexpert(tmp_path)
    healthy = {"No Finding": "present", "Support Devices": "present"}
    assert one.condition == Condition(findings=healthy, age=68, sex="female", view="AP")
    assert side.condition.view == "LATERAL" and side.path.suffix == ".png"
    assert old.condition == Condition(findings={"Edema": "absent", "Fracture": "uncertain"}, view="PA")
    assert (one.id, one.patient, one.study) == (
        "patient00001-study1-view1_frontal", "chexpert-patient00001", "patient00001-study1",
    )  # fmt: skip
    assert (one.split, old.split) == ("train", "validate")


def test_rows_that_are_wrong_are_rejected_and_other_images_named(tmp_path):
    _tables(tmp_path, "CheXpert-v1.0")
    text = (tmp_path / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace("Female,68", "Woman,68", 1).replace("Female,68", "Female,old"))
    for name in (f"train/{ONE}.jpg", f"train/{SIDE}.jpg", "train/patient00009/study1/view1_frontal.jpg"):
        picture(tmp_path / name)
    sex, age, unlisted = chexpert(tmp_path)
    assert "train.csv row 2: sex = 'Woman' must be" in sex.reason and "row 3: age = 'old' must be" in age.reason
    assert unlisted.reason == "not listed in train.csv or valid.csv"
    assert all(isinstance(item, Rejected) for item in (sex, age, unlisted))


def _plus(root: Path) -> Path:
    report = "NARRATIVE: 2/3/2011, Accession Number: 1234567. IMPRESSION: 1. Small right pleural effusion."
    first = {
        "path_to_image": f"train/{ONE}.jpg", "frontal_lateral": "Frontal", "ap_pa": "PA", "split": "train",
        "deid_patient_id": "patient00001", "sex": "Male", "age": 45, "race": "White", "ethnicity": "Hispanic/Latino",
        "section_impression": "\n1. Small right pleural effusion.\n2. Left pacemaker.\n", "report": report,
        "section_accession_number": "1234567",
    }  # fmt: skip
    second = {
        "path_to_image": f"valid/{OLD}.jpg", "frontal_lateral": "Frontal", "ap_pa": "AP", "split": "valid",
        "deid_patient_id": "patient64541", "sex": "Female", "age": 90, "race": "Black, non-Hispanic",
        "ethnicity": "Non-Hispanic/Non-Latino", "section_findings": "No pneumothorax.",
        "section_impression": "Right lower lobe pneumonia.",
    }  # fmt: skip
    table(root / "df_chexpert_plus_240401.csv", PLUS, [first, second])
    picture(root / "PNG" / f"train/{ONE}.png")
    radiograph(root / "DICOM" / f"valid/{OLD}.dcm")
    return root


def _labels(path: Path, **labels: float) -> None:
    names = LABELS.split(",")
    rows = [{"path_to_image": f"train/{ONE}.jpg"} | {name: labels.get(name) for name in names}]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_plus_takes_reports_race_and_pictures_in_another_form(tmp_path):
    one, old = chexpert_plus(_plus(tmp_path))
    assert one.condition.findings["Pleural Effusion"] == FindingState(side="right", severity="mild")
    assert (one.condition.race, one.condition.sex, one.condition.age) == ("hispanic", "male", 45)
    assert one.path.suffix == ".png" and "1234567" not in one.report and "2011" not in one.report
    assert "right pleural effusion" in one.prompt.lower()
    assert old.condition.race == "black" and old.path.suffix == ".dcm" and old.split == "validate"
    assert old.condition.findings["Pneumonia"].side == "right"
    assert old.condition.findings["Pneumothorax"] == FindingState(state="absent")
    assert one.patient == "chexpert-patient00001"  # as in CheXpert, so that both are divided alike


def test_plus_labels_rule_where_they_are_and_those_of_findings_are_not_asked(tmp_path):
    _plus(tmp_path)
    _labels(tmp_path / "chexbert_labels" / "findings_fixed.json", **{"No Finding": 1.0})
    assert "No Finding" not in next(chexpert_plus(tmp_path)).condition.findings
    _labels(tmp_path / "chexbert_labels" / "report_fixed.json", **{"Edema": 1.0})
    assert "Edema" in next(chexpert_plus(tmp_path)).condition.findings
    _labels(tmp_path / "impression_fixed.json", **{"Pleural Effusion": 1.0, "Pneumonia": -1.0, "Support Devices": 1.0})
    one, old = chexpert_plus(tmp_path)
    assert one.condition.findings["Pleural Effusion"] == FindingState(side="right", severity="mild")
    assert one.condition.findings["Pneumonia"] == FindingState(state="uncertain")
    assert "Pacemaker" in one.condition.findings and "Pneumonia" in old.condition.findings


@pytest.mark.parametrize("line", ["{", "[]", '{"path_to_image": "a"}'])
def test_plus_labels_that_are_none_are_named(tmp_path, line):
    _plus(tmp_path)
    (tmp_path / "impression_fixed.json").write_text(line)
    with pytest.raises(SourceError, match="impression_fixed.json"):
        list(chexpert_plus(tmp_path))
