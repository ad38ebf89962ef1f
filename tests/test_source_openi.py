"""OpenI, as XML and as tables, and the real reports."""

import tarfile
from pathlib import Path

import pytest
from published import picture, radiograph, table

from synthcxr.conditions import FindingState
from synthcxr.data.sources import Rejected, SourceRow, openi
from synthcxr.errors import SourceError

XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{uid}"/>
   <MedlineCitation>
      <Article><Abstract>
            <AbstractText Label="COMPARISON">XXXX.</AbstractText>
            <AbstractText Label="INDICATION">XXXX-year-old woman, dyspnea.</AbstractText>
            <AbstractText Label="FINDINGS">{findings}</AbstractText>
            <AbstractText Label="IMPRESSION">Small left pleural effusion.</AbstractText>
      </Abstract></Article>
   </MedlineCitation>
   <MeSH><major>Pleural Effusion/left/small</major></MeSH>
   {images}
</eCitation>
"""
FINDINGS = "There is a small left pleural effusion, XXXX. No pneumothorax. The XXXX are otherwise clear."
IMAGE = '<parentImage id="{}"><caption>PA and lateral chest x-XXXX</caption></parentImage>'


def _report(root: Path, uid: int, images: list[str], findings: str = FINDINGS) -> Path:
    path = root / "ecgen-radiology" / f"{uid}.xml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(XML.format(uid=uid, findings=findings, images="".join(map(IMAGE.format, images))))
    return path


@pytest.mark.parametrize(
    ("parent", "name"),
    [
        ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-3001.png"),
        ("CXR1_1_IM-0001-3001", "1/1_IM-0001-3001.dcm"),
        ("CXR1_1_IM-0001-3001", "1_IM-0001-3001.dcm.png"),
        ("CXR10_IM-0002-1001", "CXR10_IM-0002-1001.png"),
        ("CXR10_IM-0002-1001", "10_IM-0002-1001.dcm.jpg"),
        ("CXR100_IM-0002-1001-0002", "CXR100_IM-0002-1001-0002.jpg"),
    ],
)
def test_images_are_matched_in_each_form_of_their_names(tmp_path, parent, name):
    _report(tmp_path, 1, [parent, "CXR1_1_IM-0001-9999"])
    (radiograph if name.endswith(".dcm") else picture)(tmp_path / "images" / name)
    (row,) = openi(tmp_path)
    assert (row.path.name, row.patient, row.study) == (Path(name).name, "openi-1", "CXR1")


def test_a_report_tells_findings_and_sex_but_no_view(tmp_path):
    _report(tmp_path, 1, ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"])
    for name in ("CXR1_1_IM-0001-3001.png", "CXR1_1_IM-0001-4001.png", "CXR2_IM-0652-1001.png"):
        picture(tmp_path / name)
    one, two, unlisted = openi(tmp_path)
    assert one.condition.findings["Pleural Effusion"] == FindingState(side="left", severity="mild")
    assert one.condition.findings["Pneumothorax"] == FindingState(state="absent")
    assert (one.condition.sex, one.condition.age, one.condition.view) == ("female", None, None)
    assert one.condition == two.condition and one.id != two.id
    assert "XXXX" not in one.report + one.prompt and "left pleural effusion" in one.prompt.lower()
    assert isinstance(unlisted, Rejected) and unlisted.reason == "not listed in 1.xml"


def _tables(root: Path) -> None:
    reports = [
        {
            "uid": 1,
            "indication": "XXXX-year-old male",
            "findings": FINDINGS,
            "impression": "Small left pleural effusion.",
        },
        {"uid": 2, "MeSH": "normal"},
    ]
    table(root / "indiana_reports.csv", "uid,MeSH,Problems,image,indication,comparison,findings,impression", reports)
    projections = [(1, "1_IM-0001-4001.dcm.png", "Frontal"), (1, "1_IM-0001-3001.dcm.png", "Lateral")]
    projections += [(2, "2_IM-0652-1001.dcm.png", "Frontal"), (3, "3_IM-1384-1001.dcm.png", "Oblique")]
    rows = [dict(zip(("uid", "filename", "projection"), row, strict=True)) for row in projections]
    table(root / "indiana_projections.csv", "uid,filename,projection", rows)
    for _, name, _ in projections:
        picture(root / "images" / "images_normalized" / name)


def test_the_tables_tell_lateral_images(tmp_path):
    _tables(tmp_path)
    frontal, lateral, silent, oblique = openi(tmp_path)
    assert (frontal.condition.view, lateral.condition.view) == (None, "LATERAL")
    assert frontal.condition.sex == "male" and frontal.condition.findings["Pleural Effusion"].side == "left"
    assert frontal.id == "1_IM-0001-4001" and silent.report is None and not silent.condition.findings
    assert isinstance(oblique, Rejected) and "indiana_projections.csv row 5: projection = 'Oblique'" in oblique.reason
    _report(tmp_path, 1, [])
    with pytest.raises(SourceError, match="not both"):
        list(openi(tmp_path))


def test_reports_that_are_none_are_named(tmp_path):
    picture(tmp_path / "CXR1_1_IM-0001-3001.png")
    path = _report(tmp_path, 1, ["CXR1_1_IM-0001-3001"])
    whole = path.read_text()
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">]>'
    for text, message in (
        (whole[:-50], "1.xml must be a readable XML report"),
        (whole.replace("<eCitation>", bomb + "<eCitation>"), "1.xml: an OpenI report has no DOCTYPE"),
        (whole.replace("uId id", "uId no"), "1.xml: uId id is missing"),
    ):
        path.write_text(text)
        with pytest.raises(SourceError, match=message):
            list(openi(tmp_path))


def test_real_reports_are_read_whole(cxr_open, tmp_path):
    with tarfile.open(cxr_open / "openi" / "reports-even.tgz") as archive:
        for member in archive:
            if member.isfile():
                (tmp_path / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    names = ["CXR10_IM-0002-1001.png", "CXR10_IM-0002-2001.png", "CXR100_IM-0002-1001.png", "CXR999999_IM-1-1.png"]
    for name in names:
        picture(tmp_path / "images" / name)
    *rows, unlisted = openi(tmp_path)
    assert {row.id for row in rows} == {"10_IM-0002-1001", "10_IM-0002-2001", "100_IM-0002-1001"}
    assert all(isinstance(row, SourceRow) and row.licence == "CC BY-NC-ND 4.0" for row in rows)
    ten = next(row for row in rows if row.patient == "openi-10")
    assert ten.condition.sex == "male" and ten.condition.findings["Pneumothorax"].state == "absent"
    assert "XXXX" not in ten.report and "Kohli" not in ten.report and isinstance(unlisted, Rejected)
