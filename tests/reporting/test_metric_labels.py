"""Values of metrics as the page shows them."""

import pytest

from pmni.reporting import metric_labels


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("chamfer_mm", 0.12345, "0.123"),
        ("mae_deg", None, "–"),
        ("mae_deg", float("nan"), "–"),
        ("vertices", 12345, "12,345"),
        ("watertight", True, "yes"),
        ("something", 0.000123456, "0.0001235"),
        ("device", "cpu", "cpu"),
    ],
)
def test_numbers_are_shown_as_people_read_them(key: str, value: object, text: str) -> None:
    assert metric_labels.format_value(key, value) == text
