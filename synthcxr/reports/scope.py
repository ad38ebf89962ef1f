"""What a sentence of a report asserts: mentions of concepts, each present, absent or uncertain, with side and severity.

NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009): a trigger before or after a concept negates it, makes it
uncertain or puts it aside, unless a word between them ends its scope. Two things are added for radiology's long lists:
a comma or "and" ends a scope where the list doesn't go on, and the halves of "X or Y" are both uncertain.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import lru_cache

from synthcxr.reports.lexicon import Concept
from synthcxr.reports.triggers import SHADES, STARTERS, Token, severity_of, sides_in, tokens
from synthcxr.vocabulary import Finding, Severity, Side, State

_INNER_NO = re.compile(r"\b(?:not|no longer|non)\b")
_INNER_MAYBE = re.compile(r"\b(?:likely|probably|possibly|borderline)\b")
_INNER_VERB = re.compile(r"\b(?:is|are|was|were|appears?|remains?|has|have)\b")
_SCOPE_ENDS = ("stop", "no", "maybe", "pseudo")


@dataclass(frozen=True)
class Mention:
    """One concept as a sentence puts it; `qualified` denials deny only a kind of it ("no large effusion")."""

    concept: Concept
    state: State
    side: Side | None = None
    severity: Severity | None = None
    qualified: bool = False


def _first(rest: list[Token], kinds: Collection[str]) -> int:
    return next((place for place, token in enumerate(rest) if token.kind in kinds), len(rest))


def _own_clause(token: Token) -> bool:
    """Whether a concept is a clause of its own, with its verb inside ("heart is enlarged")."""
    return token.concept is not None and bool(token.concept.state == "absent" or _INNER_VERB.search(token.words))


@dataclass
class _Scope:
    """Reads the tokens of one sentence from left to right, and sets the state of its concepts."""

    tokens: list[Token]
    cue: str | None = None  # what the last trigger makes of the concepts after it: absent, uncertain or aside
    reached: bool = False  # whether the cue has met a concept yet
    qualified: bool = False
    wide: bool = False  # a differential diagnosis: its list goes on whatever comes
    group: list[Token] = field(default_factory=list)  # concepts that a trigger after them may speak of
    segment: int = 0  # where in `group` the words since the last comma begin
    joined: bool = False
    verb: bool = False
    subject: list[Token] = field(default_factory=list)  # of the verb before: "nodules are smaller and not seen"
    alternative: Token | None = None  # "X or": its other half makes both uncertain

    def run(self) -> None:
        for place, token in enumerate(self.tokens):
            self._take(place, token)

    def _begin(self, cue: str | None) -> None:
        self.cue, self.reached, self.qualified, self.wide, self.alternative = cue, False, False, False, None

    def _new_clause(self) -> None:
        self.subject = self.group or self.subject
        self.group, self.segment, self.joined, self.verb = [], 0, False, False

    def _take(self, place: int, token: Token) -> None:
        kind = token.kind
        if kind == "concept":
            self._concept(token)
        elif kind in ("pseudo", "stop"):
            self._begin(None)
            if kind == "stop":
                self._new_clause()
                self.subject, self.verb = [], token.words.startswith("there")
        elif kind == "no":
            self._begin("absent")
        elif kind in ("maybe", "aside") and self.cue not in ("absent", "aside"):
            self._begin("uncertain" if kind == "maybe" else "aside")
            self.wide = token.words.startswith("differential")
        elif kind in ("no_after", "maybe_after"):
            self._look_back("absent" if kind == "no_after" else "uncertain")
        elif kind in ("comma", "and", "or"):
            self._join(place, kind)
        elif kind in ("verb", "seen"):
            self.verb = True
        elif kind in ("severity", "side") or token.words in SHADES:
            self.qualified = self.qualified or self.cue == "absent"

    def _concept(self, token: Token) -> None:
        concept = token.concept
        if self.cue != "aside" and _INNER_VERB.search(token.words):
            self._begin(None)
            self._new_clause()
        state: str = concept.state
        if concept.findings and _INNER_NO.search(token.words):
            state = "absent"
        elif state == "present" and _INNER_MAYBE.search(token.words):
            state = "uncertain"
        token.qualified = self.qualified or concept.state == "absent"
        if self.cue == "absent":
            state = "aside" if concept.state == "absent" else "absent"  # "not normal" names no finding
        elif self.cue and state != "absent":
            state = self.cue
        if self.alternative and state == "present" and concept.findings:
            state = "uncertain"
            if self.alternative.state == "present":
                self.alternative.state = "uncertain"
        self.alternative = None
        self.reached = True
        self.verb = self.verb or bool(_INNER_VERB.search(token.words))
        token.state = state
        self.group.append(token)

    def _look_back(self, state: str) -> None:
        for token in (self.group if self.joined else self.group[self.segment :]) or self.subject:
            if token.state in ("present", "uncertain"):
                token.state = state
        self._new_clause()
        self._begin(None)

    def _join(self, place: int, kind: str) -> None:
        if self.verb:
            self._new_clause()
        if kind == "comma":
            self.segment = len(self.group)
        else:
            self.joined = True
        if kind == "or":
            if self.cue is None and self.group:
                self.alternative = self.group[-1]
        elif self.cue and self.reached and not self._goes_on(place):
            self._begin(None)
        elif kind == "comma":
            self.alternative = None

    def _goes_on(self, place: int) -> bool:
        """Whether a list under a trigger goes on: "no effusion, edema", but not "no effusion, small nodule"."""
        rest = self.tokens[place + 1 :]
        joined = self.tokens[place].kind == "and"
        if rest and rest[0].kind in ("and", "or"):
            if rest[0].kind == "or":
                return True
            joined, rest = True, rest[1:]
        if not rest or rest[0].kind in _SCOPE_ENDS:
            return False
        clause = rest[: _first(rest, ("comma", *_SCOPE_ENDS))]
        if any(token.kind == "verb" or _own_clause(token) for token in clause):
            return False
        if any(token.kind == "or" for token in rest[: _first(rest, ("verb", *_SCOPE_ENDS))]):
            return True
        if rest[0].kind in ("severity", "side") or rest[0].words in STARTERS:
            return self.wide
        return joined or self.wide or self.cue != "uncertain"


_PHRASE_ENDS = frozenset("concept comma stop no maybe aside pseudo verb seen no_after maybe_after and or".split())
_BEYOND = frozenset(("in", "at", "on", "within", "over", "overlying", "throughout", "from", "by", "to", "near"))


def _pair(sentence: list[Token], place: int) -> bool:
    """Whether the "and" or "or" at `place` joins modifiers: "small left and moderate right"."""
    if sentence[place].kind not in ("and", "or"):
        return False
    for around in (sentence[max(0, place - 3) : place][::-1], sentence[place + 1 : place + 4]):
        kind = next((token.kind for token in around if token.kind != "word"), "word")
        if kind not in ("side", "severity"):
            return False
    return True


def _before(sentence: list[Token], place: int) -> tuple[set[Side], Severity | None]:
    """Sides and severity of the words before a concept in its phrase."""
    sides: set[Side] = set()
    severity: Severity | None = None
    near = True
    for at in range(place - 1, -1, -1):
        token = sentence[at]
        if token.kind in _PHRASE_ENDS and not _pair(sentence, at):
            break
        near = near and token.words not in _BEYOND
        sides |= sides_in(token)
        if near and token.kind == "severity":
            severity = severity or severity_of(token.words)
    return sides, severity


def _after(sentence: list[Token], place: int) -> tuple[set[Side], Severity | None]:
    """Sides of the words after a concept, and its severity after a verb: "... on the left is small"."""
    sides: set[Side] = set()
    severity: Severity | None = None
    verb = False
    for at in range(place + 1, len(sentence)):
        token = sentence[at]
        verb = verb or token.kind == "verb"
        if token.kind in ("and", "or") and at == place + 1:
            following = at + 1 + _first(sentence[at + 1 :], _PHRASE_ENDS)
            if sentence[following : following + 1] and sentence[following].concept:
                if not _before(sentence, following)[0]:
                    return _after(sentence, following)[0], None  # "atelectasis or scarring in the left base"
        if token.kind in _PHRASE_ENDS - {"verb", "seen"} and not _pair(sentence, at):
            break
        sides |= sides_in(token)
        if verb and token.kind == "severity":
            severity = severity or severity_of(token.words)
    return sides, severity


def _modifiers(sentence: list[Token], place: int) -> tuple[Side | None, Severity | None]:
    """Side and severity of a concept: in its own words, before it, after it, or anywhere in a sentence of its own."""
    before, severity_before = _before(sentence, place)
    after, severity_after = _after(sentence, place)
    own = [severity for word in sentence[place].words.split() if (severity := severity_of(word))]
    severity = own[0] if own else severity_before or severity_after
    sides = sides_in(sentence[place]) | before or after
    if not sides and sum(bool(token.concept and token.concept.findings) for token in sentence) == 1:
        sides = {side for token in sentence for side in sides_in(token)}
    return (next(iter(sides)) if len(sides) == 1 else "bilateral" if sides else None), severity


# What shares its place with what it explains or goes along with: "left basilar opacity, likely atelectasis".
_LOCAL = frozenset(
    (Finding.LUNG_OPACITY, Finding.ATELECTASIS, Finding.CONSOLIDATION, Finding.PNEUMONIA, Finding.INFILTRATION)
    + (Finding.FIBROSIS, Finding.PLEURAL_EFFUSION, Finding.PLEURAL_THICKENING, Finding.LUNG_LESION, Finding.NODULE)
)


@lru_cache(maxsize=10_000)
def read_sentence(sentence: str) -> tuple[Mention, ...]:
    """The mentions of a sentence (lower case, single spaces) in its order, without those put aside."""
    sentence_tokens = tokens(sentence)
    _Scope(sentence_tokens).run()
    mentions = []
    place_before: Side | None = None
    for at, token in enumerate(sentence_tokens):
        if token.concept is None or token.state == "aside":
            continue
        side, severity = _modifiers(sentence_tokens, at) if token.concept.findings else (None, None)
        if token.state != "absent" and _LOCAL.intersection(token.concept.findings):
            side = place_before = side or place_before
        qualified = token.qualified or side in ("left", "right")
        mentions.append(Mention(token.concept, token.state, side, severity, qualified))
    return tuple(mentions)
