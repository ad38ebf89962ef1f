"""MIMIC-CXR-JPG, in the layout of PhysioNet."""

import gzip
import json
import logging
import re
from pathlib import Path

import pytest
from published import picture, table

from synthcxr.conditions import Condition, FindingState
from synthcxr.data.prepare import PrepareConfig, run
from synthcxr.data.sources import PIXELS, Rejected, SourceRow, mimic_cxr_jpg
from synthcxr.data.verify import verify
from synthcxr.errors import SourceError

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
    "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
)
LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices"
)
PATIENTS = "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod"
ADMISSIONS = "subject_id,hadm_id,admittime,race,hospital_expire_flag"
REPORT = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old woman seen by Dr. ___ on ___.

 FINDINGS:

 There is a small left pleural effusion. A right chest tube is in place. No pneumothorax. Moderate cardiomegaly.

 IMPRESSION:

 Small left pleural effusion.
"""
A, B, C, D = (f"{n}2aa804e-bde0afdd-112c0b34-7bc16630-4e38401{n}" for n in range(4))


def _image(root: Path, dicom_id: str, subject: str, study: str, suffix: str = ".jpg") -> None:
    picture(root / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom_id}{suffix}")


def _tables(root: Path) -> None:
    one = {"subject_id": 10000032, "study_id": 50414267, "StudyDate": 21800506}
    two = {"subject_id": 11000033, "study_id": 53911762, "StudyDate": 21990626}
    names = root / "mimic-cxr-2.0.0-metadata.csv", root / "mimic-cxr-2.0.0-chexpert.csv"
    rows = [
        one | {"dicom_id": A, "ViewPosition": "PA", "ViewCodeSequence_CodeMeaning": "postero-anterior"},
        one | {"dicom_id": B, "ViewPosition": "LL", "ViewCodeSequence_CodeMeaning": "left lateral"},
        two | {"dicom_id": C, "ViewPosition": "", "ViewCodeSequence_CodeMeaning": "antero-posterior"},
        two | {"dicom_id": D, "ViewPosition": "LAO"},
    ]
    table(names[0], METADATA, rows)
    labels = {"Pleural Effusion": "1.0", "Pneumothorax": "0.0", "Edema": "-1.0", "Cardiomegaly": "-1.0"}
    table(names[1], LABELS, [{"subject_id": 10000032, "study_id": 50414267, **labels}])
    splits = [{"subject_id": 10000032, "split": "train"}, {"subject_id": 11000033, "split": "validate"}]
    table(root / "mimic-cxr-2.0.0-split.csv", "dicom_id,study_id,subject_id,split", splits)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _tables(tmp_path)
    for dicom_id in (A, B):
        _image(tmp_path, dicom_id, "10000032", "50414267")
    _image(tmp_path, C, "11000033", "53911762")
    _image(tmp_path, D, "11000033", "53911762", ".png")  # re-encoded
    patients = [
        {"subject_id": 10000032, "gender": "F", "anchor_age": 52, "anchor_year": 2180},
        {"subject_id": 11000033, "gender": "M", "anchor_age": 91, "anchor_year": 2196},
    ]
    table(tmp_path / "mimic-iv" / "patients.csv", PATIENTS, patients)
    races = [(10000032, "WHITE - RUSSIAN"), (10000032, "UNKNOWN"), (11000033, "ASIAN"), (11000033, "BLACK/HAITIAN")]
    table(
        tmp_path / "mimic-iv" / "admissions.csv",
        ADMISSIONS,
        [{"subject_id": subject, "race": race} for subject, race in races],
    )
    return tmp_path


def test_labels_age_sex_race_and_view(root):
    one, lateral, two, oblique = mimic_cxr_jpg(root)
    assert one.condition == Condition(
        findings={
            "Pleural Effusion": "present", "Pneumothorax": "absent", "Edema": "uncertain", "Cardiomegaly": "uncertain",
        },
        age=52, sex="female", race="white", view="PA",
    )  # fmt: skip
    assert list(one.condition.findings)[0] == "Cardiomegaly"  # in the order of Finding
    assert (one.id, one.patient, one.study, one.split) == (A, "mimic-p10000032", "s50414267", "train")
    assert lateral.condition.view == "LATERAL" and lateral.condition.findings == one.condition.findings
    # The anchor is three years before the study; two admissions disagree on the race; no label is no finding known.
    assert two.condition == Condition(age=94, sex="male", view="AP") and two.split == "validate"
    assert oblique.condition.view is None and oblique.path.suffix == ".png"
    assert PIXELS["mimic_cxr_jpg"].startswith("histogram-equalised")


def test_gzipped_tables_are_read_alike_and_one_form_only(root):
    before = list(mimic_cxr_jpg(root))
    for name in ("metadata", "chexpert", "split"):
        plain = root / f"mimic-cxr-2.0.0-{name}.csv"
        (root / f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(SourceError, match="must hold one .*found .*csv, .*gz"):
        list(mimic_cxr_jpg(root))
    for plain in root.glob("mimic-cxr-*.csv"):
        plain.unlink()
    assert list(mimic_cxr_jpg(root)) == before


def test_negbio_stands_in_for_chexpert_labels(root):
    before = [row.condition for row in mimic_cxr_jpg(root)]
    (root / "mimic-cxr-2.0.0-chexpert.csv").rename(root / "mimic-cxr-2.0.0-negbio.csv")
    assert [row.condition for row in mimic_cxr_jpg(root)] == before


def test_the_metadata_table_alone_is_enough(root):
    for path in root.rglob("*.csv"):
        if "metadata" not in path.name:
            path.unlink()
    rows = list(mimic_cxr_jpg(root))
    assert [row.condition for row in rows] == [Condition(view=view) for view in ("PA", "LATERAL", "AP", None)]
    assert {row.split for row in rows} == {None}


@pytest.mark.parametrize("home", [".", "mimic-cxr-reports"])
def test_reports_refine_labels_and_lose_what_was_redacted(root, home):
    report = root / home / "files" / "p10" / "p10000032" / "s50414267.txt"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(REPORT)
    one, lateral, two, _ = mimic_cxr_jpg(root)
    findings = one.condition.findings
    assert findings["Pleural Effusion"] == FindingState(side="left", severity="mild")
    assert findings["Cardiomegaly"] == FindingState(state="uncertain")  # the label rules
    assert findings["Edema"] == FindingState(state="uncertain") and findings["Pneumothorax"].state == "absent"
    assert findings["Chest Tube"] == FindingState(side="right")  # beyond the 14 labels
    assert lateral.condition.findings == findings and two.report is None
    assert "left pleural effusion" in one.prompt.lower() and "left pleural effusion" in one.report
    assert "___" not in one.report + one.prompt


def test_without_labels_a_report_tells_the_findings(root):
    (root / "mimic-cxr-2.0.0-chexpert.csv").unlink()
    report = root / "files" / "p10" / "p10000032" / "s50414267.txt"
    report.write_text(REPORT)
    one = next(mimic_cxr_jpg(root))
    assert one.condition.findings["Cardiomegaly"] == FindingState(severity="moderate")


def test_a_cell_that_says_nothing_possible_costs_its_images_alone(root):
    path = root / "mimic-cxr-2.0.0-chexpert.csv"
    path.write_text(path.read_text().replace("-1.0", "2.0", 1))
    one, lateral, two, _ = mimic_cxr_jpg(root)
    assert isinstance(one, Rejected) and isinstance(lateral, Rejected) and isinstance(two, SourceRow)
    assert re.search("metadata.csv row 2: Cardiomegaly = '2.0' must be 1 .* or blank", one.reason) and not one.by_rule


def test_a_table_that_is_cut_off_is_an_error(root):
    path = root / "mimic-cxr-2.0.0-metadata.csv"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(SourceError, match="metadata.csv row 5: .* cells, must be 12"):
        list(mimic_cxr_jpg(root))
    path.write_text(path.read_text().replace("ViewPosition", "View Position"))
    with pytest.raises(SourceError, match="must have a column 'ViewPosition'; did you mean 'View Position'"):
        list(mimic_cxr_jpg(root))
    whole = gzip.compress(b"dicom_id" * 1000)
    path.unlink()
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="must be a readable CSV file"):
        list(mimic_cxr_jpg(root))


def test_a_part_of_the_images_is_fine_and_others_are_named(root, caplog):
    next((root / "files" / "p11").rglob("*.jpg")).unlink()
    picture(root / "files" / "p12" / "unknown.jpg")
    with caplog.at_level(logging.WARNING):
        *rows, unlisted = mimic_cxr_jpg(root)
    assert len(rows) == 3 and "1 of 4 rows have no image here" in caplog.text
    assert unlisted.path.name == "unknown.jpg" and "not listed in mimic-cxr-2.0.0-metadata.csv" in unlisted.reason


def test_prepared_as_a_dataset(root, tmp_path):
    report = root / "files" / "p10" / "p10000032" / "s50414267.txt"
    report.write_text(REPORT)
    dataset = run(PrepareConfig(source="mimic_cxr_jpg", root=root, output=tmp_path / "out" / "mimic"))
    assert verify(dataset.path) == [] and len(dataset) == 4
    told = json.dumps([record.model_dump(mode="json") for record in dataset.records])
    assert "___" not in told and "Dr." not in told
