"""VinDr-CXR, in the layout of PhysioNet."""

from pathlib import Path

import pytest
from published import picture, radiograph, table

from synthcxr.conditions import Condition
from synthcxr.data.sources import Rejected, vindr
from synthcxr.errors import SourceError

TRAIN = (
    "image_id,rad_id,Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,"
    "Emphysema,Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,"
    "Pleural effusion,Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,"
    "Pneumonia,Tuberculosis,Other diseases,No finding"
)
TEST = TRAIN.replace("rad_id,", "").replace("Other diseases", "Other disease")
ONE, TWO = "000434271f63a053c4128a0ba6352c7f", "00053190460d56c53cc3e57321387478"


def _read(image: str, reader: str, *seen: str) -> dict[str, object]:
    columns = TRAIN.split(",")[2:]
    return {"image_id": image, "rad_id": reader} | {name: int(name in seen) for name in columns}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        _read(ONE, "R11", "Cardiomegaly", "Rib fracture", "Nodule/Mass"),
        _read(TWO, "R9", "No finding"),
        _read(ONE, "R10", "Cardiomegaly", "Clavicle fracture"),
        _read(ONE, "R8", "Cardiomegaly", "Aortic enlargement"),
    ]
    table(tmp_path / "annotations" / "image_labels_train.csv", TRAIN, rows)
    consensus = _read("f" * 32, "", "Pleural effusion")
    del consensus["rad_id"], consensus["Other diseases"]
    table(tmp_path / "annotations" / "image_labels_test.csv", TEST, [consensus])
    table(tmp_path / "annotations" / "annotations_train.csv", "image_id,rad_id,class_name,x_min,y_min,x_max,y_max", [])
    for name in (f"train/{ONE}.dicom", f"train/{TWO}.dicom", f"test/{'f' * 32}.dicom"):
        radiograph(tmp_path / name, PatientAge="058Y", PatientSex="M")
    return tmp_path


def test_votes_of_the_radiologists(root):
    one, two, last = vindr(root)
    findings = {finding.value: state.state for finding, state in one.condition.findings.items()}
    assert findings["Cardiomegaly"] == findings["Fracture"] == "present"  # two of three saw a fracture, of either kind
    assert findings["Lung Lesion"] == "uncertain" and findings["Pneumothorax"] == findings["No Finding"] == "absent"
    assert "Nodule" not in findings  # a nodule isn't told from a mass
    assert two.condition.findings["No Finding"].state == "present"
    assert last.condition.findings["Pleural Effusion"].state == "present"
    assert (one.split, last.split) == ("development", "test")


def test_images_are_pa_and_age_and_sex_are_left_to_the_header(root):
    one = next(vindr(root))
    assert one.condition == Condition(findings=one.condition.findings, view="PA")
    assert one.patient == f"vindr-{ONE}" and one.path.suffix == ".dicom"


def test_re_encoded_images_are_matched(root):
    for path in list(root.rglob("*.dicom")):
        picture(root / "png" / f"{path.stem}.png")
        path.unlink()
    assert [row.path.suffix for row in vindr(root)] == [".png"] * 3


def test_columns_that_are_not_there_or_blank_are_not_known(root):
    path = root / "annotations" / "image_labels_train.csv"
    table(path, "image_id,rad_id,Edema,Pneumonia,No finding", [{"image_id": ONE, "Edema": 0, "No finding": 1}])
    one = next(vindr(root))
    assert {finding.value for finding in one.condition.findings} == {"No Finding", "Edema"}


def test_a_cell_that_is_wrong_costs_its_image_alone(root):
    path = root / "annotations" / "image_labels_train.csv"
    path.write_text(path.read_text().replace("R11,0,0", "R11,0,7"))
    one, two, _ = vindr(root)
    assert isinstance(one, Rejected) and "image_labels_train.csv row 2: Atelectasis = '7' must be 0, 1" in one.reason
    assert not isinstance(two, Rejected)


def test_tables_may_lie_beside_the_images_and_one_is_enough(root):
    (root / "annotations" / "image_labels_train.csv").rename(root / "image_labels_train.csv")
    (root / "annotations" / "image_labels_test.csv").unlink()
    *rows, unlisted = vindr(root)
    assert len(rows) == 2 and unlisted.reason == "not listed in image_labels_train.csv"
    (root / "image_labels_train.csv").unlink()
    with pytest.raises(SourceError, match="must hold one annotations/image_labels_train.csv"):
        list(vindr(root))
