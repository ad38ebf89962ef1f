"""Triggers of negation, doubt and setting aside, and the splitting of a sentence into tokens.

The lists follow NegEx (Chapman et al. 2001: pre- and post-negation, pseudo-negation, termination) and ConText (Harkema
et al. 2009: history and hypotheses), with the hedges of chest radiology. Patterns are in lower case, with single
spaces.
"""

import re
from dataclasses import dataclass
from functools import cache

from synthcxr.prompt_reader import SEVERITY_WORDS
from synthcxr.reports.lexicon import Concept, concepts, either
from synthcxr.vocabulary import Severity, Side

_BE = r"(?:is|are|was|were|has|have|had|been|being|be)"
_LY = r"(?:\w+ly |well |yet |as )*"
_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|noted|present|evident|apparent|demonstrated|appreciated|detected|observed|found"
    r"|shown|visible|recogni[sz]ed|discernible|confirmed|re-?demonstrated)"
)
_CHANGE = r"(?:changed?|increased?|decreased?|improve(?:ment|d)|worsen(?:ing|ed)|progress(?:ion|ed)|difference)"
_DEGREE = (
    r"(?:(?:significant|substantial|interval|definite|appreciable|obvious|great|marked|gross|apparent|further|major"
    r"|other|evidence of|adverse)(?:ly)? )*"
)
_LIKELY = r"(?:likely|probably|possibly|presumably|perhaps|also|either|both|simply|just|reasonably|well|more|most)"
_MEAN = r"(?:(?:represent|reflect)\w*(?: of)?|be|include|indicate|suggest|due|secondary|related?|from|have)"
_MEANS = rf"{_MEAN}(?: {_MEAN})*(?: to)?"
_NOT = r"(?:cannot|can not|can't|could not|couldn't|not)"

# In the order in which they are tried at a place of a sentence.
TRIGGERS: dict[str, tuple[str, ...]] = {
    # Holds no end of a scope, though "with" does.
    "through": (r"(?:consistent|compatible|in keeping|associated|along) with",),
    # Looks like a negation, and isn't.
    "pseudo": (
        rf"(?:no|not|without|with no) {_DEGREE}{_CHANGE}(?: (?:in|of|from|since))?",
        r"(?:no|not|without) (?:necessarily|only|just|certain (?:if|whether)|doubt)",
        r"not (?:well|fully|completely|optimally|clearly|entirely) (?:seen"
        r"|visuali[sz]ed|evaluated|assessed|imaged|included)",
        r"(?:near(?:ly)?|almost|partial(?:ly)?|incomplete(?:ly)?|not completely) (?:complete(?:ly)? )?"
        r"(?:resol\w+|clear\w+)(?: of)?",
        r"(?:ensure|document|confirm|until|to) (?:\w+ )?(?:resolution|clearing|removal)(?: of)?",
    ),
    "maybe_after": (
        rf"{_NOT} (?:be )?{_LY}(?:be )?(?:excluded|ruled out)|not (?:entirely |completely )?excluded",
        r"(?:is|are|remains?) (?:\w+ly )?(?:possible|probable|suspected"
        r"|question(?:ed|able)|likely|considered|equivocal)",
        r"(?:is|are|remains?) (?:a possibility|(?:a|another) consideration|(?:a|of) concern|in the differential"
        r"|(?:difficult|hard) to exclude)",
        r"(?:may|might|could|would) (?:also )?be (?:present|considered|possible|a consideration)",
        r"(?:felt (?:to be )?)?less likely|(?:is |are )?suspected",
    ),
    "no_after": (
        rf"(?:{_BE} )*(?:not|no longer) (?:been |be )?{_LY}(?:{_SEEN}|suspected|suggested)",
        rf"(?:{_BE} )+{_LY}(?:resolved|cleared|removed|withdrawn|discontinued|ruled out|excluded|absent|unlikely)",
        r"resolved|removed|removal(?! of)|unlikely(?! to)|absent",
    ),
    "maybe": (
        rf"(?:{_NOT}|difficult to|hard to) {_LY}(?:exclude|rule out)|(?:does|do) not exclude",
        rf"(?:may|might|could|can) (?:{_LIKELY} )*{_MEANS}",
        rf"(?:{_LIKELY} )*(?:likely|probably|possibly|presumably|perhaps)(?: {_MEANS})?",
        r"possible|probable|presumed|questionable|questioned|question(?: of)?|equivocal|potential(?:ly)?|query",
        r"(?:suspicious|suspicion|concern(?:ing)?|worrisome|worry) (?:for|of)|suspect(?:ed|s)?|if not|\? ?(?=\w)",
        r"suggest(?:s|ing|ive|ion|ed)?(?: of)?|(?:possibility|chance|appearance) of",
        r"consider(?:ations?)?(?: (?:include|for|of))?",
        r"in the (?:appropriate|correct|proper|right) clinical (?:setting|context)"
        r"(?:,? (?:\w+ ){0,4}(?:compatible|consistent) with)?",
        r"differential(?: \w+){0,3} (?:includ\w+|of|is|between)|seems? to be|developing|early",
    ),
    # History, questions, and what might hide: the report doesn't say that it's there.
    "aside": (
        r"(?:history|hx|h/o)(?: of)?",
        r"(?:to|for|and) (?:evaluat\w+|assess\w*|exclude|exclusion|rule out|determine)(?: (?:of|for))?",
        r"(?:evaluat(?:e|ion)|assess(?:ment)?|search) (?:for|of)|r/o|rul(?:e|ing) out|in (?:the|a) patient with",
        r"if (?:\w+ ){0,3}(?:concern|suspicion|symptoms|suspected|clinical\w*|there)(?: (?:for|of))?",
        r"(?:obscur|mimic|simulat|mask)(?:e|es|ing|s|king)?(?= )|risk (?:of|for|factors?)|treat(?:ed|ment) (?:for|of)",
        r"sensitiv\w+ (?:for|to)|predispos\w+",
    ),
    "no": (
        r"no longer|(?:do|does|did) not|no|not|without|w/o|negative(?: for)?|free (?:of|from)|absence of",
        r"absent|neither|nor",
        r"never|denies|none of|clear of|devoid of|rather than|instead of|lack(?:s|ing)?(?: of)?|excludes",
        r"excluding|fails? to",
        r"(?:interval )?(?:resolution|removal|clearing|clearance) of|unlikely to (?:represent|be|reflect)",
        r"(?:interval )?resolved",
    ),
    # Ends the scope of what stands before.
    "stop": (
        r"but|however|although|though|except(?: for)?|aside from|apart from|other than|otherwise|nevertheless",
        r"nonetheless",
        r"yet|while|whereas|which|there (?:is|are|was|were|has|have)|secondary to|due to|because(?: of)?|with",
        r"given|despite",
        r"in spite of|as well as|cause of|resulting in|causing|superimposed on|status post|s/p|since|compared",
    ),
}
_OTHERS = {
    # Sides of the heart are no sides of the chest.
    "side": r"(?:left|right|lt|rt)(?:-sided)?(?! (?:atri|ventric|heart|cardiac|hemidiaph))|lingular?|bilateral(?:ly)?"
    r"|both|bi(?:basilar|basal|apical|hilar)|bases|apices|(?:lower|upper) lobes",
    "severity": either([*SEVERITY_WORDS, "mildly", "moderately", "severely", "minimally", "slightly", "markedly"]),
    "seen": rf"{_BE} {_LY}{_SEEN}",
    "verb": r"is|are|was|were|has|have|had|may|might|could|can|should|would|appears?|remains?|demonstrates?|shows?"
    r"|reveals?|represents?|measures?|overl(?:y|ies)|projects?",
    "or": r"or|versus|vs\.?|and/or",
    "and": r"and|plus",
    "word": r"[^\s,;:()/]+",
}
_MARKS = {"no_after": r": ?(?:none|no|absent|negative)(?=$|[,.])", "comma": ",", "stop": "[;:()]", "and": "/"}

# A denial with one of these denies only a kind of the finding ("no focal opacity").
SHADES = frozenset(
    "focal acute definite significant obvious new suspicious displaced lobar overt gross typical discrete superimposed"
    " active convincing dominant frank noncalcified non-calcified sizable sizeable developing residual appreciable"
    " confluent dense interval worrisome visible measurable free osseous bony rib".split()
)
# A list under a negation doesn't go on with one of these ("no effusion, stable cardiomegaly"), unless "or" comes later.
STARTERS = frozenset(
    "a an the stable unchanged persistent these this again scattered chronic old healed multiple several few".split()
)


@dataclass
class Token:
    """A trigger, concept, modifier or plain word of a sentence; of a concept, `state` says what is made of it."""

    kind: str
    words: str
    concept: Concept | None = None
    state: str = "present"
    qualified: bool = False


def severity_of(word: str) -> Severity | None:
    """The severity a word stands for, also as an adverb ("mildly"); None for any other word."""
    return SEVERITY_WORDS.get(word) or SEVERITY_WORDS.get(word.removesuffix("ly"))


@cache
def _grammar() -> re.Pattern[str]:
    """One pattern for all tokens: triggers of several words first, then concepts, then what is left."""
    found = {f"concept_{place}": pattern for place, (pattern, _) in enumerate(concepts())}
    triggers = {kind: "|".join(patterns) for kind, patterns in TRIGGERS.items()}
    late = {kind: triggers.pop(kind) for kind in ("no", "stop")}
    kinds = triggers | found | late | _OTHERS
    whole = "|".join(f"(?P<{kind}>(?:{pattern})(?![a-z0-9]))" for kind, pattern in kinds.items())
    marks = "|".join(f"(?P<{kind}_mark>{pattern})" for kind, pattern in _MARKS.items())
    return re.compile(rf"(?<![\w-])(?:{whole})|{marks}")


def tokens(sentence: str) -> list[Token]:
    """The tokens of a sentence in lower case with single spaces."""
    found = []
    for match in _grammar().finditer(sentence):
        kind = str(match.lastgroup).removesuffix("_mark")
        if kind.startswith("concept_"):
            found.append(Token("concept", match[0], concepts()[int(kind.removeprefix("concept_"))][1]))
        else:
            found.append(Token(kind, match[0]))
    return found


@cache
def _side_words() -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{_OTHERS['side']})(?!\w)")


def _side_of(word: str) -> Side:
    if word.startswith(("left", "lt", "ling")):
        return "left"
    return "right" if word.startswith(("right", "rt")) else "bilateral"


def sides_in(token: Token) -> set[Side]:
    """The sides that a side word or a concept names ("left-sided", "bibasilar"); none of any other token."""
    return (
        {_side_of(word) for word in _side_words().findall(token.words)} if token.kind in ("side", "concept") else set()
    )
