"""An audit as one HTML file, with the most suspect images beside the training images that they're near to."""

from collections.abc import Sequence
from html import escape

from synthcxr.evaluation.audit_result import AuditResult, Named, Pictured
from synthcxr.evaluation.report import ARROWS, number, page, sheet_html, table
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
        "<h2>Numbers</h2>", _numbers(result),
        "<h2>By feature set</h2>", _by_set(result), *(f"<p>{escape(remark)}</p>" for remark in result.remarks),
        f"<h2>Suspects: {len(result.suspects)}</h2>",
        "<p class=quiet>At most one in ten on the list is expected to be there by chance. With so many "
        f"held-out patients it can name copies only where there are {result.listable} or more; fewer show in the "
        "rate.</p>",
    ]  # fmt: skip
    if pictures:
        parts.append(sheet_html(_sheet(pictures)))
    return page(f"Privacy audit of {made}", parts)


def _numbers(result: AuditResult) -> str:
    """What is told of all feature sets together, and of the model."""
    of_sets = {one.name for row in _of_sets(result).values() for one in row}
    rows = [
        (f"{escape(one.name)} {'(0.5 is best)' if one.name.startswith(AUCS) else ARROWS[one.direction]}", number(one))
        for one in (result.excess, *result.numbers)
        if one.name not in of_sets
    ]
    return table(("", "value, 95% interval"), rows)


def _by_set(result: AuditResult) -> str:
    """A row a feature set, a column a number."""
    rows = [(escape(name), *(number(one) for one in row)) for name, row in _of_sets(result).items()]
    head = [
        f"{escape(one.name.rpartition(', ')[0])} {ARROWS[one.direction]}"
        for one in next(iter(_of_sets(result).values()), ())
    ]
    told = (
        "<p class=quiet>d1 is the distance to the nearest training image, d2 ... those to the next patients'. Data "
        "copying is C_T of Meehan et al. 2020: below -2, pictures lie nearer to training images than held-out ones do. "
        "An authenticity gap above 0: fewer pictures than held-out images are farther from their nearest training "
        "image than that one is from other patients. The rate that decides takes all sets together.</p>"
    )
    return table(("", *head), rows) + told


def _of_sets(result: AuditResult) -> dict[str, list[Named]]:
    """The numbers of each feature set, whose names end in its name."""
    names = [one.name.partition(", ")[2] for one in result.numbers if one.name.startswith("authenticity gap")]
    return {name: [one for one in result.numbers if one.name.endswith(f", {name}")] for name in names}


def _sheet(pictures: Sequence[Pictured]) -> Sheet:
    thumbnails, captions = [], []
    for one in pictures:
        for pixels, caption in ((one.synthetic, f"p = {one.suspect.p:.2g}"), (one.train, f"by {one.suspect.features}")):
            thumbnails.append(from_float(to_square(to_float(pixels), SIDE)))
            captions.append(caption)
    told = "Synthetic, and on its right the training image it's near to; the most suspect first."
    return sheet("Most suspect", told, thumbnails, COLUMNS, captions)
