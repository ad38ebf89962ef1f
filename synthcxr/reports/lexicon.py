"""The words of radiology reports: what names a finding there, beyond the names and synonyms that prompts share.

A report describes where a prompt names ("the heart is mildly enlarged", "tip in the SVC"), and speaks of much that the
vocabulary doesn't hold. So each line of a table is a pattern (lower case, single spaces) and what it stands for:
findings, or none for what only looks like one ("pericardial effusion") or is abnormal in another way ("scoliosis").
The first line that fits at a place of a sentence wins. Adding words to a finding is one more alternative.

Where a report's word has no finding of its own, the nearest one that means it takes it: a scar is focal fibrosis,
bullae are emphysema, a defibrillator is a pacemaker. Vascular congestion and heart failure aren't edema, chronic
obstructive disease isn't emphysema and a calcified granuloma isn't a nodule, unless the report says so.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

from synthcxr.vocabulary import Finding, State, finding_names

_F = Finding


@dataclass(frozen=True)
class Concept:
    """What a phrase stands for.

    Attributes:
        findings: empty where the vocabulary has no name for it.
        state: what the phrase says by itself: "heart size is normal" denies cardiomegaly.
        abnormal: whether a chest that shows it isn't normal.
        general: denying it is to say that something is normal ("abnormality", "disease").
    """

    findings: tuple[Finding, ...] = ()
    state: State = "present"
    abnormal: bool = True
    general: bool = False


# What may stand between an organ and what is said of it ("the heart size again appears to be mildly enlarged").
_LINKS = """
    a about above again also although and appear appearance appears are at be been borderline by cardiac changes
    configuration contour contours demonstrates diffusely for given globally grossly has have hila hilar in interval is
    limit limits low lung maintained markedly massively mild mildly minimally moderate moderately near not now of on
    only otherwise overall persistently portable position prior probably projection pulmonary remain remains seems
    severe severely shadow shape shows significantly silhouette silhouettes size slight slightly somewhat stable stably
    still structures technique the to top unchanged upper vascularity vasculature volumes was were within xxxx
"""
_LINK = rf"(?:[,:]? (?:{'|'.join(_LINKS.split())}|normal to)){{0,9}}?[,:]? "
_SHAPE = r"(?: (?:size|silhouettes?|shadow|contours?|structures?|width))*"
_HEART = rf"(?:heart|cardiac|cardio-?pericardial){_SHAPE}"
_MIDDLE = rf"(?:(?:superior|upper) )?mediastin(?:um|al){_SHAPE}"
_BOTH = rf"(?:(?:cardio-? ?|(?:heart|cardiac){_SHAPE},? ?(?:and|/) ?(?:the )?)mediastin(?:um|al){_SHAPE})"
_BIG = r"(?:enlarged|enlargement|increased?|larger?|prominent|prominence|dilated|big)"
_WIDE = r"(?:enlarged|enlargement|prominent|prominence|widened|widening|wide)"
_OF = r"(?:(?:of|in|the|size|sized|transverse) )*"
_FINE = r"(?:normal|unremarkable)(?! to (?:borderline|mild))"
_IS_FINE = rf"{_LINK}(?:normal limits|(?:limits? (?:of )?)?{_FINE})"
_LUNG = (
    r"(?:basilar|basal|bibasilar|bases?|lobes?|(?:mid ?)?lungs?|pulmonary|parahilar|perihilar|retrocardiac|lingular?"
    r"|hemithorax|apical|apex|apices|midzone|lung zone)"
)
_DENSE = r"(?:densit(?:y|ies)|haziness)"
_TEXTURE = (
    r"(?:interstitial|patchy|streaky|hazy|linear|strand-?like|band-?like|air-?space|parenchymal|alveolar|rounded|vague"
    r"|ill-defined|confluent|reticular|increased|abnormal|platelike)"
)
_VEIN = r"(?:svc|superior vena cava|cavo-? ?atrial|caval|right atri(?:um|al)|brachiocephalic|innominate)"
_MADE = r"(?:leads?|hardware|screws?|catheters?|rods?|plates?|port|device|tubing)"

LOOK_ALIKES = (
    r"pericardial (?:effusion|fluid|thickening)s?|(?:joint|knee|shoulder) effusions?",
    r"(?:subcutaneous|soft[ -]tissue|mediastinal|surgical) emphysema",
    r"(?:subcutaneous|soft[ -]tissue|peripheral|leg|pedal|extremity) o?edema",
    r"(?:inguinal|umbilical|ventral|abdominal wall|incisional|dis[ck]) herniat?\w*",
    r"(?:thyroid|breast|adrenal|renal|hepatic|liver|splenic|soft[ -]tissue|abdominal|neck) (?:mass|nodule)(?:es|s)?",
    r"(?:bone|bony|osseous|sclerotic|lytic|blastic|rib|vertebral|expansile)"
    r" (?:lesion|metasta\w+|mass|opacity|densit(?:y|ies))s?",
    r"(?:fractured?|broken|disrupted) (?:\w+ )?wires?|wires? (?:(?:is|are|appears?) )?(?:fractured?|broken|disrupted)",
    r"(?:(?<=catheter )|(?<=lead )|(?<=screw ))fractur\w+",
    r"vertebral (?:body )?collapse|collapse of (?:the )?(?:[tl]\d+|vertebra\w*)",
    r"(?:surgical|suture|anastomotic) (?:scar\w*|lines?)|(?:calcific|calcified|metallic) densit(?:y|ies)",
)
HARMLESS = (
    r"mass effect|body mass|bone density|(?:bone|bony) mineral\w*|nipple (?:shadow|marker)s?|support the",
    r"(?:suboptimal|poor|limited) (?:technique|position\w*)|(?:air|joint|fracture) lines?",
)
NORMAL = (
    rf"{_FINE}|within (?:the )?(?:normal (?:range|limits?)|limits of normal)|wnl|intact|negative chest",
    r"clear(?! of\b)",
)
GENERAL = r"abnormalit(?:y|ies)|diseases?|process(?:es)?|patholog(?:y|ies)|changes|injur(?:y|ies)"
ABNORMAL = (
    r"(?:dextro|levo|kypho|roto)?scoli\w+|(?:dextro|levo)-? ?(?:curv\w+|convex\w*)|curvature|kypho\w+|lordosis|pectus",
    r"degenerat\w+|spondyl\w+|osteophyt\w+|spur(?:s|ring)?|arthr(?:itis|itic|opathy|osis)|dish|hyperostosis"
    r"|osteodystrophy",
    r"osteopeni\w+|osteoporo\w+|demineraliz\w+|deformit(?:y|ies)|wedging|dislocat\w+|subluxat\w+"
    r"|sclero(?:sis|tic)|lytic",
    r"tortuo\w+|ecta(?:sia|tic)|unfold\w+|uncoil\w+|athero\w+|arterioscl\w+|aneurysm\w*|lesions?|eroded|erosions?",
    r"calcif\w+|calcinosis|granuloma\w*|histoplasm\w+|sarcoid\w*|tubercul\w+|plaques?|aspiration|asbesto\w+",
    r"(?:hyper|over)-?(?:inflat|expan|aerat|lucen|disten)\w+|air[ -]trapping|lucen(?:cy|cies|t)",
    r"(?:hypo|under)-?(?:inflat|expan|ventilat|aerat)\w+|(?:low|decreased|reduced|small|diminished|shallow)"
    r" (?:(?:lung|inspiratory) )?(?:volumes?|inspiration|effort)|(?:poor|suboptimal|shallow) inspirat\w+"
    r"|crowd(?:ing|ed)"
    r"|volumes? (?:are|is|remain|appear)s? (?:\w+ )?(?:low|decreased|reduced|small|diminished)",
    r"elevat\w+|eventrat\w+|flatten\w+|copd|(?:chronic )?obstructive|(?:reactive )?airways? disease|asthma\w*",
    r"bronchi(?:tis|tic|ectasis|olitis)|congest\w+|(?:heart|cardiac|ventricular) failure|chf|(?:volume|fluid) overload",
    r"cephalization|engorge\w+|indistinct\w*|(?:lymph)?adenopathy|peribronch\w+|cuffing|blunt\w+|obscur\w+",
    r"interstitial (?:\w+ )?(?:markings?|prominence|patterns?|disease|changes?|thickening|coarsening|abnormal\w*)",
    r"markings|cyst(?:s|ic)?|cavit\w+|sternotomy|cabg|bypass|clips?|sutures?|staples?"
    r"|(?:post-?)?(?:operative|surgical)",
    r"mastectomy|lobectomy|pneumonectomy|resect\w+|stents?|fusion|foreign bod(?:y|ies)|bullets?|shrapnel"
    r"|fragments?|wires?",
    r"(?:enlarg|prominen|dilat|widen|shift|deviat|abnormal|thicken|tumou?r|carcinoma|cancer|infect|inflammat)\w*",
    r"pneumo(?:mediastinum|peritoneum|pericardium)|free (?:intraperitoneal )?air|ascites|azygos lobe|fat pad|myeloma",
)

REPORTED: tuple[tuple[tuple[Finding, ...], str], ...] = (
    (
        (_F.SUPPORT_DEVICES,),
        rf"(?:fractured?|broken|disrupted)(?: of)?(?: (?!and\b|or\b|no\b)\w+){{0,5}} {_MADE}"
        rf"|{_MADE}(?: (?:is|are|appears?))? (?:fractured?|broken|disrupted)",
    ),
    (
        (_F.CARDIOMEGALY,),
        rf"{_HEART}{_LINK}(?:{_BIG}|borderline)|(?:{_BIG}|borderline) {_OF}{_HEART}"
        rf"|(?:borderline )?cardiomegal\w+|biventricular enlargement",
    ),
    (
        (_F.ENLARGED_CARDIOMEDIASTINUM,),
        rf"(?:{_MIDDLE}|{_BOTH}){_LINK}{_WIDE}|{_WIDE} {_OF}(?:{_MIDDLE}|{_BOTH})|mediastinal widening",
    ),
    ((_F.PNEUMOTHORAX, _F.PLEURAL_EFFUSION), r"h(?:ydro|emo|aemo)-?pneumothora(?:x|ces)"),
    ((_F.PNEUMOTHORAX,), r"pneumothora(?:x|ces)|ptx"),
    (
        (_F.PLEURAL_EFFUSION,),
        r"(?:hydro|haemo|hemo|chylo)thora(?:x|ces)|empyema|(?:pleural|subpulmonic) (?:effusion|fluid|collection)s?"
        r"|fluid (?:in|within|along|tracking \w+) (?:the )?(?:(?:right|left|minor|major|horizontal|oblique) )*"
        r"(?:fissures?|pleural spaces?)",
    ),
    (
        (_F.PLEURAL_THICKENING,),
        r"(?:(?:pleural|fissural|biapical|apical)[ -]+(?:and parenchymal |parenchymal |fluid )?)+(?:scar(?:ring)?/)?"
        r"(?:thickening|thickened)|thickening of the (?:(?:minor|major|right|left|interlobar) )*(?:pleura|fissures?)"
        r"|(?:fissures?|pleura) (?:is|are|appears?) thickened|apical (?:pleural )?cap(?:s|ping)?"
        r"|thickened (?:pleura|fissures?)",
    ),
    (
        (_F.PLEURAL_OTHER,),
        r"pleural[ -]+(?:based )?(?:plaques?|calcifications?|mass(?:es)?)|calcified pleura\w*|fibrothorax",
    ),
    (
        (_F.FIBROSIS, _F.PLEURAL_OTHER),
        r"pleural(?:[ /-]+(?:and )?parenchymal)?[ -]+scar(?:ring|s)?|pleuro-?parenchymal scar(?:ring|s)?",
    ),
    ((_F.FIBROSIS,), r"scar(?:ring|s|red)?|fibro(?:sis|tic)|fibro-?nodular|cicatri\w+|honeycomb\w+"),
    ((_F.EMPHYSEMA,), r"emphysem\w+|bull(?:a|ae|ous)|blebs?"),
    (
        (_F.ATELECTASIS,),
        r"atelecta\w+|(?:lobar|lung|lobe|segmental|partial|complete) collapse"
        r"|collapse of (?:the )?(?:(?:right|left|upper|middle|lower|entire) )*(?:lobe|lung)s?",
    ),
    ((_F.CONSOLIDATION,), r"consolidat\w+"),
    (
        (_F.PNEUMONIA,),
        r"(?:broncho-?)?pneumoni(?:as?|c)|(?:lung|pulmonary|chest) infections?"
        r"|infectious (?:process|infiltrates?|consolidation|etiology)",
    ),
    ((_F.INFILTRATION,), r"infiltrat\w+"),
    (
        (_F.LUNG_OPACITY,),
        rf"(?:air[ -]?space|alveolar) (?:disease|process|change)s?|opaci\w+|ground[ -]glass|{_TEXTURE} {_DENSE}"
        rf"|{_LUNG}(?: \w+){{0,2}} {_DENSE}|{_DENSE}(?=,?(?: (?!and\b|or\b|no\b)\w+){{0,5}} {_LUNG})",
    ),
    ((_F.EDEMA,), r"o?edema(?:tous)?|kerley(?:'?s)?(?: \w+)? lines?|b[ -]lines"),
    ((_F.NODULE,), r"(?:micro)?nodul(?:es?|arity)"),
    ((_F.MASS,), r"mass(?:es)?|mass-?like \w+"),
    (
        (_F.LUNG_LESION,),
        r"(?:lung|pulmonary|parenchymal|cavitary|cavitating) (?:lesion"
        r"|metasta|neoplasm|malignan|cancer|carcinoma|tumou?r)\w*"
        r"|metasta\w+(?: disease)?|neoplas\w+|malignan\w+|coin lesion",
    ),
    (
        (_F.FRACTURE,),
        r"fractur\w+|broken (?:\w+ ){0,4}ribs?|fx",
    ),
    (
        (_F.HERNIA,),
        r"(?:hiat(?:al|us)|diaphragmatic|para-?esophageal|bochdalek|morgagni) herni\w+|herni(?:as?|ation)"
        r"|intrathoracic stomach",
    ),
    (
        (_F.CHEST_TUBE,),
        r"(?:chest|thoracostomy|pleural|pleurx|pigtail) (?:tube|drain|catheter|pigtail)s?|thoracostomy|pleurx",
    ),
    ((_F.ENDOTRACHEAL_TUBE,), r"endotracheal(?: tubes?)?|et[ -]tubes?|ett|intubat\w+"),
    (
        (_F.CENTRAL_LINE,),
        r"piccs?(?: lines?)?|cvc|port-? ?a-? ?cath\w*|medi-?ports?|infus\w*-? ?ports?|power ?-?ports?"
        r"|swan[ -]?ganz(?: \w+)?"
        r"|(?:central|subclavian|jugular|ij|dialysis|hemodialysis|tunneled|hickman|broviac|perma?-?a?-?cath|venous|port"
        r"|vascular access)(?: (?:venous|access|dialysis|central|vein|approach))* (?:lines?|catheters?|cath"
        r"|ports?|device)"
        r"|(?:chest|subclavian|jugular|chest wall) ports?"
        rf"|(?:tip|catheter|line|port|cath)s?(?: (?!no\b|and\b)[\w-]+){{0,8}} {_VEIN}",
    ),
    (
        (_F.PACEMAKER,),
        r"pace-?makers?|pacers?|pacing(?: (?:leads?|wires?|device|xxxx))?|a?icds?|(?:cardioverter[ -])?defibrillators?"
        r"|cardiac (?:rhythm )?(?:\w+ )?(?:device|generator)|pulse generator"
        r"|(?:dual|single|triple)[ -](?:lead|chamber)",
    ),
    (
        (_F.SUPPORT_DEVICES,),
        r"(?:\w*gastric|enteric|feeding|nasoenteric|dobb?-?hoff\w*|ng|og|tracheostomy|jejunostomy|peg|drainage) tubes?"
        r"|tracheostomy|catheters?|tubes?|tubing|drains?|(?:prosthetic|mechanical|artificial) (?:\w+ )?valves?"
        r"|valve (?:replacement|prosthesis|repair)|balloon pump|iabp|l?vad|ventricular assist"
        r"|(?:\w*stimulator|recorder)s?"
        r"|(?:ekg|ecg|monitor\w*|cardiac|external|telemetry) (?:\w+ )?(?:wires?|lines?)|leads?|electrodes?"
        r"|devices?|generator"
        r"|hardware|prosthe\w+|arthroplasty|pedicle screws?|rods?|internal fixation|cannulas?",
    ),
)
_DEVICES = frozenset((_F.CHEST_TUBE, _F.ENDOTRACHEAL_TUBE, _F.CENTRAL_LINE, _F.PACEMAKER))


def either(words: Iterable[str]) -> str:
    """A pattern for any of the phrases, the longest first."""
    return "(?:" + "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word))) + ")"


def _found(*findings: Finding) -> Concept:
    return Concept((_F.SUPPORT_DEVICES, *findings) if _DEVICES.intersection(findings) else findings)


def _fine() -> Iterator[tuple[str, Concept]]:
    """What denies a finding by calling its organ normal."""
    organs = ((_BOTH, (_F.CARDIOMEGALY, _F.ENLARGED_CARDIOMEDIASTINUM)), (_MIDDLE, (_F.ENLARGED_CARDIOMEDIASTINUM,)))
    for organ, findings in (*organs, (_HEART, (_F.CARDIOMEGALY,))):
        yield rf"{organ}{_IS_FINE}|normal (?:sized? )?{organ}", Concept(findings, state="absent", general=True)
    words = "fields?|bases|both|bilaterally|otherwise|grossly|now|well|expanded|aerated|normally|relatively|and|are"
    well = rf"(?: (?:{words})){{0,6}}"
    clear = rf"lungs?:?{well}(?: (?:is|are|appears?|remains?))?{well},? clear(?! of\b)|clear lungs?"
    yield clear, Concept((_F.LUNG_OPACITY,), state="absent", general=True)


@cache
def concepts() -> tuple[tuple[str, Concept], ...]:
    """Patterns and what they stand for, in the order in which they are tried at each place of a sentence."""
    shared = sorted(finding_names().items(), key=lambda item: (-len(item[0]), item[0]))
    nodular = r"nodular(?= (?:\w+ ){0,3}(?:opacit|densit|infiltrat|lesion|shadow|focus|area))"
    return (
        *((pattern, Concept()) for pattern in LOOK_ALIKES),
        *((pattern, Concept(abnormal=False)) for pattern in HARMLESS),
        *_fine(),
        (r"extubat\w+", Concept((_F.ENDOTRACHEAL_TUBE,), state="absent")),
        (nodular, Concept((_F.NODULE,), state="uncertain")),
        *((pattern, _found(*findings)) for findings, pattern in REPORTED),
        *((either([name, name + "s"]), _found(finding)) for name, finding in shared),
        *((pattern, Concept(state="absent", general=True)) for pattern in NORMAL),
        (GENERAL, Concept(general=True)),
        *((pattern, Concept()) for pattern in ABNORMAL),
        (r"findings?", Concept(abnormal=False, general=True)),
    )
