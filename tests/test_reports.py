import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthcxr.conditions import Condition, Finding, FindingState, finding_phrase
from synthcxr.reports import Sections, findings_in, impression, report_condition, sections

F = Finding
MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PORTABLE AP)

 INDICATION:  ___ year old woman with pneumonia and rib fracture.  // interval change

 COMPARISON:  Radiograph from ___.

 FINDINGS:

 LUNGS: There is a hazy opacity at the left
 base, likely atelectasis.  HEART: Mildly enlarged.

 The chest tube has been taken out; no pneumothorax.

 IMPRESSION:

 1.  Left basilar opacity.
 2.  Stable mild cardiomegaly.

 NOTIFICATION:  Large mass discussed with Dr. ___ at 10:00.
"""
CHEXPERT_PLUS = """NARRATIVE:
RADIOGRAPHIC EXAMINATION OF THE CHEST: 1-2-2003

CLINICAL HISTORY: 61 years of age, female, rule out edema.

COMPARISON: None.

PROCEDURE COMMENTS: Single AP view.

FINDINGS: RIGHT JUGULAR CENTRAL LINE UNCHANGED. NEW RIGHT LOWER LOBE CONSOLIDATION.

IMPRESSION:
1.CENTRAL LINE IN PLACE.
2.RIGHT LOWER LOBE CONSOLIDATION, POSSIBLE PNEUMONIA.
END OF IMPRESSION
SUMMARY: 4-POSSIBLE SIGNIFICANT ABNORMALITY, LARGE HERNIA
ACCESSION NUMBER:
AB1234567
"""
OPENI = "COMPARISON: XXXX. INDICATION: Dyspnea FINDINGS: XXXX lungs. No effusion. IMPRESSION: Clear lungs."


def states(text: str) -> dict[Finding, str]:
    return {finding: state.state for finding, state in findings_in(text).items()}


PRESENT, ABSENT, UNCERTAIN = "present", "absent", "uncertain"
SENTENCES = [
    # Before, and in lists.
    ("There's no sign of pneumothorax or pleural effusion.", {F.PNEUMOTHORAX: ABSENT, F.PLEURAL_EFFUSION: ABSENT}),
    ("No effusion, edema, or consolidation is seen.", {F.EDEMA: ABSENT, F.CONSOLIDATION: ABSENT}),
    ("Negative for acute, displaced rib fracture.", {F.FRACTURE: ABSENT}),
    ("Neither infiltrate nor nodule.", {F.INFILTRATION: ABSENT, F.NODULE: ABSENT}),
    ("No findings consistent with pneumonia.", {F.PNEUMONIA: ABSENT}),
    ("Scar rather than nodule at the apex.", {F.FIBROSIS: PRESENT, F.NODULE: ABSENT}),
    # Where the list ends.
    ("No pneumothorax, small left effusion.", {F.PNEUMOTHORAX: ABSENT, F.PLEURAL_EFFUSION: PRESENT}),
    ("No edema but a large hernia.", {F.EDEMA: ABSENT, F.HERNIA: PRESENT}),
    ("No effusions and the heart is enlarged.", {F.PLEURAL_EFFUSION: ABSENT, F.CARDIOMEGALY: PRESENT}),
    ("Without edema, the lungs show a nodule.", {F.EDEMA: ABSENT, F.NODULE: PRESENT}),
    # After.
    ("Pneumothorax is not identified.", {F.PNEUMOTHORAX: ABSENT}),
    ("The opacity seen before has resolved.", {F.LUNG_OPACITY: ABSENT}),
    ("Effusion, mass and nodule aren't present; none were seen.", {}),
    ("Effusion, mass and nodule are not seen.", {F.PLEURAL_EFFUSION: ABSENT, F.MASS: ABSENT, F.NODULE: ABSENT}),
    ("There is an infiltrate, and effusion is not seen.", {F.INFILTRATION: PRESENT, F.PLEURAL_EFFUSION: ABSENT}),
    ("The nodules are smaller and no longer visible.", {F.NODULE: ABSENT}),
    ("Pneumonia is unlikely.", {F.PNEUMONIA: ABSENT}),
    ("Pleural effusion: none.", {F.PLEURAL_EFFUSION: ABSENT}),
    # What only looks like a denial.
    ("No change in the moderate effusion.", {F.PLEURAL_EFFUSION: PRESENT}),
    ("Without significant interval increase in atelectasis.", {F.ATELECTASIS: PRESENT}),
    ("Nearly complete resolution of the pneumothorax.", {F.PNEUMOTHORAX: PRESENT}),
    ("Repeat film to ensure resolution of the consolidation.", {F.CONSOLIDATION: PRESENT}),
    # Doubt.
    ("Possible pneumonia.", {F.PNEUMONIA: UNCERTAIN}),
    ("Opacities may represent edema or pneumonia.", dict.fromkeys((F.EDEMA, F.PNEUMONIA), UNCERTAIN)),
    ("Blunting of the sulcus suggests a small effusion.", {F.PLEURAL_EFFUSION: UNCERTAIN}),
    ("Cannot exclude a nodule.", {F.NODULE: UNCERTAIN}),
    ("A small pneumothorax can't be entirely ruled out.", {F.PNEUMOTHORAX: UNCERTAIN}),
    ("Base atelectasis versus consolidation.", {F.ATELECTASIS: UNCERTAIN, F.CONSOLIDATION: UNCERTAIN}),
    ("No nodule suspicious for malignancy.", {F.NODULE: ABSENT, F.LUNG_LESION: ABSENT}),
    ("The differential includes edema, mild fibrosis and pneumonia.", dict.fromkeys((F.EDEMA, F.FIBROSIS), UNCERTAIN)),
    ("Likely atelectasis, although pneumonia is possible.", {F.ATELECTASIS: UNCERTAIN, F.PNEUMONIA: UNCERTAIN}),
    ("Borderline heart size.", {F.CARDIOMEGALY: UNCERTAIN}),
    # History, questions, comparison.
    ("History of pneumonia.", {F.PNEUMONIA: None}),
    ("Evaluate for pneumothorax.", {F.PNEUMOTHORAX: None}),
    ("If there is concern for rib fracture, dedicated views may help.", {F.FRACTURE: None}),
    ("History of lymphoma with new effusion.", {F.PLEURAL_EFFUSION: PRESENT}),
    ("Compared to the prior study, the effusion has decreased.", {F.PLEURAL_EFFUSION: PRESENT}),
    # Look-alikes.
    ("Moderate pericardial effusion.", {F.PLEURAL_EFFUSION: None}),
    ("Subcutaneous emphysema in the neck.", {F.EMPHYSEMA: None}),
    ("The catheter is fractured.", {F.FRACTURE: None, F.SUPPORT_DEVICES: PRESENT}),
    ("Congestion without overt edema.", {F.EDEMA: ABSENT}),
    # The heart and the middle.
    ("Heart size is normal.", {F.CARDIOMEGALY: ABSENT}),
    ("The heart is not enlarged.", {F.CARDIOMEGALY: ABSENT}),
    ("The cardiac silhouette remains moderately enlarged.", {F.CARDIOMEGALY: PRESENT}),
    ("Stable cardiomegaly.", {F.CARDIOMEGALY: PRESENT}),
    ("The mediastinum is not widened.", {F.ENLARGED_CARDIOMEDIASTINUM: ABSENT}),
    ("Cardiomediastinal contours are unremarkable.", {F.CARDIOMEGALY: ABSENT, F.ENLARGED_CARDIOMEDIASTINUM: ABSENT}),
    # Devices.
    ("Left chest tube in place.", {F.CHEST_TUBE: PRESENT, F.SUPPORT_DEVICES: PRESENT}),
    ("The chest tube has been removed.", {F.CHEST_TUBE: ABSENT, F.SUPPORT_DEVICES: ABSENT}),
    ("Interval removal of the PICC line.", {F.CENTRAL_LINE: ABSENT}),
    ("Catheter tip projects over the lower SVC.", {F.CENTRAL_LINE: PRESENT, F.SUPPORT_DEVICES: PRESENT}),
    ("The patient was extubated.", {F.ENDOTRACHEAL_TUBE: ABSENT}),
    ("Dual-lead pacer on the left.", {F.PACEMAKER: PRESENT, F.SUPPORT_DEVICES: PRESENT}),
    ("Feeding tube below the diaphragm.", {F.SUPPORT_DEVICES: PRESENT, F.CENTRAL_LINE: None}),
    # Names of one thing for another.
    ("Lobar collapse.", {F.ATELECTASIS: PRESENT}),
    ("Bullae at both apices.", {F.EMPHYSEMA: PRESENT}),
    ("Hydropneumothorax.", {F.PNEUMOTHORAX: PRESENT, F.PLEURAL_EFFUSION: PRESENT}),
    ("Hazy density in the right base.", {F.LUNG_OPACITY: PRESENT}),
    ("A 6 mm nodular opacity.", {F.NODULE: UNCERTAIN, F.LUNG_OPACITY: PRESENT}),
]


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES, ids=[sentence for sentence, _ in SENTENCES])
def test_a_sentence_asserts_what_a_radiologist_means(sentence, expected):
    found = states(sentence)
    assert {finding: found.get(finding) for finding in expected} == expected


def test_every_name_of_a_prompt_is_read_from_a_report_too():
    for finding in set(Finding) - {F.NO_FINDING}:
        for state in (PRESENT, ABSENT, UNCERTAIN):
            said = finding_phrase(finding, FindingState(state=state)).capitalize()
            assert states(said + ".").get(finding) == state, said


@pytest.mark.parametrize(
    ("sentence", "finding", "side", "severity"),
    [
        ("Large right pleural effusion with compressive atelectasis.", F.PLEURAL_EFFUSION, "right", "severe"),
        ("Small left and moderate right effusions.", F.PLEURAL_EFFUSION, "bilateral", "moderate"),
        ("The effusion on the left is tiny.", F.PLEURAL_EFFUSION, "left", "mild"),
        ("Bilateral effusions, right greater than left.", F.PLEURAL_EFFUSION, "bilateral", None),
        ("In the left lower lobe there is a consolidation.", F.CONSOLIDATION, "left", None),
        ("Opacities in the lung bases.", F.LUNG_OPACITY, "bilateral", None),
        ("Right basilar opacity, likely atelectasis.", F.ATELECTASIS, "right", None),
        ("Scarring or atelectasis in the left base.", F.FIBROSIS, "left", None),
        ("Left effusion. Right effusion.", F.PLEURAL_EFFUSION, "bilateral", None),
        ("The heart is moderately enlarged.", F.CARDIOMEGALY, None, "moderate"),
        ("Left pacemaker with leads in the right atrium and right ventricle.", F.SUPPORT_DEVICES, "left", None),
        ("No large left effusion.", F.PLEURAL_EFFUSION, "left", "severe"),
        ("No left effusion. No right effusion.", F.PLEURAL_EFFUSION, None, None),
    ],
)
def test_side_and_severity_belong_to_their_finding(sentence, finding, side, severity):
    found = findings_in(sentence)[finding]
    assert (found.side, found.severity) == (side, severity)


@pytest.mark.parametrize(
    "text",
    [
        "No acute cardiopulmonary abnormality.",
        "Lungs are clear.",
        "Normal chest radiograph.",
        "The heart is normal in size. No effusion or pneumothorax. No acute osseous abnormality.",
    ],
)
def test_a_normal_chest_has_no_finding(text):
    assert states(text)[F.NO_FINDING] == PRESENT


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PA and lateral views.",
        "No pneumothorax.",  # says nothing of the rest
        "No acute abnormality. Mild cardiomegaly.",
        "Lungs are clear. Possible rib fracture.",
        "Heart size is normal. Scoliosis.",  # abnormal, if outside of the vocabulary
        "Lungs are clear. PICC in the SVC.",
        "No acute process. The lung volumes are low.",
    ],
)
def test_an_abnormal_or_unspoken_chest_has_not_no_finding(text):
    assert F.NO_FINDING not in findings_in(text)


def test_sections_of_mimic_reports():
    parts = sections(MIMIC)
    assert parts.findings.startswith("LUNGS: There is") and "pneumothorax" in parts.findings
    assert parts.impression == "1.  Left basilar opacity.\n 2.  Stable mild cardiomegaly."
    assert parts.indication.startswith("___ year old woman") and parts.comparison == "Radiograph from ___."
    assert parts.body is None
    found = findings_in(MIMIC)
    assert found[F.LUNG_OPACITY] == FindingState(side="left")
    assert found[F.ATELECTASIS] == FindingState(state="uncertain", side="left")
    assert found[F.CARDIOMEGALY] == FindingState(severity="mild")
    assert not found.keys() & {F.PNEUMONIA, F.FRACTURE, F.MASS}  # of the indication and the notification
    assert impression(MIMIC) == "1. Left basilar opacity. 2. Stable mild cardiomegaly."


def test_a_mimic_report_without_headings_has_a_body():
    text = "FINAL REPORT\n HISTORY:  Evaluate for edema.\n\n The heart is\n enlarged.\n\n Small hiatal hernia.\n"
    parts = sections(text)
    assert (parts.findings, parts.impression, parts.indication) == (None, None, "Evaluate for edema.")
    assert parts.body == "The heart is\n enlarged.\n\n Small hiatal hernia."
    assert states(text) == {F.CARDIOMEGALY: PRESENT, F.HERNIA: PRESENT}
    assert impression(text) == "Small hiatal hernia."


def test_sections_of_chexpert_plus_reports():
    parts = sections(CHEXPERT_PLUS)
    assert parts.indication == "61 years of age, female, rule out edema." and parts.technique == "Single AP view."
    assert parts.impression.splitlines()[-1] == "2.RIGHT LOWER LOBE CONSOLIDATION, POSSIBLE PNEUMONIA."
    found = findings_in(CHEXPERT_PLUS)
    assert found[F.CONSOLIDATION] == FindingState(side="right") and found[F.CENTRAL_LINE].state == PRESENT
    assert found[F.PNEUMONIA].state == UNCERTAIN and not found.keys() & {F.EDEMA, F.HERNIA}


def test_sections_of_openi_reports():
    expected = Sections(findings="XXXX lungs. No effusion.", impression="Clear lungs.", indication="Dyspnea")
    assert sections(OPENI) == Sections(**vars(expected) | {"comparison": "XXXX."})
    assert impression(OPENI) == "Clear lungs."
    assert impression(OPENI.replace("Clear lungs.", "XXXX.")) == "Lungs. No effusion."


@pytest.mark.parametrize("heading", ["FINDINGS AND IMPRESSION:", "Findings and impression:", "FINDINGS/IMPRESSION :"])
def test_one_heading_may_stand_for_both(heading):
    parts = sections(f"TECHNIQUE: AP.\n{heading} Large hernia.")
    assert parts.findings == parts.impression == "Large hernia."


def test_conclusion_is_an_impression_and_headings_may_come_twice():
    parts = sections("Findings: A nodule.\nConclusion: One.\nFINDINGS: A mass.\r\n\r\nCONCLUSION:\r\nTwo.")
    assert (parts.findings, parts.impression) == ("A nodule.\n\nA mass.", "One.\n\nTwo.")


@pytest.mark.parametrize(
    ("findings", "conclusion", "finding", "state"),
    [
        ("Small effusion.", "No effusion.", F.PLEURAL_EFFUSION, ABSENT),
        ("No effusion.", "Small effusion.", F.PLEURAL_EFFUSION, PRESENT),
        ("Opacity.", "Possible opacity.", F.LUNG_OPACITY, UNCERTAIN),
        ("Healed rib fracture.", "No acute fracture.", F.FRACTURE, PRESENT),  # denies another kind
        ("Streaky opacity at the base.", "Lungs are clear.", F.LUNG_OPACITY, PRESENT),
        ("Left effusion.", "The right effusion has resolved.", F.PLEURAL_EFFUSION, PRESENT),
        ("No effusion. Small effusion.", "Stable.", F.PLEURAL_EFFUSION, PRESENT),
    ],
)
def test_the_impression_has_the_last_word(findings, conclusion, finding, state):
    assert states(f"FINDINGS: {findings}\nIMPRESSION: {conclusion}")[finding] == state


def test_a_report_is_a_condition_of_its_findings_alone():
    condition = report_condition("INDICATION: 72 year old man.\nIMPRESSION: Moderate left effusion.")
    assert condition == Condition(findings={"Pleural Effusion": FindingState(side="left", severity="moderate")})


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text):
    findings_in(text)
    impression(text)


@pytest.mark.parametrize(
    "unit", ["no ", "effusion, ", "heart size ", "a or ", "dr. ", "\n \n", "findings: ", "x", " ", "1-"]
)
def test_time_grows_with_the_length_of_a_text_and_not_faster(unit):
    text = unit * (100_000 // len(unit))
    start = time.process_time()
    findings_in(text)
    impression(text)
    assert time.process_time() - start < 10
