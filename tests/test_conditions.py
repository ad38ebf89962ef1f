"""Conditions and prompts: inverses on the canonical grammar, and a reading of ordinary wordings that loses nothing."""

import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synthcxr.conditions import (
    CHEXPERT_LABELS,
    NIH_LABELS,
    SYNONYMS,
    Condition,
    Finding,
    FindingState,
    canonical_words,
    describe,
    parse_finding,
    parse_prompt,
    to_prompt,
    unseen_words,
)
from synthcxr.errors import ConditionError
from synthcxr.vocabulary import RACES, SEVERITIES, SEXES, SIDES, STATES, VIEWS

F = Finding
NO_TEXT: st.SearchStrategy[str | None] = st.none()


def _says_nothing_known(text: str) -> bool:
    return parse_prompt(text) == Condition(text=text)


@st.composite
def conditions(draw: st.DrawFn, texts: st.SearchStrategy[str | None] = NO_TEXT) -> Condition:
    findings = {}
    for finding in draw(st.lists(st.sampled_from(Finding), unique=True, max_size=6)):
        bare = finding is Finding.NO_FINDING
        findings[finding] = FindingState(
            state=draw(st.sampled_from(STATES)),
            side=None if bare else draw(st.none() | st.sampled_from(SIDES)),
            severity=None if bare else draw(st.none() | st.sampled_from(SEVERITIES)),
        )
    return Condition(
        findings=findings,
        age=draw(st.none() | st.integers(0, 120)),
        sex=draw(st.none() | st.sampled_from(SEXES)),
        race=draw(st.none() | st.sampled_from(RACES)),
        view=draw(st.none() | st.sampled_from(VIEWS)),
        text=draw(texts),
    )


# Radiologists' words that aren't in the vocabulary, and the small words and marks around them.
_PLAIN = ("apical", "haze", "spiculated", "near", "the hilum", "right-sided", "small", "stable", "no change", "3.5 cm")
_PLAIN += ("with", "and", "no", "possible", "white lung", "AP window", "72", "f", ",", ".", "; ", "\n", "Stable.", "?")
plain_texts = st.lists(st.sampled_from(_PLAIN), min_size=1, max_size=8).map(" ".join)
_KNOWN = ("pneumothorax", "effusions", "mass", "left", "both", "mild to moderate", "or", "without")
_KNOWN += (
    "cannot be excluded",
    "72 yo",
    "45-year-old",
    "woman",
    "male",
    "black",
    "PA",
    "lateral view",
    "portable",
    "not seen",
)
_KNOWN += ("on the right", "no acute findings", "normal chest", "heart", "acute", "(", ")", "/", "but", "possible", "f")
_KNOWN += ("tube", "chest", "both sides")
any_prompts = st.lists(st.sampled_from(_PLAIN + _KNOWN), max_size=14).map(" ".join)


@given(conditions())
@settings(max_examples=400, deadline=None)
def test_prompt_round_trip(condition: Condition) -> None:
    assert parse_prompt(to_prompt(condition)) == condition


@given(conditions(texts=plain_texts | st.text(min_size=1, max_size=40)))
@settings(max_examples=400, deadline=None)
def test_round_trip_keeps_free_text_verbatim(condition: Condition) -> None:
    assume(condition.text is not None and _says_nothing_known(condition.text))
    prompt = to_prompt(condition)
    assert prompt.endswith(condition.text)
    assert parse_prompt(prompt) == condition


@given(plain_texts)
@settings(deadline=None)
def test_text_without_known_words_is_all_kept(text: str) -> None:
    assert (parse_prompt(text).text or "") == text.strip()


@given(any_prompts)
@settings(max_examples=600, deadline=None)
def test_reading_the_canonical_prompt_of_any_prompt_changes_nothing(prompt: str) -> None:
    understood = parse_prompt(prompt)
    assert parse_prompt(to_prompt(understood)) == understood


@given(any_prompts, st.sampled_from(("xylophone", "quokka-like", "7.3", "ärztin")))
@settings(deadline=None)
def test_no_unknown_word_is_lost(prompt: str, word: str) -> None:
    assert word in (parse_prompt(f"{prompt} {word}").text or "")
    assert word in (parse_prompt(f"{word} {prompt}").text or "")


@given(conditions())
@settings(deadline=None)
def test_canonical_words_are_all_words_of_canonical_prompts(condition: Condition) -> None:
    words = canonical_words()
    assert words == sorted(set(words))
    assert [word for word in unseen_words(to_prompt(condition), words) if not word.isdigit()] == []


def test_each_canonical_word_is_emitted() -> None:
    states = [
        FindingState(state=state, side=side, severity=severity)
        for state, side, severity in zip(STATES, SIDES, SEVERITIES, strict=True)
    ]
    emitted = {to_prompt(Condition(findings={f: s})) for f in Finding if f != F.NO_FINDING for s in states}
    emitted |= {to_prompt(Condition(findings={F.NO_FINDING: state})) for state in STATES}
    emitted |= {
        to_prompt(Condition(age=5, race=race, sex=sex, view=v)) for race in RACES for sex in SEXES for v in VIEWS
    }
    assert set(re.findall(r"[a-z]+", " ".join(emitted).lower())) == set(canonical_words())


@given(conditions(texts=st.none() | plain_texts))
@settings(deadline=None)
def test_condition_survives_json(condition: Condition) -> None:
    assert Condition.model_validate_json(condition.model_dump_json()) == condition


CANONICAL = [
    (Condition(), ""),
    (Condition(age=72, sex="female", view="PA"), "72 year old female. PA view."),
    (Condition(age=0), "0 year old."),
    (Condition(race="native american", view="LATERAL"), "Native american. Lateral view."),
    (
        Condition(
            age=72,
            sex="female",
            view="PA",
            findings={"pneumothorax": "absent", "effusion": {"side": "right", "severity": "severe"}},
        ),
        "72 year old female. PA view. Large right pleural effusion. No pneumothorax.",
    ),
    (Condition(findings={"edema": {"severity": "mild", "state": "uncertain"}}), "Possible mild edema."),
    (
        Condition(findings=["hernia", "no finding"], text="stable since 2019"),
        "No acute findings. Hernia. stable since 2019",
    ),
    (Condition(findings={"Pleural_Thickening": {"side": "bilateral"}}), "Bilateral pleural thickening."),
    (
        Condition(findings={"nodule": {"severity": "mild"}, "Chest Tube": {"side": "left"}}),
        "Small nodule. Left chest tube.",
    ),
]


@pytest.mark.parametrize(("condition", "prompt"), CANONICAL)
def test_canonical_prompts(condition: Condition, prompt: str) -> None:
    assert to_prompt(condition) == prompt
    assert parse_prompt(prompt) == condition


def test_findings_are_in_the_order_of_the_vocabulary_and_absences_last() -> None:
    one = Condition(findings={"mass": "present", "edema": "present", "cardiomegaly": "absent", "hernia": "uncertain"})
    two = Condition(findings={"hernia": "uncertain", "cardiomegaly": "absent", "edema": "present", "mass": "present"})
    assert list(one.findings) == list(two.findings)
    assert to_prompt(one) == to_prompt(two) == "Edema. Mass. Possible hernia. No cardiomegaly."


def test_other_templates() -> None:
    roentgen = "{age} year old {RACE} {sex}. {impression}"
    condition = Condition(age=86, race="black", sex="female", view="AP", findings=["edema"])
    assert to_prompt(condition, roentgen) == "86 year old BLACK female. Edema."
    assert to_prompt(Condition(view="PA"), roentgen) == ""
    worded = "Chest x-ray of a {age} year old, {sex}. {impression}"
    assert to_prompt(Condition(age=5, text="haze"), worded) == "Chest x-ray of a 5 year old. haze"
    assert to_prompt(Condition(sex="male"), worded) == "Chest x-ray of a male."
    with pytest.raises(ConditionError, match="'gender' must be one of"):
        to_prompt(condition, "{gender}")


def _absent(*findings: str) -> dict[str, str]:
    return dict.fromkeys(findings, "absent")


UNDERSTOOD = [
    # negation
    ("no pneumothorax", {"findings": _absent("pneumothorax")}),
    ("Without effusion.", {"findings": _absent("effusion")}),
    ("no effusion or pneumothorax", {"findings": _absent("effusion", "pneumothorax")}),
    ("No effusion, pneumothorax or consolidation.", {"findings": _absent("effusion", "pneumothorax", "consolidation")}),
    (
        "no pneumothorax, large left effusion",
        {"findings": {"pneumothorax": "absent", "effusion": {"side": "left", "severity": "severe"}}},
    ),
    ("no pneumothorax and a mass", {"findings": {"pneumothorax": "absent", "mass": "present"}}),
    ("No edema but emphysema", {"findings": {"edema": "absent", "emphysema": "present"}}),
    ("There is no evidence of focal consolidation.", {"findings": _absent("consolidation")}),
    ("Effusion and edema are not seen", {"findings": _absent("effusion", "edema")}),
    ("no spiculated mass", {"text": "no spiculated mass"}),
    ("no effusion or spiculated mass", {"findings": _absent("effusion"), "text": "no spiculated mass"}),
    ("no change in effusion", {"text": "no change in effusion"}),
    # doubt
    ("possible pneumonia or atelectasis", {"findings": dict.fromkeys(("pneumonia", "atelectasis"), "uncertain")}),
    ("pneumonia cannot be excluded", {"findings": {"pneumonia": "uncertain"}}),
    # side
    ("right-sided effusion", {"findings": {"effusion": {"side": "right"}}}),
    ("effusion on the left side", {"findings": {"effusion": {"side": "left"}}}),
    ("left and right effusion", {"findings": {"effusion": {"side": "bilateral"}}}),
    ("Left effusion. Right effusion.", {"findings": {"effusion": {"side": "bilateral"}}}),
    ("effusions on both sides", {"findings": {"effusion": {"side": "bilateral"}}}),
    # severity
    ("tiny pneumothorax", {"findings": {"pneumothorax": {"severity": "mild"}}}),
    ("large edema", {"findings": {"edema": {"severity": "severe"}}}),
    ("mild to moderate edema", {"findings": {"edema": {"severity": "moderate"}}}),
    ("moderate-sized, left effusion", {"findings": {"effusion": {"severity": "moderate", "side": "left"}}}),
    # normal
    ("No evidence of acute cardiopulmonary process .", {"findings": ["no finding"]}),
    ("normal chest x-ray", {"findings": ["no finding"]}),
    ("not a normal chest", {"findings": {"no finding": "absent"}}),
    # who
    ("72-year-old woman", {"age": 72, "sex": "female"}),
    ("72 yo", {"age": 72}),
    ("72y F", {"age": 72, "sex": "female"}),
    ("72 y/o M", {"age": 72, "sex": "male"}),
    ("man aged 45", {"age": 45, "sex": "male"}),
    ("86 year old BLACK female.", {"age": 86, "race": "black", "sex": "female"}),
    ("African American man", {"race": "black", "sex": "male"}),
    ("white lung with edema", {"findings": ["edema"], "text": "white lung"}),
    ("72 months", {"text": "72 months"}),
    ("f", {"text": "f"}),
    # view
    ("portable", {"view": "AP"}),
    ("portable chest x-ray", {"view": "AP"}),
    ("PA chest radiograph", {"view": "PA"}),
    ("lateral view", {"view": "LATERAL"}),
    ("72 yo, lateral", {"age": 72, "view": "LATERAL"}),
    ("frontal view", {"text": "frontal view"}),
    ("AP window and lateral angle", {"text": "AP window and lateral angle"}),
    # synonyms
    ("enlarged heart", {"findings": ["cardiomegaly"]}),
    ("ET tube, PICC line and chest tubes", {"findings": ["Endotracheal Tube", "Central Line", "Chest Tube"]}),
    ("infiltrates, pulmonary oedema", {"findings": ["infiltration", "edema"]}),
    # kept
    ("spiculated mass near the hilum", {"findings": ["mass"], "text": "spiculated. near the hilum"}),
    ("Haze,  or so.\nEdema. Lines\tand  such.", {"findings": ["edema"], "text": "Haze,  or so. Lines\tand  such."}),
    ("Haze,  or so.\n\nLines\tand  such.", {"text": "Haze,  or so.\n\nLines\tand  such."}),
    ("PA view. lateral view.", {"view": "PA", "text": "lateral view"}),
    (
        "Right effusion. No left effusion.",
        {"findings": {"effusion": {"side": "right"}}, "text": "no left pleural effusion"},
    ),
    ("Masslike haze, semieffusion", {"text": "Masslike haze, semieffusion"}),
]


@pytest.mark.parametrize(("prompt", "fields"), UNDERSTOOD)
def test_ordinary_wordings(prompt: str, fields: dict) -> None:
    assert parse_prompt(prompt) == Condition(**fields)


def test_labels_and_synonyms_are_findings() -> None:
    assert len(NIH_LABELS) == 15 and len(CHEXPERT_LABELS) == 14
    assert set(NIH_LABELS.values()) | set(CHEXPERT_LABELS.values()) == set(list(Finding)[:21])
    for name, finding in {**SYNONYMS, **NIH_LABELS, **CHEXPERT_LABELS, **{f.name: f for f in Finding}}.items():
        assert parse_finding(name) is parse_finding(name.upper()) is finding
    for name, finding in SYNONYMS.items():
        assert parse_prompt(name).findings == {finding: FindingState()}


BAD = [
    ({"age": 400}, "age = 400 must be a whole number of years, 0 to 120"),
    ({"age": -1}, "age = -1 must be"),
    ({"age": 1.5}, "age = 1.5 must be"),
    ({"age": True}, "age = True must be"),
    ({"sex": "femal"}, "sex = 'femal' must be one of female, male; did you mean 'female'?"),
    ({"view": "oblique"}, "view = 'oblique' must be one of PA, AP, LATERAL"),
    ({"findings": ["pleural efusion"]}, "unknown finding 'pleural efusion'; did you mean 'Pleural Effusion'?"),
    ({"findings": {"edema": "presnt"}}, "state = 'presnt' must be one of .*; did you mean 'present'?"),
    ({"findings": {"edema": {"side": "up"}}}, "side = 'up' must be one of left, right, bilateral"),
    ({"findings": {"effusion": "present", "Pleural Effusion": "absent"}}, "'Pleural Effusion' is given twice"),
    ({"findings": {"no finding": {"side": "left"}}}, "'No Finding' takes no side"),
    ({"findings": "edema"}, "must be a mapping"),
]


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_mistakes_are_one_line(fields: dict, message: str) -> None:
    with pytest.raises(ConditionError, match=message.replace("?", r"\?")) as caught:
        Condition(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["400 year old male", "Edema. 121-year-old", "99999999999999999999999 yo"])
def test_prompt_with_an_impossible_age(prompt: str) -> None:
    with pytest.raises(ConditionError, match="must be a whole number of years, 0 to 120"):
        parse_prompt(prompt)


def test_spellings_of_structured_input() -> None:
    spelled = Condition(
        age="72", sex="F", race="Caucasian", view="pa", text="  haze ", findings={F.MASS: {"side": "LEFT"}}
    )
    assert spelled == Condition(
        age=72, sex="female", race="white", view="PA", text="haze", findings={"mass": FindingState(side="left")}
    )
    assert Condition(text="  ").text is None


def test_describe_is_one_line() -> None:
    condition = parse_prompt("72 yo Asian woman, PA. Large right effusion, no mass. Odd\nthing.")
    assert describe(condition) == (
        "asian female, 72 years, PA view, large right pleural effusion, no mass; free text: 'Odd thing.'"
    )
    assert describe(Condition()) == "nothing known"


def test_unseen_words() -> None:
    seen = [*canonical_words(), "72"]
    assert unseen_words("72 year old female. Spiculated, spiculated mass.", seen) == ["spiculated"]
    assert unseen_words("73 year old; 3.5 cm", seen) == ["73", "3", "5", "cm"]
    assert unseen_words("", seen) == []
