"""An audit as one HTML file, with the most suspect images beside the training images that they're near to."""

from collections.abc import Sequence
from html import escape

from synthcxr.evaluation.audit_result import AuditResult, Named, Pictured
from synthcxr.evaluation.report import ARROWS, page, sheet_html, table
from synthcxr.evaluation.sheets import Sheet, sheet
from synthcxr.images import from_float, to_float, to_square

SIDE, COLUMNS = 128, 8
AUCS = ("training told", "membership")


def html(result: AuditResult, pictures: Sequence[Pictured]) -> str:
    """The report; it shows training images, so it belongs where these may be seen."""
    names = {given.role: given for given in result.inputs}
    made = escape(names["synthetic"].name)
    verdict = "passed" if result.passed else "not passed"
    inputs = [
        (given.role.replace("_", " "), escape(given.name), f"{given.images:,}", f"{given.patients:,}",
         f"<code>{given.manifest_sha256[:12]}</code>")
        for given in result.inputs
    ]  # fmt: skip
    fresh = f"{result.fresh[0]:.1%} to {result.fresh[1]:.1%}"
    parts = [
        f"<h1>Privacy audit of {made}: {verdict}</h1>",
        "".join(f"<p class=best>{escape(reason)}</p>" for reason in result.failures),
        table(("", "dataset", "images", "patients or groups", "manifest"), inputs),
        f"<p class=quiet>Weights: <code>{(result.model or 'not given')[:12]}</code>. An image counts as a copy where "
        f"it lies nearer to a training image than {result.alpha:.0%} of {result.held_out_patients:,} held-out "
        f"patients do. Of as many fresh real images, {fresh} would; what exceeds {result.alpha:.0%} is the excess copy "
        "rate. Planted copies are the positive control: an audit that misses them finds nothing. Research only.</p>",
        "<h2>Numbers</h2>", _numbers([result.excess, *result.numbers]),
        f"<h2>Suspects: {len(result.suspects)}</h2>",
        "<p class=quiet>At most one in ten on the list is expected to be there by chance. With so many "
        f"held-out patients it can name copies only where there are {result.listable} or more; fewer show in the "
        "rate.</p>",
    ]  # fmt: skip
    if pictures:
        parts.append(sheet_html(_sheet(pictures)))
    return page(f"Privacy audit of {made}", parts)


def _numbers(numbers: Sequence[Named]) -> str:
    rows = [
        (f"{escape(one.name)} {'(0.5 is best)' if one.name.startswith(AUCS) else ARROWS[one.direction]}", str(one))
        for one in numbers
    ]
    return table(("", "value, 95% interval"), rows)


def _sheet(pictures: Sequence[Pictured]) -> Sheet:
    thumbnails, captions = [], []
    for one in pictures:
        for pixels, caption in ((one.synthetic, f"p = {one.suspect.p:.2g}"), (one.train, f"by {one.suspect.features}")):
            thumbnails.append(from_float(to_square(to_float(pixels), SIDE)))
            captions.append(caption)
    told = "Synthetic, and on its right the training image it's near to; the most suspect first."
    return sheet("Most suspect", told, thumbnails, COLUMNS, captions)
