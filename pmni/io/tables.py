"""Tables of numbers as CSV."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pmni.io.atomic import write_text

Row = dict[str, int | float]
"""Named numbers."""


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, atomically; a number that a row lacks stays empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
