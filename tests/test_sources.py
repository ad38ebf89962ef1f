import gzip
import json
import logging
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.conditions import Condition, Finding
from synthcxr.data.decode import Told
from synthcxr.data.sources import OWN, SOURCES, Rejected, SourceRow, completed, folder, hannover, nih
from synthcxr.errors import SourceError

NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
)
NIH_ROWS = (
    "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,2682,2749,0.143,0.143\n"
    "00000002_000.png,No Finding,0,2,058Y,F,AP,2500,2048,0.168,0.168\n"
    "00000003_000.png,Pleural_Thickening,0,3,414,F,PA,2500,2048,0.168,0.168\n"
)


def _touch(*paths: Path) -> None:
    """Sources open no image, so that empty files do."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def nih_root(tmp_path: Path) -> Path:
    (tmp_path / "Data_Entry_2017_v2020.csv").write_text(NIH_HEADER + NIH_ROWS)
    _touch(*(tmp_path / "images_001" / "images" / f"0000000{n}_000.png" for n in (1, 2)))
    _touch(tmp_path / "images-128" / "00000003_000.jpg")
    return tmp_path


def test_nih_is_read_by_position(nih_root):
    one, two, three = nih(nih_root)
    assert one.condition == Condition(
        findings=[Finding.CARDIOMEGALY, Finding.PLEURAL_EFFUSION], age=57, sex="male", view="PA"
    )
    assert (one.id, one.patient, one.study) == ("00000001_000", "nih-1", "00000001_000")
    assert two.condition == Condition(findings=[Finding.NO_FINDING], age=58, sex="female", view="AP")
    assert three.condition.age is None and three.path.suffix == ".jpg"


def test_nih_reads_a_compressed_table_alike(nih_root):
    before = list(nih(nih_root))
    table = nih_root / "Data_Entry_2017_v2020.csv"
    (nih_root / "Data_Entry_2017_v2020.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    with pytest.raises(SourceError, match="must hold one .* found .*csv, .*gz"):
        list(nih(nih_root))
    table.unlink()
    assert list(nih(nih_root)) == before


def test_nih_rejects_an_image_that_the_table_does_not_list(nih_root):
    _touch(nih_root / "images" / "99999999_000.png")
    last = list(nih(nih_root))[-1]
    assert isinstance(last, Rejected) and "not listed" in last.reason


def test_nih_takes_the_larger_of_two_copies(nih_root, caplog):
    copy = nih_root / "images-128" / "00000001_000.jpg"
    copy.write_bytes(b"larger")
    rows = list(nih(nih_root))
    assert rows[0].path == copy and len(rows) == 3
    assert "more than one copy" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("00000001_000.png,Efusion,0,1,57,M,PA\n", "row 2: unknown finding 'Efusion'; did you mean 'Effusion'"),
        ("00000001_000.png,Mass,0,1,old,M,PA\n", "row 2: age = 'old'"),
        ("00000001_000.png,Mass,0,1,57,X,PA\n", "row 2: sex = 'X'"),
    ],
)
def test_nih_rejects_a_row_that_is_wrong_and_names_it(nih_root, row, message):
    table = nih_root / "Data_Entry_2017_v2020.csv"
    table.write_text(NIH_HEADER + row + NIH_ROWS.split("\n", 1)[1])
    wrong, *others = nih(nih_root)
    assert isinstance(wrong, Rejected) and message in wrong.reason and "Data_Entry_2017_v2020.csv" in wrong.reason
    assert len(others) == 2 and all(isinstance(row, SourceRow) for row in others)


def test_nih_names_a_row_that_is_cut_off(nih_root):
    with open(nih_root / "Data_Entry_2017_v2020.csv", "a") as table:
        table.write("00000004_000.png,Mass,0")
    with pytest.raises(SourceError, match="row 5: 3 columns"):
        list(nih(nih_root))


def test_nih_has_a_split_where_its_lists_are(nih_root):
    assert [row.split for row in nih(nih_root)] == [None, None, None]
    (nih_root / "train_val_list.txt").write_text("00000001_000.png\n00000003_000.png\n")
    (nih_root / "test_list.txt").write_text("00000002_000.png\n")
    assert [row.split for row in nih(nih_root)] == ["development", "test", "development"]


def test_hannover_tells_sex_and_view(tmp_path):
    table = "patient_id,image_id,sex,age,modality,projection\nab,11,f,,CR,pa\nab,12,f,,CR,ap\n"
    (tmp_path / "data.csv").write_text(table)
    _touch(*(tmp_path / "images" / f"{name}.jpg" for name in (11, 12, 13)))
    one, two, unlisted = hannover(tmp_path)
    assert one.condition == Condition(sex="female", view="PA") and one.patient == two.patient == "hannover-ab"
    assert two.condition.view == "AP" and two.licence == "CC BY 3.0"
    assert isinstance(unlisted, Rejected)


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_a_source_says_what_is_missing(tmp_path, source):
    with pytest.raises(SourceError, match="there is none"):
        list(SOURCES[source](tmp_path / "absent"))
    with pytest.raises(SourceError, match="must hold one"):
        list(SOURCES[source](tmp_path))


def test_a_folder_reads_csv_and_jsonl_alike(tmp_path):
    rows = [
        {"file_name": "a/1.png", "patient": "p1", "age": 72, "sex": "female", "view": "PA",
         "findings": ["Pleural Effusion", "Edema"], "report": "Effusion.", "licence": "CC0"},
        {"file_name": "b.c.png", "patient": "p2", "findings": ["No Finding"]},
    ]  # fmt: skip
    for name in ("csv", "jsonl"):
        _touch(tmp_path / name / "a" / "1.png", tmp_path / name / "b.c.png")
    (tmp_path / "jsonl" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "csv" / "metadata.csv").write_text(
        "file_name,patient,age,sex,view,findings,report,licence\n"
        "a/1.png,p1,72.0,F,pa,pleural effusion|edema,Effusion.,CC0\nb.c.png,p2,,,,No Finding,,\n"
    )
    from_csv, from_jsonl = (list(folder(tmp_path / name)) for name in ("csv", "jsonl"))
    assert [row.model_dump(exclude={"path"}) for row in from_csv] == [
        row.model_dump(exclude={"path"}) for row in from_jsonl
    ]
    assert [row.id for row in from_csv] == ["a/1.png", "b.c.png"]
    assert from_csv[0].condition == Condition(findings=["Pleural Effusion", "Edema"], age=72, sex="female", view="PA")


def test_a_folder_takes_findings_with_state_side_and_severity(tmp_path):
    _touch(tmp_path / "1.png")
    findings = {"Pleural Effusion": {"side": "left", "severity": "severe"}, "Pneumothorax": "absent"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "1.png", "findings": findings}))
    (row,) = folder(tmp_path)
    assert row.condition == Condition(findings=findings)


def test_a_folder_reads_prompts_and_lets_columns_go_before_them(tmp_path):
    _touch(tmp_path / "1.png")
    (tmp_path / "metadata.csv").write_text('file_name,age,prompt\n1.png,60,"72 year old female. Edema."\n')
    (row,) = folder(tmp_path)
    assert row.condition == Condition(findings=["Edema"], age=60, sex="female")
    assert row.prompt == "72 year old female. Edema."


def test_without_a_patient_each_study_or_else_image_is_one_and_that_is_said(tmp_path, caplog):
    (tmp_path / "metadata.csv").write_text("file_name,pateint,study\n1.png,x,\n2.png,x,\n3.png,x,s\n4.png,x,s\n")
    with caplog.at_level(logging.WARNING):
        one, two, three, four = (completed(row, Told(), "key") for row in folder(tmp_path))
    assert three.patient == four.patient and three.study == four.study
    assert len({one.patient, two.patient, three.patient}) == len({one.study, two.study, three.study}) == 3
    assert "no patient column" in caplog.text and "did you mean 'patient'" in caplog.text


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1), st.sampled_from(OWN))
def test_what_ones_own_table_calls_people_becomes_pseudonyms_that_the_key_gives_again(name, study, path, source):
    row = SourceRow(
        path=Path("a"), id=path, patient=name, study=study, condition=Condition(), source=source, licence="x"
    )
    one, again, other = (completed(row, Told(), key) for key in ("ours", "ours", "theirs"))
    assert one == again
    for field in ("id", "patient", "study"):
        assert getattr(one, field) != getattr(other, field)
        assert re.fullmatch(r"(?:(?:folder|dicom|own)-)?[0-9a-f]{16}", getattr(one, field))
    header = completed(row.model_copy(update={"patient": None}), Told(patient_id=name), "ours")
    assert header.patient == one.patient  # whoever names the patient, the table or a header


@pytest.mark.parametrize("source", sorted(SOURCES))
def test_ages_of_ninety_and_more_are_one_group_in_every_source(source):
    row = {"path": "a", "id": "a", "patient": "p", "study": "s", "source": source, "licence": "x"}
    for age, grouped in ((0, 0), (89, 89), (90, 90), (91, 90), (120, 90), (None, None)):
        by_table = SourceRow(**row, condition=Condition(age=age))
        assert completed(by_table, Told(), "k").condition.age == grouped
        by_header = SourceRow(**row, condition=Condition(sex="female"))
        assert completed(by_header, Told(age=age), "k").condition == Condition(age=grouped, sex="female")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("file_name,age\n1.png,400\n", "metadata.csv row 2: age = 400"),
        ("file_name,age\n1.png,1\n./1.png,2\n", "row 3: file_name is that of row 2 again"),
        ("file_name,findings\n1.png,pleural efusion\n", "row 2: .*'pleural efusion'.*did you mean"),
        ("file_name\n../1.png\n", "row 2: file_name = '../1.png' must be a path inside"),
        ("file_name\n/etc/1.png\n", "row 2: file_name"),
        ("file_name,age\n1.png,4,5\n", "row 2: more cells than headers"),
        ("filename\n1.png\n", "must have a column 'file_name'; did you mean 'filename'"),
        ("file_name\n", "at least one row"),
        ("", "at least one row"),
    ],
)
def test_a_folder_names_file_row_and_field(tmp_path, table, message):
    _touch(tmp_path / "1.png")
    (tmp_path / "metadata.csv").write_text(table)
    with pytest.raises(SourceError, match=message):
        list(folder(tmp_path))


def test_a_folder_loses_identifiers_of_its_free_text(tmp_path):
    _touch(tmp_path / "1.png")
    row = {
        "file_name": "1.png", "patient": "p1",
        "report": "Seen by Dr. Miller on 03/04/2011. MRN 12345678. IMPRESSION: Large right pleural effusion, 3 cm.",
        "prompt": "95 year old female. Edema, see ___.", "text": "Compared with 2/3/2010. He is 93 years old.",
    }  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    (item,) = folder(tmp_path)
    told = item.model_dump_json(exclude={"path"})
    assert not any(word in told for word in ("Miller", "2011", "12345678", "___", "2010", "95", "93"))
    assert "right pleural effusion, 3 cm" in item.report.lower() and item.condition.age == 90


@pytest.mark.parametrize("line", ["{", "[1]", '"x"'])
def test_json_lines_that_are_none_are_named(tmp_path, line):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png"}\n' + line)
    with pytest.raises(SourceError, match="metadata.jsonl"):
        list(folder(tmp_path))


def test_a_folder_rejects_unlisted_images(tmp_path):
    _touch(tmp_path / "1.png", tmp_path / "sub" / "2.png")
    (tmp_path / "metadata.csv").write_text("file_name,patient\n1.png,p\n")
    _, unlisted = folder(tmp_path)
    assert isinstance(unlisted, Rejected) and unlisted.path.name == "2.png"


def test_real_sources_are_read_whole(cxr_open):
    rows = list(nih(cxr_open / "nih"))
    assert len(rows) == 9959 and all(isinstance(row, SourceRow) for row in rows)
    assert {row.condition.view for row in rows} == {"PA", "AP"}
    assert all(row.condition.findings for row in rows)
    assert len(list(hannover(cxr_open / "hannover"))) == 243
