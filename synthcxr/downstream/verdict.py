"""What an experiment says, in plain words: a gain only where it's more than chance in all that was compared."""

from collections.abc import Sequence
from typing import Literal

from synthcxr.downstream.measure import GAP, WORST
from synthcxr.downstream.result import Comparison, Family, Point, Save

FEW_SEEDS = 5
OF_GENERATOR = {
    "all": "The generator learned from all real training patients, their labels included. So with fewer real patients "
    "its pictures bring in what the labels of the others taught it, which real data alone doesn't have there: a gain "
    "is what a generator trained on more gives, not what one trained on these few patients would.",
    "none": "The generator learned from none of the real training patients.",
    None: "Nothing is said of which real training patients the generator learned from (generator_saw); if from more "
    "than a fraction holds, a gain there is in part what their labels taught it.",
}  # fmt: skip
UNPLANTED = (
    " It learned from them as they are, without the planted correlation: pictures of a generator that was trained on "
    "confounded images may help less."
)


def verdict(
    arms: Sequence[str], comparisons: Sequence[Comparison], points: Sequence[Point], savings: Sequence[Save],
    seeds: int, generator_saw: Literal["all", "none"] | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """A headline; a sentence an arm about discrimination, one about fairness; what limits them stands at the end."""
    families: tuple[Family, ...] = ("macro AUROC", "uncorrelated AUROC")
    primary = next((one for one in reversed(families) if any(c.family == one for c in comparisons)), families[0])
    told = [_headline(primary, [one for one in comparisons if one.family == primary])]
    for arm in arms:
        own = [one for one in comparisons if one.arm == arm and one.family == primary]
        if own:
            told += [_discrimination(arm, primary, own, savings if primary == "macro AUROC" else ())]
            told += _fairness(arm, [one for one in comparisons if one.arm == arm and one.metric == GAP], points)
    if comparisons:
        told.append(
            OF_GENERATOR[generator_saw] + (UNPLANTED if primary != families[0] and generator_saw == "all" else "")
        )
    if seeds < FEW_SEEDS:
        told.append(f"This was a small run ({seeds} seed{'s' if seeds > 1 else ''} instead of {FEW_SEEDS} or more): "
                    "it shows that the experiment works. It can miss gains and losses, and seeds that agree by chance "
                    "can pass for either.")  # fmt: skip
    return tuple(told)


def _headline(family: str, compared: Sequence[Comparison]) -> str:
    """What someone who reads one sentence should take away."""
    if not compared:
        return "Nothing was compared: real data alone was trained on."
    gained: dict[str, list[str]] = {}
    for one in compared:
        if one.shown and one.better:
            gained.setdefault(one.arm, []).append(f"{100 * one.fraction:.3g}%")
    if not gained:
        return (
            f"No measurable gain: in none of {len(compared)} comparisons of {family} did synthetic images do "
            "measurably better than real data alone."
        )
    where = "; ".join(f"{arm}, with {', '.join(dict.fromkeys(at))} of the real patients" for arm, at in gained.items())
    count = sum(map(len, gained.values()))
    rest = "" if count == len(compared) else " Nowhere else is a gain measurable."
    return f"Synthetic images helped measurably in {count} of {len(compared)} comparisons of {family}: {where}.{rest}"


def _discrimination(arm: str, family: str, own: Sequence[Comparison], savings: Sequence[Save]) -> str:
    said = []
    for better, word in ((True, "gain"), (False, "loss")):
        if shown := [one for one in own if one.shown and one.better == better]:
            said.append(f"a measurable {word} in {family} at {_list(shown)}")
    if not any(one.shown and one.better for one in own):
        best = max(own, key=lambda one: one.difference.value)
        nothing = f"no measurable gain in {family} at any fraction (at best {_apart(best)})"
        return f"{arm}: {nothing}{' and ' + said[0] if said else ''}."
    gained = {(one.fraction, one.multiple) for one in own if one.shown and one.better}
    worth = [save for save in savings if save.arm == arm and (save.fraction, save.multiple) in gained]
    tail = f"; there it is worth {', '.join(map(_worth, worth))} as many real patients" if worth else ""
    return f"{arm}: {' and '.join(said)}{tail}."


def _fairness(arm: str, own: Sequence[Comparison], points: Sequence[Point]) -> list[str]:
    """A smaller gap with a worse worst group is no gain."""
    if not own:
        return []
    smaller = [one for one in own if one.shown and one.better]
    worst = {(p.arm, p.fraction, p.multiple): p.measured.value for p in points if p.metric == WORST}
    fairer = []
    for one in smaller:
        mine = worst.get((arm, one.fraction, one.multiple), worst.get((arm, 0.0, one.multiple)))
        if mine is not None and mine <= worst["real", one.fraction, 0.0]:
            fairer.append(one)
    if fairer:
        return [f"{arm}: a smaller gap in underdiagnosis at {_list(fairer)}, and the worst-off group isn't worse."]
    if smaller:
        return [f"{arm}: a smaller gap in underdiagnosis at {_list(smaller)}, but a worse worst-off group: no gain."]
    larger = [one for one in own if one.shown]
    if larger:
        return [f"{arm}: a larger gap in underdiagnosis at {_list(larger)}."]
    return [f"{arm}: no measurable change of the gap in underdiagnosis between groups."]


def _list(comparisons: Sequence[Comparison]) -> str:
    return ", ".join(map(_apart, comparisons))


def _apart(one: Comparison) -> str:
    number = one.difference
    where = f"{100 * one.fraction:.3g}% of the real patients, {one.multiple:g}x synthetic"
    return f"{where}: {number.value:+.3f} [{number.low:+.3f}, {number.high:+.3f}]"


def _worth(save: Save) -> str:
    bound = f"{save.bound} " if save.bound else ""
    return f"{bound}{save.factor:.2g} times [{save.low:.2g}, {save.high:.2g}] (at {100 * save.fraction:.3g}%)"
