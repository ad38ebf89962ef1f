"""PadChest, in the layout of BIMCV."""

from pathlib import Path

import numpy as np
import pytest
from conftest import drawn_chest
from hypothesis import given
from hypothesis import strategies as st
from published import picture, table

from synthcxr.conditions import Condition
from synthcxr.data.prepare import PrepareConfig, run
from synthcxr.data.sources import Rejected, SourceRow, padchest
from synthcxr.data.sources.padchest import label_terms
from synthcxr.data.verify import verify
from synthcxr.errors import ConditionError

HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,BitsStored_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,"
    "LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
)
NAME = "216840111366964013{}_00-078-079.png"
PERSON = {
    "ImageDir": "0", "StudyDate_DICOM": "20140915", "StudyID": "2050", "PatientID": "8398", "PatientBirth": "1930.0",
    "PatientSex_DICOM": "F", "Projection": "PA", "Report": "sin hallazg patolog .", "Labels": "['normal']",
}  # fmt: skip


def _prepared(root: Path, *changes: dict[str, str]) -> Path:
    rows = [PERSON | {"": index, "ImageID": NAME.format(index)} | change for index, change in enumerate(changes)]
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", HEADER, rows)
    for index in range(len(changes)):
        picture(root / str(index % 3) / NAME.format(index), bits=16)
    return root


def _one(root: Path, **change: str) -> SourceRow | Rejected:
    (row,) = padchest(_prepared(root, change))
    return row


def test_a_row_becomes_a_condition_without_its_spanish_report(tmp_path):
    row = _one(tmp_path)
    assert row.condition == Condition(findings=["No Finding"], age=84, sex="female", view="PA")
    assert (row.patient, row.study) == ("padchest-8398", "2050")
    assert row.report is None and row.prompt is None and row.condition.text is None


@pytest.mark.parametrize(
    ("labels", "findings"),
    [
        ("['laminar atelectasis', ' cardiomegaly', 'kyphosis']", ["Atelectasis", "Cardiomegaly"]),
        ("['hydropneumothorax']", ["Pneumothorax", "Pleural Effusion"]),
        ("['subcutaneous emphysema', 'COPD signs']", []),
        ("['Normal', 'apical pleural thickening']", ["Pleural Thickening"]),
        ("['central venous catheter via jugular vein']", ["Support Devices", "Central Line"]),
        ("['exclude', '']", []),
        ("['unchanged']", []),
        ("None", []),
        ("nan", []),
        ("", []),
        ("[]", []),
    ],
)
def test_terms_of_the_publisher_are_findings_or_nothing(tmp_path, labels, findings):
    assert _one(tmp_path, Labels=labels).condition.findings == Condition(findings=findings).findings


@pytest.mark.parametrize(
    ("projection", "view"), [("PA", "PA"), ("AP", "AP"), ("AP_horizontal", "AP"), ("L", "LATERAL"), ("UNK", None)]
)
def test_projections(tmp_path, projection, view):
    assert _one(tmp_path, Projection=projection).condition.view == view


@pytest.mark.parametrize("projection", ["COSTAL", "EXCLUDE"])
def test_what_the_publisher_excludes_is_no_damage(tmp_path, projection):
    item = _one(tmp_path, Projection=projection)
    assert isinstance(item, Rejected) and item.by_rule and projection in item.reason


def test_none_in_words_is_unknown(tmp_path):
    row = _one(tmp_path, PatientBirth="None", PatientSex_DICOM="None", Projection="None", StudyID="None")
    assert row.condition == Condition(findings=["No Finding"])
    assert row.study == Path(NAME.format(0)).stem
    assert _one(tmp_path, PatientBirth="2031.0").condition.age is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"Labels": "normal"}, "row 2: Labels = 'normal' must be a list of quoted terms"),
        ({"Projection": "PB"}, "row 2: Projection = 'PB' must be one of PA, AP"),
        ({"PatientSex_DICOM": "X"}, "row 2: sex = 'X' must be"),
    ],
)
def test_a_row_that_is_wrong_is_rejected_with_its_number(tmp_path, change, reason):
    item = _one(tmp_path, **change)
    assert isinstance(item, Rejected) and reason in item.reason and not item.by_rule


@given(st.lists(st.text(st.characters(exclude_characters="'\"\\\n\r", exclude_categories=["C", "Z"]), min_size=1)))
def test_lists_are_read_as_python_writes_them(terms):
    assert label_terms(repr(terms)) == [term.lower() for term in terms]


@pytest.mark.parametrize("cell", ["[__import__('os')]", "['a' 'b']", "['a', 1]", "[" * 5000, "['" + "a', '" * 5000])
def test_nothing_else_is_taken_for_a_list(cell):
    with pytest.raises(ConditionError, match="must be a list of quoted terms"):
        label_terms(cell)


def test_16_bit_pixels_stay_16_bit(tmp_path):
    _prepared(tmp_path / "in", {}, {"Labels": "['nodule']"})
    dataset = run(PrepareConfig(source="padchest", root=tmp_path / "in", output=tmp_path / "out"))
    assert verify(dataset.path) == [] and {record.bits for record in dataset.records} == {16}
    pixels = dataset.read(dataset.records[0])
    assert np.array_equal(pixels, drawn_chest(seed=len(NAME.format(0))).astype(np.uint16) * 257)
