"""Reading a prompt: words in, mentions and leftovers out. What the mentions add up to is for `conditions` to say.

A sentence without any mention is left exactly as it is. In a sentence with mentions, words that say nothing of their
own ("there is a", "chest x-ray showing") go, and all others are left over. A negated finding with a word in between
that isn't known ("no spiculated mass") is no mention: the mass may be there, and not spiculated.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from synthcxr.vocabulary import RACE_WORDS, SEX_WORDS, Finding, finding_names

SEVERITY_WORDS: dict[str, str] = {
    **dict.fromkeys(("mild", "small", "tiny", "trace", "minimal", "minor", "slight", "subtle"), "mild"),
    **dict.fromkeys(("moderate", "medium"), "moderate"),
    **dict.fromkeys(("severe", "large", "big", "massive", "marked", "extensive", "huge"), "severe"),
}
VIEW_WORDS: dict[str, str] = {
    **dict.fromkeys(("pa", "posteroanterior", "postero-anterior"), "PA"),
    **dict.fromkeys(("ap", "anteroposterior", "antero-posterior", "portable"), "AP"),
    **dict.fromkeys(("lateral", "lat"), "LATERAL"),
}
_NORMAL = ("no finding", "no findings", "no abnormality", "no abnormalities", "no acute disease", "normal chest")
_NORMAL += ("normal study", "normal radiograph", "normal chest radiograph", "normal chest x-ray", "normal x-ray")
_ABNORMAL = ("acute finding", "acute findings", "acute abnormality", "acute abnormalities", "acute process")
_ABNORMAL += tuple(f"{acute}cardiopulmonary {noun}" for acute in ("acute ", "") for noun in ("process", "abnormality"))
_ABNORMAL += tuple(f"{acute}cardiopulmonary {noun}" for acute in ("acute ", "") for noun in ("disease", "findings"))

_NEGATIONS = ("no", "not", "without", "absence of", "negative for", "free of")
_DOUBTS = ("possible", "possibly", "probable", "probably", "suspected", "questionable", "likely", "maybe")
_DOUBTS += ("suspicious for", "concern for", "concerning for", "cannot exclude", "may represent")
_DENIALS = ("absent", "is absent", "are absent", "not seen", "is not seen", "are not seen", "not present")
_DENIALS += ("is not present", "are not present", "has resolved", "have resolved")
_RESERVES = ("cannot be excluded", "not excluded", "is possible", "are possible", "is suspected", "is questionable")
_BREAKS = ("with", "but", "however", "although", "except")
_JOINS = ("and/or", "and", "or", "nor")
_FILLERS = ("a", "an", "the", "of", "is", "are", "there is", "there are", "in", "this", "patient", "seen", "noted")
_FILLERS += ("evidence of", "sign of", "signs of", "any", "show", "shows", "showing", "demonstrates", "x-ray", "xray")
_FILLERS += ("chest x-ray", "radiograph", "chest radiograph", "cxr", "image")
_SHADES = ("focal", "acute", "definite", "significant", "obvious", "new")  # denied together with the finding

Kind = Literal["finding", "age", "sex", "race", "view"]


@dataclass(frozen=True)
class Mention:
    """One thing that a prompt says. `value` is its canonical value; `words` are kept as text if it can't be used."""

    kind: Kind
    value: Any
    words: str
    state: str = "present"
    side: str | None = None
    severity: str | None = None


@dataclass(frozen=True)
class Sentence:
    """Mentions and leftovers (plain strings) in the order of the prompt; `gap` is the white space that follows."""

    items: tuple[Mention | str, ...]
    gap: str

    @property
    def untouched(self) -> bool:
        return not any(isinstance(item, Mention) for item in self.items)


@dataclass
class _Token:
    kind: str
    words: str  # lower case, single spaces
    start: int
    end: int
    used: bool = False
    denied_by: "_Token | None" = None  # the negation this leftover stands under, when its phrase begins here


def _either(words: Iterable[str]) -> str:
    """A pattern for any of the words, the longest first."""
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return "(?:" + "|".join(re.escape(word).replace("\\ ", r"\s+") for word in ordered) + ")"


@cache
def _names() -> dict[str, Finding | str]:
    names: dict[str, Finding | str] = {}
    for name, finding in finding_names().items():
        names |= {name: finding, name + "s": finding}
    return names | dict.fromkeys(_NORMAL, "normal") | dict.fromkeys(_ABNORMAL, "abnormal")


@cache
def _grammar() -> re.Pattern[str]:
    """The kinds of tokens, in the order in which they are tried at each place of a sentence."""
    view, severity, end = _either(VIEW_WORDS), _either(SEVERITY_WORDS), r"(?![\w-])"
    noun = r"(?:views?|projections?|films?|radiographs?|x-?rays?|images?|cxr)"
    years = r"[\s-]*(?:years?|yrs?)[\s-]*(?:old|of\s+age)|[\s-]*(?:yo|y/o|y\.o\.?|y)"
    kinds = {
        "age": rf"(?:(?:aged|age:?)\s+[0-9]+|[0-9]+(?:{years}))(?!\w)(?:-(?=\w))?",
        "view": rf"(?:portable\s+)?{view}(?:\s+portable)?(?:\s+chest(?:\s+{noun})?|\s+{noun}){end}",
        "viewword": rf"{view}{end}(?!\s+(?:window|diameter|dimension|catheter|pressure))",
        "finding": _either(_names()) + end,
        "deny": _either(_DENIALS) + end,
        "reserve": _either(_RESERVES) + end,
        "no": _either(_NEGATIONS) + end,
        "doubt": _either(_DOUBTS) + end + r"|\?(?=\w)",
        "where": rf"(?:(?:on|in)\s+(?:the\s+)?(?:left|right)(?:\s+(?:side|lung|hemithorax))?|on\s+both\s+sides){end}",
        "side": rf"(?:(?:left|right|bilateral|both)(?:[\s-]sided)?|bilaterally){end}",
        "severity": rf"(?:(?:mild|small|moderate)(?:\s+to\s+|-to-))?{severity}(?:[\s-]sized)?{end}",
        "sex": _either(SEX_WORDS) + end,
        "race": _either(RACE_WORDS) + end,
        "break": _either(_BREAKS) + end,
        "join": _either(_JOINS) + end,
        "filler": _either(_FILLERS) + end,
        "shade": _either(_SHADES) + end,
        "mark": r"[,;:()/]|[.!?]+(?=\s|$)",
        "word": r"[^\s,;:()]+?(?=[.!?]*(?:\s|$)|[,;:()])",
    }
    return re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in kinds.items()))


def _side(words: str) -> str:
    return next((side for side in ("left", "right") if side in words), "bilateral")


class _Clause:
    """Reads one sentence from left to right; `built` maps the token of each mention to what is said of it."""

    def __init__(self, sentence: str, opening: bool) -> None:
        # Lower case in ASCII only, so that places in `lowered` are places in `sentence`.
        lowered = "".join(char.lower() if char.isascii() else char for char in sentence)
        self.sentence = sentence
        self.opening = opening  # only the first sentence may name a race or "lateral" without any other word
        self.tokens = [
            _Token(str(match.lastgroup), " ".join(match[0].split()), match.start(), match.end())
            for match in _grammar().finditer(lowered)
        ]
        for before, token in zip([None, *self.tokens], self.tokens, strict=False):
            if token.words in ("f", "m") and (before is None or before.kind != "age"):
                token.kind = "word"  # one letter is a sex right after an age only
        self.built: dict[int, dict[str, Any]] = {}
        self.group: list[dict[str, Any]] = []  # findings that one denial after them may speak of
        self.pending: list[_Token] = []  # words before a finding
        self._reset()
        for place, token in enumerate(self.tokens):
            self._take(place, token)
        self._give_up()

    def _reset(self) -> None:
        self.state, self.cue, self.listed = "present", None, False

    def _take(self, place: int, token: _Token) -> None:
        kind = token.kind
        if kind in ("age", "sex", "race", "view", "viewword") and (value := self._who(place, token)) is not None:
            self._give_up()
            self._reset()
            self.group = []
            token.used = True
            self.built[token.start] = {"kind": kind.removesuffix("word"), "value": value}
        elif kind == "finding":
            self._finding(token)
        elif kind in ("no", "doubt"):
            self._give_up()
            self.state, self.cue, self.listed = "absent" if kind == "no" else "uncertain", token, True
        elif kind == "break":
            self._give_up()
            self._reset()
            self.group = []
        elif kind in ("join", "mark"):
            self._join(place, token)
        elif kind in ("deny", "reserve") and self.group and not self.pending:
            token.used = True
            for said in self.group:
                said["state"] = "absent" if kind == "deny" else "uncertain"
            self.group = []
        elif kind == "where" and self.group and not self.pending and self._sideless(self.group[-1]):
            token.used = True
            self.group[-1]["side"] = _side(token.words)
        elif kind != "filler":
            self.pending.append(token)

    @staticmethod
    def _sideless(said: dict[str, Any]) -> bool:
        return said["side"] is None and isinstance(said["value"], Finding)

    def _who(self, place: int, token: _Token) -> int | str | None:
        """What a token says of the patient or view; None where its neighbours make it an ordinary word."""
        before = self.tokens[place - 1].kind if place else "mark"
        after = self.tokens[place + 1].kind if place + 1 < len(self.tokens) else "mark"
        alone = self.opening and before == after == "mark"
        if token.kind == "age":
            return int(re.sub(r"[^0-9]", "", token.words).lstrip("0")[:6] or 0)  # too long a number is too old anyway
        if token.kind == "sex":
            return SEX_WORDS[token.words]
        if token.kind == "race":
            return RACE_WORDS[token.words] if alone or {before, after} & {"age", "sex"} else None
        views = [VIEW_WORDS[word] for word in token.words.split() if word in VIEW_WORDS]
        view = views[1] if token.words.startswith("portable") and len(views) > 1 else views[0]
        return None if view == "LATERAL" and token.kind == "viewword" and not alone else view

    def _join(self, place: int, token: _Token) -> None:
        """A list goes on, or ends: "no effusion or edema", but "no effusion, large mass"."""
        if self.pending and all(word.kind in ("side", "severity") for word in self.pending):
            return  # "left and right effusion", "large, left effusion"
        self._give_up()
        rest = self.tokens[place + 1 :]
        if token.words == "and":
            goes_on = bool(rest) and rest[0].kind not in ("severity", "side") and rest[0].words not in ("a", "an")
        else:
            stop = next((i for i, later in enumerate(rest) if later.kind in ("no", "break")), len(rest))
            goes_on = token.kind == "join" or any(later.words in ("or", "nor", "and/or") for later in rest[:stop])
        self.listed = True
        if not goes_on:
            self._reset()
        if token.kind == "mark" and not goes_on:
            self.group = self.group[-1:]

    def _give_up(self) -> None:
        """No finding came after the pending words: they are left over, and keep their "no"."""
        if self.pending and self.state == "absent" and self.listed:
            self.pending[0].denied_by = self.cue
        self.pending = []

    def _finding(self, token: _Token) -> None:
        value = _names()[token.words]
        modifiers = ("side", "severity") if isinstance(value, Finding) else ()
        unknown = [word for word in self.pending if word.kind not in (*modifiers, "shade")]
        if self.state == "absent" and unknown:
            self.listed = True
            self._give_up()
            self.group = []
            return
        sides = [word for word in self.pending if word.kind == "side" and modifiers]
        severities = [word for word in self.pending if word.kind == "severity" and modifiers]
        shades = [word for word in self.pending if word.kind == "shade" and self.state == "absent"]
        for word in (token, *sides, *severities[-1:], *shades, *([self.cue] if self.cue else [])):
            word.used = True
        said_sides = {_side(word.words) for word in sides}
        said: dict[str, Any] = {"kind": "finding", "value": value, "state": self.state, "side": None, "severity": None}
        if said_sides:
            said["side"] = said_sides.pop() if len(said_sides) == 1 else "bilateral"
        if severities:
            said["severity"] = SEVERITY_WORDS[re.split(r"[\s-]", re.sub(r"[\s-]sized$", "", severities[-1].words))[-1]]
        self.built[token.start] = said
        self.group.append(said)
        self.pending, self.listed = [], False

    def items(self) -> tuple[Mention | str, ...]:
        """Mentions, and what is left over between them without the small words at its ends."""
        items: list[Mention | str] = []
        run: list[_Token] = []

        def close_run() -> None:
            while run and run[0].kind in _SMALL:
                run.pop(0)
            while run and run[-1].kind in _SMALL:
                run.pop()
            if run:
                denied = run[0].denied_by is not None and run[0].denied_by.used
                items.append(("no " if denied else "") + self.sentence[run[0].start : run[-1].end])
            run.clear()

        for token in self.tokens:
            if token.used or (token.denied_by and token.denied_by.used):
                close_run()
            if token.start in self.built:
                items.append(_mention(self.built[token.start], self.sentence[token.start : token.end].rstrip("-")))
            elif not token.used:
                run.append(token)
        close_run()
        return tuple(items)


_SMALL = ("filler", "join", "mark", "break")


def _mention(said: dict[str, Any], words: str) -> Mention:
    if said["value"] == "abnormal":
        opposite = {"present": "absent", "absent": "present", "uncertain": "uncertain"}
        said = said | {"value": Finding.NO_FINDING, "state": opposite[said["state"]]}
    elif said["value"] == "normal":
        said = said | {"value": Finding.NO_FINDING}
    return Mention(words=words, **said)


def read_prompt(text: str) -> list[Sentence]:
    """The sentences of a prompt, each as mentions and leftovers."""
    parts = re.split(r"((?<=[.;!?])\s+|\s*\n\s*)", text.strip())
    sentences = []
    for place, (words, gap) in enumerate(zip(parts[::2], [*parts[1::2], ""], strict=True)):
        items = _Clause(words, opening=place == 0).items()
        said = any(isinstance(item, Mention) for item in items)
        sentences.append(Sentence(items if said else (words,), gap))
    return sentences
