"""Identifiers that are planted in a report never come out of it, and medicine does."""

import re
import string
from datetime import datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from synthcxr.reports import group_ages, impression, scrub
from synthcxr.reports.given_names import GIVEN

DATE_FORMATS = (
    *("%m/%d/%Y", "%m/%d/%y", "%d.%m.%Y", "%m-%d-%Y", "%Y-%m-%d", "%Y/%m/%d", "%d %B %Y", "%d-%b-%Y", "%d-%b-%y"),
    *(
        "%B %d, %Y",
        "%b %d, %Y",
        "%b. %d %Y",
        "%B %d",
        "%d %B",
        "%B %Y",
        "%B, %Y",
        "%B of %Y",
        "%A, %B %d, %Y",
        "%Y%m%d",
    ),
    *("%Y-%m-%dT%H:%M:%S", "%m/%d/%Y %I:%M %p", "%d/%m/%Y at %H:%M"),
)
TIME_FORMATS = ("%H:%M", "%I:%M %p", "%I:%M%p", "%H:%M:%S", "%I %p", "%I:%M a.m.", "%H%M hours", "%H:%M hrs")
TITLES = ("Dr. ", "Dr ", "DR. ", "dr. ", "Drs. ", "Doctor ", "Mr. ", "Mrs. ", "Ms. ", "Prof. ", "Nurse ", "Miss ")
SIGNATURES = ("Signed by ", "Electronically signed by: ", "Dictated by ", "Read and approved by ", "signed by ")
DEGREES = (", M.D.", " MD", ", MD", ", M.D., Ph.D.", ", RN", ", D.O.")
LABELS = ("", "MRN: ", "Accession Number: ", "acct #", "study ", "pager ")
AROUND = ("{}. Small effusion.", "Small effusion, {}.", "Small effusion as of {} is seen.", "Effusion ({}) is small.")

# Words that no report would use, so that finding one in the result is no chance.
surnames = st.tuples(st.sampled_from(string.ascii_uppercase), st.text("qwzjvk", min_size=4, max_size=9)).map("".join)
names = st.builds(
    lambda first, last, form: form.format(first=first, last=last, initial=first[0]),
    surnames,
    surnames,
    st.sampled_from(
        ("{last}", "{first} {last}", "{initial}. {last}", "{first} {initial}. {last}", "{first} de {last}")
    ),
) | st.builds("{}{}{}".format, surnames, st.sampled_from(("-", "'", " and ")), surnames)
digits = st.text(string.digits, min_size=5, max_size=12)
codes = st.builds(
    lambda letters, number, dash: letters + dash + number,
    st.text(string.ascii_uppercase, min_size=1, max_size=4).filter(lambda text: "XXX" not in text),
    st.text("3456789", min_size=4, max_size=9),
    st.sampled_from(("", "-", "_")),
)


def assert_clean(text: str) -> None:
    assert not re.search(r"  | [.,;:)]|\( |,\.|\.\.|,,|\(\)|\b(?:on|at|by|from|of) ?[.,]", text), text
    assert "effusion" in text.lower() and "small" in text.lower(), text
    assert scrub(text) == text


@given(
    st.datetimes(datetime(1920, 1, 1), datetime(2059, 12, 31)),
    st.sampled_from(DATE_FORMATS + TIME_FORMATS),
    st.sampled_from(AROUND),
)
def test_dates_and_times_never_survive(when, form, around):
    told = when.strftime(form)
    text = scrub(around.format(told))
    assert not re.search(r"\d|\b[AaPp]\.?[Mm]\b", text), (told, text)
    assert when.strftime("%B").lower() not in text.lower() and when.strftime("%A").lower() not in text.lower()
    assert_clean(text)


@given(names, st.sampled_from(TITLES + SIGNATURES), st.sampled_from(("", *DEGREES)), st.sampled_from(AROUND))
@example("May Qzk", "Dr. ", "", AROUND[1])
@example("QZKVJ", "Dr. ", ", MD", AROUND[1])
def test_names_after_titles_never_survive(name, title, degree, around):
    text = scrub(around.format(title + name + degree))
    for part in re.findall(r"[^\W\d_]{3,}", name):
        assert part.lower() not in text.lower(), text
    assert not re.search(r"\b(?:Dr|Mrs?|Ms)\b|M\.?D\b|(?i:sign)ed", text), text
    assert_clean(text)


@given(names, st.sampled_from(DEGREES), st.sampled_from(("to", "with")))
def test_names_before_degrees_and_after_told_never_survive(name, degree, preposition):
    text = scrub(f"Small effusion. Interpreted: {name}{degree}. This was discussed {preposition} {name} at noon.")
    assert not [part for part in re.findall(r"[^\W\d_]{3,}", name) if part in text], text
    assert "discussed" in text
    assert_clean(text)


DONE = ("Seen by ", "Examined by ", "seen by: ", "Tube placed by ", "Referred by ")
ROLES = ("Provider: ", "Referring physician: ", "Ordering MD: ", "cc: ", "PCP: ")


@given(names, st.sampled_from(DONE + ROLES), st.sampled_from(AROUND))
@example("John Smith", "Seen by ", AROUND[0])
def test_names_of_who_did_what_never_survive(name, told, around):
    text = scrub(around.format(told + name))
    for part in re.findall(r"[^\W\d_]{3,}", name):
        assert part.lower() not in text.lower(), text
    assert_clean(text)


@given(surnames, surnames, st.sampled_from(("{}, {}", "{}, {} Q", "{}, {} Q.")), st.booleans())
@example("Smith", "John", "{}, {}", True)
def test_last_name_and_first_name_as_a_sentence_never_survive(last, first, form, shouted):
    name = form.format(last, first)
    name = name.upper() if shouted else name
    for around in (
        "{}. Small effusion.",
        "Small effusion. {}.",
        "Small effusion.\n{}",
        "Small effusion.\n{}\nNo edema.",
    ):
        text = scrub(around.format(name))
        assert last.lower() not in text.lower() and first.lower() not in text.lower() and "effusion" in text, text
        assert_clean(text)


@given(st.sampled_from(GIVEN), surnames, st.booleans(), st.sampled_from(AROUND))
def test_names_with_a_common_given_name_never_survive(given_name, surname, shouted, around):
    for form in ("{} {}", "{} Q. {}", "{} Mary {}", "{} de {}"):
        name = form.format(given_name, surname)
        text = scrub(around.format(name.upper() if shouted else name))
        assert given_name.lower() not in text.lower() and surname.lower() not in text.lower(), text
        assert_clean(text)


@pytest.mark.parametrize(
    "text",
    [
        "Evaluated by CT. Seen by Doppler ultrasound.",
        "Followed by Cardiology for cardiomegaly.",
        "EXAMINATION: CHEST, PA.\nClear lungs.",
        "Effusion, Left. Lung, Right.",
        "EFFUSION, LEFT. NODULE, RIGHT. SEEN BY CT.",
        "Charcot-Marie-Tooth disease. Thomas splint. Swan-Ganz catheter. Chronic Kerley B lines.",
        "Patient is rotated. PATIENT ROTATED.",
    ],
)
def test_what_only_looks_like_a_name_stays(text):
    assert scrub(text) == text


@given(st.integers(0, 129), st.sampled_from((" year old", "-year-old", " yo", " y/o", " years of age", "-yr-old")))
def test_ages_of_ninety_and_more_become_one_group(age, years):
    assert group_ages(f"A {age}{years} woman, 95 mm.") == f"A {min(age, 90)}{years} woman, 95 mm."
    assert group_ages(f"Aged {age}, T95 and 3.95.") == f"Aged {min(age, 90)}, T95 and 3.95."
    assert group_ages("A ninety-three year old.") == "A 90 year old."


@given(
    digits | codes,
    st.sampled_from(("", "MRN: ", "Accession Number: ", "acct #", "study ", "pager ")),
    st.sampled_from(AROUND),
)
def test_numbers_of_records_never_survive(number, label, around):
    text = scrub(around.format(label + number))
    assert not re.search(r"\d", text) and number not in text
    assert_clean(text)


@pytest.mark.parametrize(
    "planted",
    [
        *(
            "___",
            "XXXX",
            "xxxx",
            "XXXX/XXXX",
            "XXXX XXXX",
            "____",
            "[**2151-7-16**]",
            "[**First Name8 (NamePattern2)**]",
        ),
        *("<DATE>", "[NAME]", "(650) 555-0123", "650-555-0123", "+44 20 7946 0958", "555-0123", "123-45-6789"),
        *("jane.doe@hospital.org", "https://pacs.example.org/s?id=1", "1.2.840.10008.5.1", "p10000032", "s50414267"),
        *(
            "CXR2890_IM-1293-22001",
            "Patient: DOE, JANE",
            "Patient name: Jane Doe",
            "DOB: 1/2/1934",
            "Qxz General Hospital",
            "DOE^JANE^M",
            "patient Jane Doe",
            "his wife, Qxzv Doe,",
            "Jane",
        ),
        *("in March", "on Tuesday", "since 2009", "on 3/14", "03/05", "at 0830", "ext. 1234", "Dr. ___", "Mr. XXXX"),
    ],
)
@pytest.mark.parametrize("around", AROUND)
def test_other_identifiers_and_redactions_never_survive(planted, around):
    text = scrub(around.format(planted))
    assert not re.search(r"\d|_|[Xx]{2}|\*\*|@|DOE|Doe|Jane|JANE|Qxz|March|Tuesday|Hospital|https|DATE|NAME", text), (
        text
    )
    assert_clean(text)


@given(
    st.floats(0.1, 30).map("{:.1f}".format),
    st.integers(1, 12),
    st.integers(1, 99),
    st.sampled_from(("cm", "mm", " cm", " mm")),
)
def test_medicine_survives_whole(size, number, age, unit):
    text = (
        f"A {age} year old woman, {number} of 12 images. Nodule of {size}{unit} ({size} x {size}{unit}), T{number} and"
        f" L1-L2, rib {number} may be broken, grade 2/3, {age} French tube, 120 kVp, 1500 mL. In {number} weeks MR."
    )
    assert scrub(text) == text


@given(st.text(max_size=200))
def test_scrubbing_again_changes_nothing(text):
    once = scrub(text)
    assert scrub(once) == once


def test_what_is_left_reads_well():
    assert scrub("Compared to ___, the effusion is smaller.") == "Compared to prior, the effusion is smaller."
    assert scrub("No XXXX of pneumonia. Since 3/4/2012, unchanged.") == "No pneumonia. Unchanged."
    assert scrub("Discussed with Dr. A. Bee by Dr. Cee at 10:32 on 3/14/12.") == "Discussed."
    assert scrub("FINDINGS: ___.\nIMPRESSION: Clear .") == "FINDINGS.\nIMPRESSION: Clear."


def test_an_impression_carries_no_identifiers():
    text = "FINDINGS: None.\nIMPRESSION: Effusion, told to Dr. Qxzv on 1/2/2034.\nSIGNED BY: Jane Qxzv, MD"
    assert impression(text) == "Effusion, told."
    assert impression("IMPRESSION: ___.") is None
