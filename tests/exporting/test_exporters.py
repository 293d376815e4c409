"""The registry of exporters, and its page in the documentation."""

import re
from pathlib import Path

import pytest

from pmni.config.export import ExportSettings
from pmni.config.extensions import EXPORTERS
from pmni.errors import InputError
from pmni.exporting.export import chosen_exporters

DOCUMENT = Path(__file__).parents[2] / "docs/exporting.md"


def test_all_formats_are_the_default() -> None:
    assert list(chosen_exporters(ExportSettings())) == list(EXPORTERS)


def test_required_formats_are_added_in_the_registrys_order() -> None:
    chosen = chosen_exporters(ExportSettings(formats=("nerfstudio", "poses")))
    assert list(chosen) == ["supernormal", "poses", "points", "nerfstudio"]


def test_unknown_formats_are_an_error() -> None:
    with pytest.raises(InputError, match="unknown exporter 'alembic'"):
        ExportSettings.parse({"formats": ["alembic"]}, "test")


def test_the_document_lists_every_format() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(.*?)` \| (.*?) \| (.*?) \|$", DOCUMENT.read_text(), re.M)
    entries = [(name, EXPORTERS[name]) for name in EXPORTERS]
    assert rows == [(name, entry.output, entry.software, entry.omits) for name, entry in entries]
