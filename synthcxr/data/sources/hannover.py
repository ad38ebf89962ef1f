"""COVID-19 image repository of Hannover Medical School."""

from collections.abc import Iterator
from pathlib import Path

from synthcxr.data.sources.cells import condition, sex_of, view_of
from synthcxr.data.sources.files import images_by, joined
from synthcxr.data.sources.row import Rejected, SourceRow
from synthcxr.data.sources.tables import one_file, table_rows


def hannover(root: Path) -> Iterator[SourceRow | Rejected]:
    """COVID-19 image repository of Hannover Medical School (Winther et al. 2020): data.csv, images/<image_id>.*.

    No findings are coded and ages are redacted, so a condition has the sex and the view alone.

    Raises:
        SourceError: no table, a missing column, no image, or a row that isn't one (named).
    """
    table = one_file(root, "hannover", ("data.csv",))
    columns = ("image_id", "patient_id", "sex", "projection")
    rows = ((table, number, cells[0], cells) for number, cells in table_rows(table, columns))

    def build(path: Path, cells: tuple[str, ...]) -> SourceRow:
        _, patient, sex, view = cells
        return SourceRow(
            path=path,
            id=path.stem,
            patient=f"hannover-{patient}",
            study=path.stem,
            condition=condition({}, sex=sex_of(sex), view=view_of(view)),
            source="hannover",
            licence="CC BY 3.0",
        )

    yield from joined(images_by(root), rows, build)
