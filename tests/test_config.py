from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from synthcxr.config import Config, config_hash, dump_config, load_config
from synthcxr.errors import ConditionError, ConfigError, UserError, did_you_mean, shown


class Optimizer(Config):
    learning_rate: float = Field(1e-4, gt=0)
    beta: float = Field(0.9, ge=0, lt=1)


class Arm(Config):
    name: str
    steps: int = 10


class Job(Config):
    source: Literal["nih", "folder"] = "nih"
    output: Path = Path("out")
    size: int | None = None
    seeds: int | list[int] = 0
    note: str | None = None
    optimizer: Optimizer = Optimizer(learning_rate=3e-3)
    arms: list[Arm] = []
    findings: dict[str, Arm] = {}

    @field_validator("note")
    @classmethod
    def _no_nonsense(cls, note: str | None) -> str | None:
        if note == "age 400":
            raise ConditionError("age = 400 must be 0..120")
        if note == "bad":
            raise ValueError("must not be bad")
        return note


def message(path: Path | None = None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(Job, path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "configs" / "job.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


jobs = st.builds(
    Job,
    source=st.sampled_from(["nih", "folder"]),
    size=st.none() | st.integers(),
    seeds=st.integers() | st.lists(st.integers()),
    note=st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    optimizer=st.builds(Optimizer, learning_rate=st.floats(1e-12, 1e12), beta=st.floats(0, 0.99)),
    arms=st.lists(st.builds(Arm, name=st.sampled_from(["1e-4", "no", "null", "a: b", ""]), steps=st.integers())),
)


@given(jobs)
def test_a_dumped_config_loads_as_the_same(tmp_path_factory, job):
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump_config(job), encoding="utf-8")
    again = load_config(Job, path)
    assert again == job
    assert config_hash(again) == config_hash(job)


def test_no_file_and_an_empty_file_are_the_defaults(yaml_file):
    assert load_config(Job) == load_config(Job, yaml_file("")) == Job()


def test_overrides_win_and_are_yaml(yaml_file):
    path = yaml_file("optimizer: {learning_rate: 1e-3}\narms: [{name: a}, {name: b}]\n")
    overrides = ["optimizer.learning_rate=1e-5", "seeds=[1, 2]", "size=null", "arms.1.steps=7", "note='x=y: z'"]
    job = load_config(Job, path, overrides)
    assert job.optimizer.learning_rate == 1e-5
    assert (job.seeds, job.size, job.arms[1].steps, job.note) == ([1, 2], None, 7, "x=y: z")


def test_a_partly_given_nested_config_keeps_the_outer_default(yaml_file):
    assert load_config(Job, None, ["optimizer.beta=0.5"]).optimizer.learning_rate == 3e-3
    assert load_config(Job, yaml_file("optimizer: {beta: 0.5}")).optimizer.learning_rate == 3e-3


def test_configs_are_frozen_and_the_hash_follows_the_values():
    with pytest.raises(ValidationError):
        Job().source = "folder"
    assert config_hash(Job()) == config_hash(Job()) != config_hash(Job(size=1))


def test_a_rule_broken_names_file_field_value_and_rule(yaml_file):
    path = yaml_file("optimizer: {learning_rate: -0.1}")
    assert message(path) == "configs/job.yaml: optimizer.learning_rate = -0.1 must be > 0"
    assert message(None, "optimizer.beta=1") == "optimizer.beta = 1 must be < 1"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.learning_rat=1", "optimizer.learning_rat is no known key; did you mean 'learning_rate'?"),
        ("arms=[{name: a, stepz: 1}]", "arms.0.stepz is no known key; did you mean 'steps'?"),
        ("findings.Mass.stepz=1", "is no known key; did you mean 'steps'?"),
        ("zzzz=1", "zzzz is no known key; the keys here are source, output,"),
        ("source=nhi", "source = 'nhi' must be 'nih' or 'folder'; did you mean 'nih'?"),
        ("size=big", "size = 'big' must be a whole number"),
        ("size=1.5", "size = 1.5 must be a whole number"),
        ("seeds=x", "seeds = 'x' must be a whole number or must be a list"),
        ("arms=[{}]", "arms.0.name is missing"),
        ("optimizer=3", "optimizer = 3 must be a mapping"),
        ("note=bad", "note = 'bad' must not be bad"),
        ("note=age 400", "age = 400 must be 0..120"),
        ("size", "'size' must be written key.path=value"),
        ("=1", "'=1' must be written key.path=value"),
        ("size=[1", "no valid YAML"),
    ],
)
def test_a_wrong_override_is_one_line(override, said):
    assert said in message(None, override)


def test_an_override_into_a_list_or_a_value_says_what_is_there(yaml_file):
    path = yaml_file("source: nih\narms: [{name: a}]")
    assert "arms is a list of 1" in message(path, "arms.3.name=x")
    assert "source is 'nih' and has no keys" in message(path, "source.x=1")


def test_files_that_are_not_configs_are_named(yaml_file, tmp_path):
    assert message(yaml_file("- 1")).startswith("configs/job.yaml: must hold `key: value` lines")
    assert message(yaml_file("size: [1")).startswith("configs/job.yaml: is no valid YAML")
    assert "key 'size' is given twice in line 2" in message(yaml_file("size: 1\nsize: 2"))
    assert "no valid YAML" in message(yaml_file("size: !!python/object/apply:os.getcwd []"))
    assert "did you mean 'job.yaml'?" in message(tmp_path / "configs" / "jobs.yaml")
    assert "can't be read" in message(tmp_path / "configs")


def test_several_mistakes_are_counted():
    assert message(None, "size=x", "source=nhi").endswith("(and 1 more)")


def test_did_you_mean_ignores_case_and_stays_silent_when_nothing_is_near():
    assert did_you_mean("pleural efusion", ["Mass", "Pleural Effusion"]) == "; did you mean 'Pleural Effusion'?"
    assert did_you_mean("zebra", ["Mass"]) == ""


def test_an_error_is_one_line_and_a_path_is_shown_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(ConfigError("a\n  b")) == "a b"
    assert shown(tmp_path / "x" / "y") == "x/y"
    assert shown("/elsewhere/y") == "/elsewhere/y"
