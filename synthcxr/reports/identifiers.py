"""Taking out of a report what names a person, a day or a record, and the marks that de-identification left.

What goes follows the Safe Harbor list (45 CFR 164.514(b)(2)) as far as it occurs in a radiology report: names, dates,
telephone numbers, addresses on the net, numbers of records; and beyond it years and times. What stays is medicine:
measurements, ages, vertebrae, counts. Names are known by their surroundings (titles, degrees, "seen by", labels, "Last,
First" as a sentence) or by a common given name (`given_names`): any other bare name in the middle of a sentence stays.

Each find is replaced by a mark first, and only words next to a mark are tidied. Text without identifiers keeps every
word; runs of space and of punctuation are made one.
"""

import re
from functools import cache

from synthcxr.reports.given_names import GIVEN

OLDEST = 90  # years; said of everybody who is at least as old, since there are few of them
_AGED = re.compile(
    r"(?i)(?<![\w.])(?:(?P<before>(?:aged?|age:)\s+)|)(?:9\d|1[0-2]\d|ninety(?:[\s-](?:one|two|three|four|five|six|seven"
    r"|eight|nine))?)(?P<after>[\s-]*(?:years?|yrs?)[\s-]*(?:old|of\s+age)|\s*-?(?:yo|y/o|y\.o\.?|y)(?!\w))?(?![\w.]*\d)"
)

_THING = "\x01"  # stood for a name, day or number: the "on" before it goes too
_GAP = "\x02"  # stands for any word ("XXXX opacity"): an "on" before it goes only at the end of a phrase
_MARK = "[\x01\x02]"

# Dates and times.
_NO_MAY = (
    r"(?i:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_MONTH = rf"(?:{_NO_MAY}|(?i:may))(?!\w)\.?"
_SURE_MONTH = rf"(?:{_NO_MAY}|May)(?!\w)\.?"  # "rib 5 may be broken" names no day
_MONTHS = "January|February|April|June|July|August|September|October|November|December"
_DAY = r"(?:3[01]|[12]\d|0?[1-9])(?i:st|nd|rd|th)?(?!\d)"
_YEAR = r"(?:(?:19|20)\d\d|['\u2019]\d\d)(?!\d)"
_HOUR = r"(?:2[0-3]|[01]?\d)"
_HALF = r"(?i:a\.?\s?m\b\.?|p\.?\s?m\b\.?)"
_UNIT = (
    r"(?i:x|mm|cm|m|ml|cc|mg|mcg|kg|g|l|kvp?|mas|hu|fr(?:ench)?|degrees?|years?|yrs?|yo|y|months?|weeks?|days?|hours?)"
)
_NO_UNIT = rf"(?!\s*-?(?:{_UNIT}(?!\w)|%))"
_VERTEBRAE = r"[TLCStlcs]\d{1,2}(?:[-/][TLCStlcs]?\d{1,2})+(?!\w)"

# Names, by their first letters.
_UP = r"[A-Z\u00c0-\u00d6\u00d8-\u00de]"
_LETTERS = r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*"
_SMALL = (
    r"(?i:a|about|after|also|an|and|any|are|as|at|be|been|before|but"
    r"|by|called|contacted|did|discussed|during|findings?|for"
    r"|from|had|has|have|he|her|him|his|if|impression|in|informed|is|it|may|no|not|notified|of|office|on|or"
    r"|over|paged|patient"
    r"|per|recommend\w*|regarding|she|shows?|that|the|their|there|these|they|this|to|via|was|we|were|who|will"
    r"|with)(?![\w'])"
)
_PARTICLE = r"(?:(?i:de|del|della|la|le|van|von|der|den|di|da|dos|el|al|bin|ibn|st\.?)\s+)"
_WORD = rf"(?:{_UP}\.(?=\s)|(?!{_SMALL})(?={_UP}){_LETTERS}(?!\w|\s*:))"
_NAME = rf"(?:{_PARTICLE}{{0,2}}{_WORD}|{_MARK})(?:\s+(?:{_PARTICLE}{{0,2}}{_WORD}|{_MARK})){{0,3}}"
_AND = rf"(?:\s+(?:and|&)\s+{_NAME})?"
_NAMES = _NAME + _AND
# After a title or "signed by": also names such as May and Will, and names in lower case.
_MAY = rf"(?={_UP}[^\W\d_A-Z]){_LETTERS}(?:\s+{_NAME})?{_AND}"
_LOWER = rf"(?!{_SMALL}){_LETTERS}(?:\s+(?!{_SMALL}){_LETTERS})?"
_ANYHOW = rf"(?:{_MAY}|{_NAMES}|{_LOWER})"
_PERSON = r"(?![A-Z]{1,3}\b(?!\.))"  # not a department: "discussed with ED"
_DEGREE = r"(?:M\.?\s?D\.?|m\.d\.|D\.O\.|DO|Ph\.?\s?D\.?|R\.?N\.?|N\.?P\.?|P\.?A\.?-C|MBBS|MBChB|FRC\w+|FACR|DNP)(?!\w)"
_DEGREES = rf"(?:,?\s*{_DEGREE})*"
_TITLE = r"(?:(?i:drs?|prof)\b\.?|(?:Mrs?|Ms|Miss)\b\.?|(?:MRS?|MS|mrs?|ms)\.)"
_OFFICE = r"(?i:doctors?|professor|nurse|radiologist|resident|attending|fellow|physician|technologist)\b"
_SIGNED = (
    r"(?i:(?:electronically|digitally|personally)\s+)?(?i:signed|dictated"
    r"|read|interpreted|reviewed|approved|verified|prepared"
    r"|transcribed|authenticated|performed|reported|finali[sz]ed|attested)"
)
_TOLD = r"(?i:called|paged|telephoned|phoned|communicated|conveyed|relayed|discussed|reported|given|faxed)"
_DONE = (
    r"(?i:seen|examined|evaluated|assessed|treated|followed|attended|accompanied|admitted|referred|requested|ordered"
    r"|supervised|placed|inserted|operated(?:\s+on)?|consulted|obtained|entered|written|edited|noted|cosigned)"
)
_ROLE = (
    r"(?i:(?:referring|ordering|requesting|primary|admitting|consulting)\s+\w+|provider|clinician|technician|surgeon"
    r"|reader|author|transcriptionist|pcp|cc|copy\s+to|contact|next\s+of\s+kin)"
)
_KIN = r"(?i:patient|wife|husband|son|daughter|mother|father|brother|sister|spouse|partner)"
# What begins with a capital where a name could stand, and is none: views, modalities, departments, findings.
_NO_NAME = (
    r"(?!(?i:chest|thora\w+|pa|ap|lat|lateral|views?|portable|frontal|upright|supine|x-?rays?|radiograph\w*|cta?|mri?|pet"
    r"|us|ultraso\w+|sonogra\w+|doppler|echo\w*|fluoro\w*|tomogra\w*|comput\w*|angio\w*|bronch\w*|biops\w*"
    r"|contrast|exam\w*|clinic\w*|patholog\w*|physical|prior|previous|histor\w*|surg\w*|\w+ology|emergency|medic\w*"
    r"|nurs\w*|team|lungs?|heart|cardi\w*|pleur\w*|pulmon\w*|pneumo\w*|effusions?|edema|mild\w*|moderate\w*|severe\w*"
    r"|small|large|left|right|bilateral|upper|lower|unchanged|stable|normal|clear|none|available|acute|chronic|new|old"
    r"|improved|resolved|xx+)(?!\w))"
)
_MIXED = rf"{_UP}[^\W\d_A-Z]+(?:['\u2019-]{_UP}[^\W\d_A-Z]+)?"  # a capital and small letters
_INITIAL = rf"(?:\s+{_UP}\b\.?)?"
_GIVEN = rf"(?:{'|'.join((*GIVEN, *map(str.upper, GIVEN)))})(?![\w-])"
_RECORD = (
    r"(?i:mrn|ssn|dob|accession|account|acct|record|case|order|requisition|exam|study|patient\s+id|medical\s+record)"
)
_NUMBER = r"(?i:\s*(?:number|num|no\.?|id))"

# "Last, First" as a sentence of its own, in a text where capitals mean something.
_REVERSED = rf"(?:^|(?P<keep>[.:\n]\s*)){_NO_NAME}{_WORD},\s+{_NO_NAME}{_WORD}{_INITIAL}(?=\s*(?:[.\n]|$))"

# A group named "keep" stays, and one named "start" begins a sentence now.
_FINDERS: tuple[tuple[str, str], ...] = (
    # What de-identification left.
    (r"\[\*\*[^\[\]]*\*\*\]|_{2,}(?:\s*[-/:]?\s*_{2,})*|[\[<][A-Z][A-Z_ ]{2,24}\d*[\]>]", _GAP),
    (r"(?<!\w)(?:\w{1,3}[-/])?\w*(?:X{3,}|x{3,})\w*(?:[-/'\u2019]\w+)*", _GAP),
    # Addresses, dates, times.
    (r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+|(?:https?://|www\.)[^\s)]*[^\s.,;)]", _THING),
    (rf"(?<![\w.])(?:19|20)\d\d([-/.])(?:1[0-2]|0?[1-9])\1{_DAY}(?:[Tt][\d:.]+[Zz]?)?(?!\w)", _THING),
    (rf"(?<![\w.])\d{{1,2}}(\s?[-/.]\s?)\d{{1,2}}\1(?:{_YEAR}|\d\d)(?![\w/]|\.\d)", _THING),
    (rf"(?<!\w){_DAY}[\s-]+(?:of\s+)?(?:{_MONTH}(?:[\s,-]*{_YEAR}|-\d\d)|{_SURE_MONTH})(?!\w)", _THING),
    (rf"(?<!\w){_MONTH}[\s-]*(?:the\s+)?{_DAY}(?![\w.]*\d){_NO_UNIT}(?:[\s,-]+{_YEAR})?(?!\w)", _THING),
    (rf"(?<!\w){_MONTH}[\s,-]*(?:of\s+)?{_YEAR}(?!\w)", _THING),
    (rf"(?<!\w)(?:{_MONTHS})(?!\w)|(?P<keep>\b(?i:in|since|until|last|of)\s)(?:March|May)(?!\w)", _THING),
    (r"(?<!\w)(?i:mon|tues|wednes|thurs|fri|satur|sun)days?(?!\w)", _THING),
    (rf"(?<![\w./])(?:1[0-2]|0?[1-9])/(?:1[3-9]|2\d|3[01]|0[1-9])(?![\w/]){_NO_UNIT}", _THING),
    (r"(?P<keep>\b(?i:on|from|dated|since)\s)\d{1,2}/\d{1,2}(?![\w/])", _THING),
    (rf"(?<![\w./-])(?:19|20)\d\d(?![\w/-]|\.\d){_NO_UNIT}", _THING),
    (
        rf"(?<![\w:.]){_HOUR}:[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?!\d)\s*{_HALF}?(?:\s*(?i:hours|hrs|h|[ecmp][sd]t)\b)?",
        _THING,
    ),
    (
        rf"(?<![\w.])(?:1[0-2]|0?[1-9])\s*{_HALF}(?!\w)|(?<!\w)(?:2[0-3]|[01]\d)h?[0-5]\d\s*(?i:hours|hrs|h)(?!\w)",
        _THING,
    ),
    (r"(?P<keep>\b(?i:at)\s)(?:2[0-3]|[01]\d)h?[0-5]\d(?!\w)", _THING),
    # Telephones and records.
    (
        r"(?<![\w.])(?:\+\d[\d\s().-]{6,}\d|(?:1[\s.-])?(?:\(\d{3}\)"
        r"|\d{3})[\s.-]*\d{3}[\s.-]\d{4}|\d{3}[-.]\d{4})(?!\w)",
        _THING,
    ),
    (
        r"(?<!\w)(?i:pager?|beeper|extension|ext\.?|x|phone|telephone"
        r"|tel\.?|fax)\s*(?:#|:|(?i:number))?\s*\d{3,}(?!\w)",
        _THING,
    ),
    (rf"(?<!\w){_RECORD}(?:{_NUMBER}?\s*[:#]\s*|{_NUMBER}\s+)(?:{_MARK}|(?=[\w/-]*\d)[\w/-]+)", _THING),
    (r"#\s*\d{3,}(?!\w)|(?<![\w.])\d+(?:\.\d+){3,}(?!\w)", _THING),
    (
        rf"(?<![\w.-])(?!(?:\d+(?:\.\d+)?x?)+-?{_UNIT}?(?!\w))(?!{_VERTEBRAE})(?=[\d_-]*[A-Za-z])(?=(?:[A-Za-z_-]*\d){{3}})"
        r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+)*(?!\w)",
        _THING,
    ),
    (rf"(?<![\w.])(?:\d(?:[-/_]?\d){{4,}}(?!\w){_NO_UNIT}|\d{{6,}}(?!\w))(?:\.\d+)?", _THING),
    # Names.
    (rf"(?<!\w)(?:{_OFFICE}\s+)?{_TITLE}\s*{_ANYHOW}{_DEGREES}", _THING),
    (rf"(?<!\w){_OFFICE}(?:\s+{_OFFICE})*[:,]?\s+{_PERSON}{_NAMES}{_DEGREES}", _THING),
    (
        rf"(?<!\w){_SIGNED}(?:\s+(?i:and)\s+{_SIGNED})?\s+(?i:by)\b\s*:?\s*{_ANYHOW}(?:,\s+(?!{_DEGREE}){_NAME})?{_DEGREES}",
        _THING,
    ),
    (rf"(?<!\w){_ROLE}\s*:\s*{_NO_NAME}{_NAMES}(?:,\s+(?!{_DEGREE}){_NAME})?{_DEGREES}", _THING),
    (rf"(?<!\w)(?i:(?:patient(?:'s)?\s+)?name|patient)\s*:\s*{_NAME}(?:,\s*{_NAME})?", _THING),
    (
        rf"(?<!\w){_PERSON}{_NAMES}(?:,\s+(?!{_DEGREE}){_NAME})?,?\s+{_DEGREE}{_DEGREES}|(?<={_MARK}),?\s*{_DEGREE}",
        _THING,
    ),
    (rf"(?P<keep>\b{_TOLD}\s(?:(?!{_UP})\w+\s+){{0,3}}?(?:to|with|by)\s){_PERSON}{_NAMES}", _THING),
    (
        rf"(?P<keep>\b{_DONE})\s+(?i:by)\b\s*:?\s*{_NO_NAME}{_PERSON}{_NAMES}(?:,\s+(?!{_DEGREE}){_NAME})?{_DEGREES}",
        _THING,
    ),
    (rf"(?P<keep>\b{_KIN}(?:\s+(?i:is|named))?,?\s+){_NO_NAME}{_MIXED}{_INITIAL}\s+{_NO_NAME}{_MIXED}(?!\w)", _THING),
    (r"(?<![\w^])[^\W\d_][^\W\d_'-]*(?:\^+[^\W\d_][^\W\d_'-]*)+\^*(?!\w)", _THING),  # as DICOM writes it
    (rf"(?<![\w-]){_NO_NAME}{_WORD},\s+{_GIVEN}{_INITIAL}(?=\s*(?:[.;)\n]|$))", _THING),
    (
        rf"(?<![\w-]){_GIVEN}(?:\s+(?:{_GIVEN}|{_UP}\b\.?))*(?:\s+{_PARTICLE}{{0,2}}{_NO_NAME}{_WORD}(?:\s+{_NO_NAME}{_MIXED})?)?(?:['\u2019]s\b)?",
        _THING,
    ),
    (rf"(?<!\w)(?:{_NAME}\s)(?:Hospital|Medical\s+Cent(?:er|re)|Clinic|Infirmary)(?!\w)", _THING),
)

_JOIN = r"[\s,;/&:-]*(?:(?i:and|at|on|to|from|by|with|through|or)\s+)?"
_LABEL = r"(?i:date|time|dob|phone|telephone|tel|fax|pager?|e-?mail)(?:\s+(?i:of)\s+\w+)?"
_BEFORE = r"(?i:on|at|from|dated|of|since|by|to|in|with|via|as\s+of|per|until|around|through|between)"
_LEFT_OVER = rf"(?:{_BEFORE}|(?i:the|a|an|and|or|status\s+post|s/p))"
_TIDY: tuple[tuple[str, str], ...] = (
    # Marks in a row are one; labels and brackets go with what they held.
    (rf"{_GAP}(?:{_JOIN}{_GAP})+", _GAP),
    (rf"(?:{_MARK}{_JOIN})*{_THING}(?:{_JOIN}{_MARK})+|(?:{_MARK}{_JOIN})+{_THING}", _THING),
    (rf"(?<!\w){_LABEL}\s*:?\s*{_MARK}", _THING),
    (rf"(?:^|(?P<keep>[.\n]\s*)){_SIGNED}(?:\s+(?i:by|on|at))?\s*:?\s*{_MARK}(?=\s*(?:[.\n]|$))", _THING),
    (rf"[(\[]\s*(?:\w+\s+)?{_MARK}[\s.,]*[)\]]", ""),
    # Words that lead to nothing now.
    (rf"(?P<keep>\b(?i:no|without)\s+){_GAP}\s+of\s+(?:the\s+)?", ""),
    (rf"(?P<keep>\b(?i:compar\w+)\s+(?:\w+\s+){{0,2}}(?:to|with)\s+){_MARK}", "prior"),
    (rf"(?:(?<!\w){_BEFORE}\s+){{1,4}}{_THING}", _THING),
    (rf"(?:(?<!\w){_LEFT_OVER}\s+){{1,4}}{_MARK}(?=\s*(?:[.,;:)\n]|$))", _GAP),
    (rf"(?m:(?:^|(?P<keep>[.]\s))\d{{1,2}}[.)]\s*{_MARK}[\s.]*$)", ""),
    (rf"(?:^|(?P<keep>[.!?\n]\s*)){_MARK}[,;]?\s*(?P<start>[a-z])", ""),
    (rf"[ \t]*{_MARK}", ""),
    # Spaces and punctuation.
    (r"[ \t\f\v\u00a0]+", " "),
    (r" (?=[.,;:)\]](?!\d))|(?<=[(\[]) |\(\)|\[\]", ""),
    (r"(?P<keep>[.!?])(?:\s*[.;:])+(?!\d)|[,;:](?=\s*[.;])|,(?=\s*,)", ""),
    (r"(?m:^[ ]*(?:[.,;:]+[ ]*)+(?!\d)|[ ]+$)", ""),
    (r"\n{3,}", "\n\n"),
)


@cache
def _steps(shouted: bool) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Of a text that's all in capitals, "EFFUSION, LEFT." is no name."""
    reversed_names = () if shouted else ((_REVERSED, _THING),)
    steps = (*_FINDERS, *reversed_names, *_TIDY)
    return tuple((re.compile(pattern), replacement) for pattern, replacement in steps)


def _replaced(match: re.Match[str], replacement: str) -> str:
    groups = match.groupdict()
    return (groups.get("keep") or "") + replacement + (groups.get("start") or "").upper()


def _once(text: str, shouted: bool) -> str:
    for pattern, replacement in _steps(shouted):
        text = pattern.sub(lambda match, by=replacement: _replaced(match, by), text)
    return text.strip()


def scrub(text: str) -> str:
    """The text without identifiers and redactions; scrubbing it again changes nothing.

    Lines stay lines. Dates in their usual forms, times, names where they're known for such (see above), telephone
    numbers, e-mail and web addresses, numbers of five or more digits, codes of letters and three or more digits,
    `___`, `XXXX` and `[**...**]` go, with the prepositions and brackets that would be left over.
    """
    text = re.sub(rf"{_MARK}|[ \t\f\v\u00a0]+", " ", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", text))
    shouted = text == text.upper()
    for _ in range(8):  # what goes may bring together what must go too
        shorter = _once(text, shouted)
        if shorter == text:
            break
        text = shorter
    return text


def anonymous(text: str) -> str:
    """As `scrub`, but what has nothing to lose comes back as it is, runs of space and of punctuation too."""
    kept = scrub(text)
    return text if re.findall(r"\w+", kept) == re.findall(r"\w+", text) else kept


def group_ages(text: str) -> str:
    """The text with each age of OLDEST years or more said as OLDEST (45 CFR 164.514(b)(2)(i)(C))."""

    def grouped(match: re.Match[str]) -> str:
        before, after = match["before"] or "", match["after"] or ""
        return f"{before}{OLDEST}{after}" if before or after else match[0]

    return _AGED.sub(grouped, text)
