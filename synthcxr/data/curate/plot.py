"""The summary as one picture: what share of the images each level has, before and after."""

import io
from itertools import groupby

from PIL import Image, ImageDraw, ImageFont

from synthcxr.data.curate.summary import Level, PairChange, Summary, odds, one_line

WIDTH, LEFT, RIGHT = 1000, 210, 250  # pixels: of the picture, and beside the bars for names and numbers
_ROW, _BAR, _PAD = 26, 9, 20
_INK, _GRAY, _BLUE, _ORANGE = (30, 30, 30), (176, 180, 186), (33, 102, 172), (217, 95, 2)


def plot(summary: Summary) -> bytes:
    """A PNG, the same for the same summary: gray bars before, blue ones after, and an orange mark where weights move
    the blue bar's end to."""
    heads = len({level.column for level in summary.levels})
    notes = [_pair_note(pair) for pair in summary.pairs]
    height = 2 * _PAD + _ROW * (3 + heads + len(summary.levels) + len(notes) + bool(notes))
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    font, large = ImageFont.load_default(size=13), ImageFont.load_default(size=16)
    draw.text((_PAD, _PAD), one_line(summary), fill=_INK, font=_fitting(one_line(summary), large, font))
    _legend(draw, _PAD + _ROW, font)
    y = _PAD + 2 * _ROW + _ROW // 2
    widest = max((max(_shares(level)) for level in summary.levels), default=1.0)
    for name, levels in groupby(summary.levels, key=lambda level: level.column):
        draw.text((_PAD, y), name, fill=_INK, font=large)
        y += _ROW
        for level in levels:
            _row(draw, y, level, widest, font)
            y += _ROW
    for note in ["made independent: odds ratio before -> after -> with weights", *notes] if notes else ():
        draw.text((_PAD, y + 6), note, fill=_INK, font=font)
        y += _ROW
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _row(draw: ImageDraw.ImageDraw, y: int, level: Level, widest: float, font: ImageFont.FreeTypeFont) -> None:
    before, after, weighted = (LEFT + round((WIDTH - LEFT - RIGHT) * share / widest) for share in _shares(level))
    draw.text((LEFT - 10, y + _BAR), level.name, fill=_INK, font=font, anchor="rm")
    draw.rectangle([LEFT, y, before, y + _BAR - 1], fill=_GRAY)
    draw.rectangle([LEFT, y + _BAR, after, y + 2 * _BAR - 1], fill=_BLUE)
    draw.rectangle([weighted - 1, y + _BAR - 2, weighted + 1, y + 2 * _BAR + 1], fill=_ORANGE)
    shares = _shares(level)
    told = f"{level.before:,} ({shares[0]:.1%}) -> {level.after:,} ({shares[1]:.1%})"
    draw.text((WIDTH - _PAD, y + _BAR), told, fill=_INK, font=font, anchor="rm")


def _shares(level: Level) -> tuple[float, float, float]:
    return level.share_before, level.share_after, level.share_weighted


def _legend(draw: ImageDraw.ImageDraw, y: int, font: ImageFont.FreeTypeFont) -> None:
    x = _PAD
    for words, colour in (("before", _GRAY), ("after", _BLUE), ("after, by weight", _ORANGE)):
        draw.rectangle([x, y + 4, x + 12, y + 14], fill=colour)
        draw.text((x + 18, y + 9), words, fill=_INK, font=font, anchor="lm")
        x += 40 + round(font.getlength(words))
    draw.text(
        (x, y + 9),
        "share of the images that were pruned or balanced; of splits, of all",
        fill=_INK,
        font=font,
        anchor="lm",
    )


def _pair_note(pair: PairChange) -> str:
    before, after, weighted = pair.before, pair.after, pair.weighted
    return f"{before.one} and {before.other}: {odds(before)} -> {odds(after)} -> {odds(weighted)}"


def _fitting(text: str, *fonts: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    return next((font for font in fonts if font.getlength(text) <= WIDTH - 2 * _PAD), fonts[-1])
