"""A tree of DICOM files with and without a table, and what headers add to rows."""

import json
import logging
from pathlib import Path

import pytest
from published import picture, radiograph

from synthcxr.conditions import Condition
from synthcxr.data.sources import Rejected, SourceRow, completed, dicom, vindr
from synthcxr.data.sources.dicom import sop_instance_uid
from synthcxr.data.sources.row import pseudonym
from synthcxr.dicom.read import read_dicom
from synthcxr.errors import SourceError

PERSON = {
    "PatientID": "MRN 1234567", "PatientName": "Doe^Jane", "PatientAge": "058Y", "PatientSex": "F",
    "ViewPosition": "AP", "StudyInstanceUID": "1.2.840.99.1", "StudyDate": "20110203",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    radiograph(tmp_path / "DOE_JANE" / "1.dcm", "1.2.3.1", **PERSON)
    radiograph(tmp_path / "DOE_JANE" / "2.DICOM", "1.2.3.2", **PERSON | {"ViewPosition": "LL"})
    radiograph(tmp_path / "b" / "1.2.840.113619.2.5", "1.2.3.3", PatientID="", PatientSex="O")
    radiograph(tmp_path / "b" / "IM0001", "1.2.3.4", PatientID="")
    (tmp_path / "b" / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "b" / "LICENSE").write_text("do as you like")
    (tmp_path / "b" / "viewer.exe").write_text("")
    return tmp_path


def _rows(root: Path) -> list[SourceRow]:
    return [item for item in dicom(root) if isinstance(item, SourceRow)]


def test_files_are_known_by_suffix_or_by_what_they_begin_with(root):
    items = list(dicom(root))
    assert [row.path.name for row in _rows(root)] == ["1.dcm", "2.DICOM", "1.2.840.113619.2.5", "IM0001"]
    (other,) = (item for item in items if isinstance(item, Rejected))
    assert other.path.name == "LICENSE" and other.by_rule


def test_headers_complete_what_is_open_under_pseudonyms(root):
    rows = [completed(row, read_dicom(row.path), key="ours") for row in _rows(root)]
    one, two, three, four = rows
    assert one.condition == Condition(age=58, sex="female", view="AP") and two.condition.view == "LATERAL"
    assert one.patient == two.patient and one.study == two.study and one.id != two.id
    assert len({one.patient, three.patient, four.patient}) == 3  # emptied ids don't make one patient
    told = json.dumps([row.model_dump(mode="json", exclude={"path"}) for row in rows])
    assert not any(name in told for name in ("1234567", "Doe", "DOE", "1.2.840", "20110203"))
    again = completed(_rows(root)[0], read_dicom(one.path), key="ours")
    assert again == one and completed(_rows(root)[0], read_dicom(one.path), key="theirs").patient != one.patient


def test_a_table_by_file_name_goes_before_the_header(root, caplog):
    (root / "metadata.csv").write_text("file_name,patient,age,findings\nDOE_JANE/1.dcm,p1,60,Edema\nabsent.dcm,p2,,\n")
    with caplog.at_level(logging.WARNING):
        one, *others = (item for item in dicom(root) if item.path.name != "LICENSE")
    assert all(isinstance(item, Rejected) and item.by_rule for item in others) and len(others) == 3
    assert "metadata.csv: 1 of 2 rows have no image here" in caplog.text
    one = completed(one, read_dicom(one.path), key="")
    assert one.condition == Condition(findings=["Edema"], age=60, sex="female", view="AP")
    assert one.patient == f"own-{pseudonym('', 'p1')}"


def test_a_table_by_uid(root):
    lines = [{"SOPInstanceUID": "1.2.3.4", "patient": "p4"}, {"SOPInstanceUID": "1.2.3.1", "findings": ["Edema"]}]
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    four, one = _rows(root)
    assert (four.path.name, four.patient) == ("IM0001", "p4")
    assert one.path.name == "1.dcm" and one.patient is None and one.condition.findings
    radiograph(root / "z" / "copy.dcm", "1.2.3.1")
    (copy,) = (item for item in dicom(root) if item.path.name == "copy.dcm")
    assert isinstance(copy, Rejected) and "SOPInstanceUID must be in" in copy.reason
    (root / "z" / "copy.dcm").write_bytes(b"damaged")
    (copy,) = (item for item in dicom(root) if item.path.name == "copy.dcm")
    assert isinstance(copy, Rejected) and not copy.by_rule


def test_tables_that_are_wrong_are_named(root):
    for text, message in (
        ("file_name,age\nDOE_JANE/1.dcm,400\n", "metadata.csv row 2: age = 400"),
        ("file_name\n../1.dcm\n", "row 2: file_name = '../1.dcm' must be a path inside"),
        ("SOPInstanceUID,age\n ,4\n", "row 2: SOPInstanceUID is blank"),
        ("name,age\na,4\n", "must have a column 'file_name'"),
        ("file_name\n", "at least one row"),
    ):
        (root / "metadata.csv").write_text(text)
        with pytest.raises(SourceError, match=message):
            list(dicom(root))


def test_uids_are_read_from_the_first_bytes_and_damage_is_no_error(tmp_path):
    radiograph(tmp_path / "1.dcm", "1.2.3.1")
    assert sop_instance_uid(tmp_path / "1.dcm") == "1.2.3.1"
    data = (tmp_path / "1.dcm").read_bytes()
    assert sop_instance_uid(tmp_path / "none") is None
    for end in range(400):
        (tmp_path / "cut.dcm").write_bytes(data[:end])
        uid = sop_instance_uid(tmp_path / "cut.dcm")
        assert uid is None if end < 132 else "1.2.3.1".startswith(uid)


def test_a_header_tells_age_and_sex_of_a_row_that_has_the_rest(tmp_path):
    image = "0" * 32
    (tmp_path / "image_labels_train.csv").write_text(f"image_id,rad_id,No finding\n{image},R1,1\n")
    radiograph(tmp_path / "train" / f"{image}.dicom", "1.2.3", **PERSON)
    (row,) = vindr(tmp_path)
    row = completed(row, read_dicom(row.path), key="")
    assert row.condition == Condition(findings=["No Finding"], age=58, sex="female", view="PA")
    assert row.patient == f"vindr-{image}"


def test_pictures_beside_are_no_dicom_files(tmp_path):
    picture(tmp_path / "1.png")
    with pytest.raises(SourceError, match="must hold one .dcm or .dicom file or more"):
        list(dicom(tmp_path))
