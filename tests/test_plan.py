"""Plans: pure functions of the config and a row number."""

import json
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from synthcxr.conditions import Condition, parse_prompt
from synthcxr.data.dataset import Dataset
from synthcxr.errors import ConditionError, ConfigError, DatasetError, UserError
from synthcxr.files import sha256_file
from synthcxr.synthesis.plan.counterfactual import change
from synthcxr.synthesis.plan.permutation import SEED_BITS, Permutation, Seeds
from synthcxr.synthesis.plan.prompts import STRIDE
from synthcxr.synthesis.plan.rows import Plan, PlanConfig, Rows, open_plan, pinned
from synthcxr.synthesis.plan.table import table
from synthcxr.vocabulary import Finding

TEN_MILLION = 10_000_000


def plan(**fields) -> Plan:
    return open_plan(TypeAdapter(PlanConfig).validate_python(fields), seed=0)


def balanced(rows: int, **fields) -> Plan:
    return plan(kind="balanced", rows=rows, **{"findings": ["No Finding", "effusion"], **fields})


@given(st.integers(1, 600), st.text(max_size=5))
def test_a_permutation_is_one(size: int, key: str) -> None:
    assert sorted(map(Permutation(size, key), range(size))) == list(range(size))


def test_permutations_differ_by_key_and_shuffle() -> None:
    one, other = ([Permutation(1000, key)(n) for n in range(1000)] for key in "ab")
    assert one != other and sum(n == place for n, place in enumerate(one)) < 20
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        Permutation(5, "")(5)


def test_no_seed_comes_twice() -> None:
    # That a permutation is one-to-one is shown above; here, that groups and attempts have places of their own in it.
    seeds = Seeds(3)
    made = {
        seeds(group, attempt)
        for attempt in range(3)
        for group in (*range(30_000), *range(TEN_MILLION - 99, TEN_MILLION))
    }
    assert len(made) == 3 * 30_099 and 0 <= min(made) and max(made) < 1 << SEED_BITS
    assert seeds(5) != Seeds(4)(5)


def test_ten_million_rows_take_no_memory() -> None:
    axes = {"sex": ["female", "male"], "age": [[20, 49], [50, 80]], "view": ["PA", "AP"]}
    tracemalloc.start()
    rows = Rows(balanced(TEN_MILLION, **axes), "x", 0)
    for group in range(0, TEN_MILLION, 9973):
        rows.of_group(group), rows.seed_of(group)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    (last,) = rows.of_group(TEN_MILLION - 1)
    assert last.id == "x-09999999" and last.condition.sex == "male"


def test_cells_of_a_grid_are_alike_in_any_stretch() -> None:
    grid = balanced(10**6, sex=["female", "male"], age=[[20, 29], [60, 64]], race=["asian"], view=["PA", "AP"])

    def cell(number: int) -> tuple:
        condition = grid.condition(number)
        return (*condition.findings, condition.sex, condition.age < 30, condition.race, condition.view)

    for first, length in ((0, 160), (777, 100)):
        counts = Counter(map(cell, range(first, first + length)))
        assert len(counts) == 16 and max(counts.values()) - min(counts.values()) <= 1
    ages = {grid.condition(number).age for number in range(2000)}
    assert ages == {*range(20, 30), *range(60, 65)}


def test_decorrelated_makes_all_four_cells_alike() -> None:
    grid = plan(kind="decorrelated", rows=80, finding="pneumothorax", confounder="chest tube", sex=["female", "male"])
    counts = Counter(
        (grid.condition(n).sex, *(state.state for state in grid.condition(n).findings.values())) for n in range(80)
    )
    assert len(counts) == 8 and set(counts.values()) == {10}
    assert len({condition.model_dump_json() for condition in grid.contrasts}) == 4
    with pytest.raises(ConfigError, match="two different findings"):
        plan(kind="decorrelated", rows=8, finding="edema", confounder="edema")


def test_copy_has_the_joint_distribution(tiny_dataset: Dataset) -> None:
    copied = plan(kind="copy", rows=1001, dataset=tiny_dataset.path)
    real = Counter(record.condition.model_dump_json() for record in tiny_dataset.split("train"))
    drawn = Counter(copied.condition(n).model_dump_json() for n in range(1001))
    assert set(drawn) == set(real)
    for condition, count in real.items():
        assert abs(drawn[condition] - 1001 * count / sum(real.values())) <= 1
    # Shuffled, so that a run that was cut off hasn't drawn one patient after the other.
    assert len({copied.condition(n).model_dump_json() for n in range(20)}) > 4
    with pytest.raises(DatasetError, match="dataset_hash"):
        pinned(TypeAdapter(PlanConfig).validate_python(
            {"kind": "copy", "rows": 1, "dataset": tiny_dataset.path, "dataset_hash": "0"}))  # fmt: skip


def test_counterfactual_changes_one_attribute_within_a_group() -> None:
    base = {"kind": "balanced", "rows": 10, "findings": ["No Finding", "edema"], "sex": ["male"], "age": [[30, 80]]}
    varied = plan(kind="counterfactual", of=base, attribute="effusion", values=["absent", "present", None])
    rows = Rows(varied, "x", 0)
    assert (len(rows), rows.groups) == (30, 10)
    for group in range(10):
        made = rows.of_group(group)
        assert len({row.patient for row in made}) == 1 and len({row.id for row in made}) == 3
        others = [
            {
                **row.condition.model_dump(),
                "findings": set(row.condition.findings) - {Finding.PLEURAL_EFFUSION, Finding.NO_FINDING},
            }
            for row in made
        ]
        assert others[0] == others[1] == others[2]
        states = [row.condition.findings.get(Finding.PLEURAL_EFFUSION) for row in made]
        assert [state and state.state for state in states] == ["absent", "present", None]
    assert Finding.NO_FINDING not in varied.condition(1).findings and Finding.NO_FINDING in varied.condition(0).findings
    assert change(Condition(sex="male"), "sex", "female").sex == "female"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attribute": "sexx", "values": ["a", "b"]}, "did you mean 'sex'"),
        ({"attribute": "sex", "values": ["female", "femal"]}, "did you mean 'female'"),
        ({"attribute": "age", "values": [30, 30]}, "differ"),
    ],
)
def test_a_counterfactual_that_makes_no_sense(fields: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        plan(kind="counterfactual", of={"kind": "balanced", "rows": 1, "findings": ["edema"]}, **fields)


def test_prompts_are_read_where_they_stand(tmp_path: Path) -> None:
    count = 2 * STRIDE + 7
    ages = [20 + n % 60 for n in range(count)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps({'prompt': f'{age} year old. Edema.'})}\n" for age in ages))
    lines = [f'"{age} year old.\n\n""Edema"" there, and, more."\n' for age in ages]
    (tmp_path / "a.csv").write_text("\ufeffprompt\n" + "\n".join(lines), encoding="utf-8")
    for name in ("a.jsonl", "a.csv"):
        prompts = plan(kind="prompts", file=tmp_path / name, each=3)
        assert prompts.rows == 3 * count
        for number in (0, 1, 3, 3 * STRIDE - 1, 3 * STRIDE, 5, 3 * count - 1):
            assert prompts.condition(number).age == ages[number // 3], (name, number)
    assert prompts.condition(0) == parse_prompt('20 year old.\n\n"Edema" there, and, more.')


def test_prompts_lose_what_names_people_and_days(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["Edema.", "Dr. Ann Roe saw edema on 03/04/2011.", "Edema,  as before."]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps({'prompt': line})}\n" for line in lines))
    prompts = plan(kind="prompts", file=tmp_path / "a.jsonl")
    told = [prompts.condition(number).model_dump_json() for number in range(3)]
    assert not [name for name in ("Ann", "Roe", "2011") if name in "".join(told)]
    assert prompts.condition(0) == Condition(findings=["edema"]) and prompts.condition(2) == parse_prompt(lines[2])
    assert "taken out of 1 of 3 prompts of" in caplog.text and "Roe" not in caplog.text


def test_prompts_may_be_parts_of_conditions(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,sex,findings,other\n40,f,,x\n50,male,edema|Pleural Effusion,y\n")
    prompts = plan(kind="prompts", file=tmp_path / "a.csv")
    assert prompts.condition(0) == Condition(age=40, sex="female")
    assert prompts.condition(1) == Condition(age=50, sex="male", findings=["edema", "effusion"])
    hashed = pinned(TypeAdapter(PlanConfig).validate_python({"kind": "prompts", "file": tmp_path / "a.csv"}))
    assert hashed.file_hash == sha256_file(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("plan.csv", "prompt\nEdema.\n400 year old.\n", "plan.csv row 2: age = 400"),
        (
            "plan.csv",
            "findings\npleural efusion\n",
            "row 1: unknown finding 'pleural efusion'; did you mean 'Pleural Eff",
        ),
        ("plan.jsonl", '{"prompt": "Edema."}\n{"prompt"\n', "plan.jsonl row 2: "),
        ("plan.jsonl", '{"promt": "Edema."}\n', "row 1: must have a prompt, or some of age"),
        ("plan.jsonl", "", "has no prompt"),
        ("plan.txt", "Edema.", "must be a .csv or .jsonl"),
    ],
)
def test_a_mistake_names_file_row_and_rule(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConditionError, match=says):
        plan(kind="prompts", file=tmp_path / name)


def test_the_table_counts_and_shows() -> None:
    lines = list(table(Rows(balanced(200_000, sex=["female", "male"]), "x", 0)))
    assert any(line.split() == ["sex", "female", "100,000", "50.0%"] for line in lines), lines
    assert lines[1] == "4 different conditions"
    # Of a larger plan some rows are looked at: of all its cells alike.
    grid = {"sex": ["female", "male"], "view": ["PA", "AP"], "race": ["asian", "black", "white"]}
    lines = list(table(Rows(balanced(2_400_000, **grid), "x", 0)))
    assert lines[0] == "2,400,000 rows in 2,400,000 groups of 1"
    assert lines[1] == "24 different conditions (of 200,000 rows looked at, drawn at random)"
    shares = {" ".join(line.split()[:-2]): float(line.split()[-1][:-1]) for line in lines if line.endswith("%")}
    assert len(shares) == 10 and shares["view AP"] == pytest.approx(50, abs=0.5), lines
    assert shares["race asian"] == pytest.approx(33.3, abs=0.5)
    assert lines[-5].startswith("x-00000000  seed ") and lines[-5].endswith("Asian female. PA view. No acute findings.")
