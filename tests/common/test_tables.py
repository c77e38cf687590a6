import pytest

from minigpt4.common.tables import as_interval, as_markdown, as_percent, as_table

ROWS = [["name", "rows"], ["gqa", "12"], ["ocr vqa", "-"]]


def test_columns_of_a_table_are_aligned_without_blanks_at_the_ends_of_lines():
    assert as_table(ROWS, right=(1,)).splitlines() == [
        "name     rows",
        "gqa        12",
        "ocr vqa     -",
    ]
    assert as_table(ROWS).splitlines() == ["name     rows", "gqa      12", "ocr vqa  -"]


@pytest.mark.parametrize(("centred", "rule"), [(False, "|---------|------|"), (True, "|:-------:|:----:|")])
def test_a_markdown_table_is_aligned_too(centred, rule):
    assert as_markdown(ROWS, centred=centred).splitlines() == [
        "| name    | rows |",
        rule,
        "| gqa     | 12   |",
        "| ocr vqa | -    |",
    ]


def test_a_row_with_another_number_of_cells_is_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        as_table([["a", "b"], ["c"]])


def test_percentages_and_intervals_have_two_digits_or_a_dash():
    assert (as_percent(49.205), as_percent(None)) == ("49.20", "-")
    assert (as_interval([40, 60.0]), as_interval(None)) == ("40.00 .. 60.00", "-")
