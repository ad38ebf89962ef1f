"""Cells of tables: races, ages, states; streams of rows; images below a folder."""

import gzip
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.conditions import Condition, FindingState
from synthcxr.data.sources.cells import chexpert_findings, condition, race_of, sex_of, view_of, years_of
from synthcxr.data.sources.files import images_by, walk
from synthcxr.data.sources.tables import table_rows
from synthcxr.data.sources.texts import Told, refined
from synthcxr.errors import ConditionError, SourceError
from synthcxr.vocabulary import CHEXPERT_LABELS, FINDING_ORDER, Finding


@pytest.mark.parametrize(
    ("words", "race"),
    [
        (("WHITE",), "white"), (("WHITE - BRAZILIAN",), "white"), (("BLACK/CAPE VERDEAN",), "black"),
        (("BLACK/AFRICAN AMERICAN",), "black"), (("ASIAN - ASIAN INDIAN",), "asian"),
        (("HISPANIC/LATINO - PUERTO RICAN",), "hispanic"), (("HISPANIC OR LATINO",), "hispanic"),
        (("AMERICAN INDIAN/ALASKA NATIVE",), "native american"),
        (("NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",), "pacific islander"),
        (("MULTIPLE RACE/ETHNICITY",), None), (("UNABLE TO OBTAIN",), None), (("PORTUGUESE",), None),
        (("OTHER",), None),
        (("White, non-Hispanic", "Not Hispanic"), "white"), (("White", "Non-Hispanic/Non-Latino"), "white"),
        (("Black, Hispanic", ""), "hispanic"), (("Asian", "Hispanic/Latino"), "hispanic"),
        (("Black or African American", "Unknown"), "black"), (("White, Asian",), None), (("", ""), None),
    ],
)  # fmt: skip
def test_races_of_hospitals(words, race):
    assert race_of(*words) == race


def test_what_is_unknown_in_words_is_none():
    assert [sex_of(cell) for cell in ("", "Unknown", "O", "None", "F", "male")] == [None] * 4 + ["female", "male"]
    assert [years_of(cell) for cell in ("", "nan", "72", "72.0", " 0 ")] == [None, None, 72, 72, 0]
    assert [view_of(cell) for cell in ("", "LL", "xtable", "pa", "AP LLD")] == [None, "LATERAL", None, "PA", None]
    for cell in ("72.5", "-1", "121", "x"):
        with pytest.raises(ConditionError, match="must be a whole number of years"):
            years_of(cell)


states = st.sampled_from(["present", "absent", "uncertain"])
labels = st.dictionaries(st.sampled_from(list(CHEXPERT_LABELS.values())), states)
told = st.dictionaries(st.sampled_from(list(Finding)[1:]), st.builds(FindingState, state=states, side=st.just("left")))


@given(labels, st.integers(0, 120))
def test_cells_give_the_condition_that_validation_gives(labels, age):
    words = {"present": "1.0", "absent": "0.0", "uncertain": "-1"}
    cells = tuple(words[labels[finding]] if finding in labels else "" for finding in CHEXPERT_LABELS.values())
    built = condition(chexpert_findings(cells), age=age, sex="male", view="PA")
    checked = Condition(findings=labels, age=age, sex="male", view="PA")
    assert built == checked and list(built.findings) == list(checked.findings)


@given(labels, told)
def test_labels_keep_their_state_whatever_a_report_says(labels, told):
    known = {finding: FindingState(state=state) for finding, state in labels.items()}
    merged = condition(refined(known, Told(findings=told))).findings
    assert list(merged) == sorted(merged, key=FINDING_ORDER.__getitem__)
    if not labels:
        assert merged == told
        return
    for finding, state in labels.items():
        assert merged[finding].state == state
        assert merged[finding].side in (None, "left") and (merged[finding].side is None or told[finding].state == state)
    beyond = {finding for finding in merged if finding not in labels}
    assert not beyond & set(CHEXPERT_LABELS.values())
    if labels.get(Finding.NO_FINDING) == "present":
        assert not any(merged[finding].state == "present" for finding in beyond & {Finding.NODULE, Finding.HERNIA})


def test_rows_are_counted_as_a_spreadsheet_does(tmp_path):
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress('\ufeffa,b,c\n1,"2,\n3",x\n\n4,5,y\n'.encode()))
    assert list(table_rows(path, ("c", "a"), ("d",))) == [(2, ("x", "1", "")), (4, ("y", "4", ""))]
    assert list(table_rows(path, ("b",))) == [(2, ("2,\n3",)), (4, ("5",))]
    path.write_bytes(gzip.compress(b"a,b\n1,2\n1\n"))
    with pytest.raises(SourceError, match="table.csv.gz row 3: 1 cells, must be 2 as in the header"):
        list(table_rows(path, ("a",)))
    path.write_bytes(gzip.compress(b"a,b\n"))
    with pytest.raises(SourceError, match="must hold at least one row"):
        list(table_rows(path, ("a",)))


def test_a_table_is_streamed(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b\n" + "".join(f"{index},{'x' * 200}\n" for index in range(20000)))
    tracemalloc.start()
    assert sum(1 for _ in table_rows(path, ("a", "b"))) == 20000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4_000_000 and peak < 1_000_000


def test_images_are_found_behind_links_and_once(tmp_path: Path):
    (tmp_path / "far" / "sub").mkdir(parents=True)
    (tmp_path / "far" / "sub" / "1.png").write_bytes(b"12")
    (tmp_path / "far" / "sub" / "._1.png").write_bytes(b"")
    (tmp_path / "far" / "sub" / "loop").symlink_to(tmp_path / "far")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "images").symlink_to(tmp_path / "far")
    (tmp_path / "root" / "1.JPG").write_bytes(b"1")
    (tmp_path / "root" / "2.jpg").symlink_to(tmp_path / "nowhere")
    assert len(list(walk(tmp_path / "root"))) == 3
    images = images_by(tmp_path / "root")
    assert images["1"].endswith("images/sub/1.png") and set(images) == {"1", "2"}
