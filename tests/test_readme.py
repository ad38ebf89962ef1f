"""The README's commands and links are real; .ci/run calls the two commands themselves."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from synthcxr.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ (.+)$", README, re.M)


def test_first_two_commands_are_those_of_a_fresh_machine():
    assert COMMANDS[0].startswith("pip install . && synthcxr generate ")
    assert COMMANDS[1] == 'pip install -e ".[dev]" && pytest'


def test_generate_command_has_flags_that_exist(tmp_path):
    words = shlex.split(COMMANDS[0].split("&& synthcxr ")[1])
    words[words.index("-o") + 1] = str(tmp_path / "out")
    result = CliRunner().invoke(app, [*words, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "count: 4" in result.output and not (tmp_path / "out").exists()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https://)([^)#]+)\)", README))))
def test_links_lead_somewhere(target):
    if not (ROOT / "synthcxr" / "weights" / "model_index.json").exists():
        pytest.skip("no embedded weights in this checkout, nor the pictures they drew")
    assert (ROOT / target).exists()


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"`synthcxr (\w+)", README))))
def test_verbs_of_the_table_exist(verb):
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0


def test_python_example_runs_up_to_the_model():
    block = re.search(r"```python\n(.+?)```", README, re.S)[1]
    compile(block, "README.md", "exec")
    for line in block.splitlines():
        if line.startswith("from "):
            exec(compile(line, "README.md", "exec"), {})
