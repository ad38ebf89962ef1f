"""Which samples a step sees, and in which words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.conditions import Condition, parse_prompt
from synthcxr.train.batches import NEGATABLE, batch_items, share, step_rng, training_prompt
from synthcxr.vocabulary import Finding

TEMPLATE = "{age} year old {sex}. {view} view. {impression}"
LABELLED = Condition(findings=["Cardiomegaly", "Pleural Effusion"], age=60, sex="female", view="PA")


@given(st.integers(1, 40), st.integers(1, 17), st.integers(0, 5))
def test_every_epoch_is_a_permutation(count, batch_size, seed):
    items = np.arange(count) * 3
    steps = -(-3 * count // batch_size)
    seen = np.concatenate([batch_items(items, seed, step, batch_size) for step in range(steps)])[: 3 * count]
    assert all(sorted(epoch) == items.tolist() for epoch in seen.reshape(3, count).tolist())


def test_epochs_and_seeds_differ():
    items = np.arange(50)
    first, second = batch_items(items, 0, 0, 50), batch_items(items, 0, 1, 50)
    assert first.tolist() != second.tolist() and first.tolist() != batch_items(items, 1, 0, 50).tolist()


def test_repeated_items_come_as_often_as_they_stand():
    assert sorted(batch_items(np.array([4, 4, 7]), 0, 5, 3).tolist()) == [4, 4, 7]


def test_a_batch_is_a_function_of_its_step_alone():
    items = np.arange(13)
    straight = [batch_items(items, 3, step, 4).tolist() for step in range(12)]
    backwards = [batch_items(items, 3, step, 4).tolist() for step in reversed(range(12))][::-1]
    assert straight == backwards


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_shares_make_up_the_batch(processes):
    batch = batch_items(np.arange(20), 0, 3, 8)
    shares = [share(batch, rank, processes) for rank in range(processes)]
    assert {len(part) for part in shares} == {8 // processes}
    assert sorted(np.concatenate(shares)) == sorted(batch)


def test_generators_of_steps_and_purposes_differ():
    draws = {step_rng(0, purpose, step).random() for purpose in ("a", "b") for step in (0, 1)}
    assert len(draws) == 4
    assert step_rng(0, "a", 1).random() == step_rng(0, "a", 1).random()


def test_caption_dropout_is_the_empty_prompt():
    told = [training_prompt(LABELLED, TEMPLATE, step_rng(0, "p", i), caption_dropout=0.25) for i in range(400)]
    assert 0.18 < told.count("") / len(told) < 0.32
    assert set(told) == {"", "60 year old female. PA view. Cardiomegaly. Pleural effusion."}
    assert training_prompt(LABELLED, TEMPLATE, step_rng(0, "p", 0), caption_dropout=1.0) == ""


def test_what_is_said_is_true():
    """Each part may go unsaid, and findings that labels leave out may be denied; nothing else is ever said."""
    denied = set()
    for i in range(300):
        said = parse_prompt(training_prompt(LABELLED, TEMPLATE, step_rng(1, "p", i), part_dropout=0.3, negatives=0.9))
        assert (said.age, said.sex, said.view) == tuple(
            value if getattr(said, name) else None for name, value in (("age", 60), ("sex", "female"), ("view", "PA"))
        )
        present = {finding for finding, state in said.findings.items() if state.state == "present"}
        absent = set(said.findings) - present
        assert present in (set(), set(LABELLED.findings))
        assert not absent & set(LABELLED.findings) and len(absent) <= 2
        assert all(said.findings[finding].state == "absent" for finding in absent)
        denied |= absent
    assert denied == set(NEGATABLE) - set(LABELLED.findings)


def test_healthy_images_may_lack_anything_but_health():
    healthy = Condition(findings=["No Finding"])
    told = {training_prompt(healthy, TEMPLATE, step_rng(2, "p", i), negatives=1.0) for i in range(100)}
    assert all(parse_prompt(prompt).findings[Finding.NO_FINDING].state == "present" for prompt in told)


def test_unlabelled_images_are_never_said_to_lack_anything():
    unlabelled = Condition(age=50, sex="male")
    told = {training_prompt(unlabelled, TEMPLATE, step_rng(0, "p", i), negatives=1.0) for i in range(50)}
    assert told == {"50 year old male."}
