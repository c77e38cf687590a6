import json
import pickle

import pytest

from minigpt4.common.json_records import JsonRecords
from minigpt4.common.row_checks import require
from minigpt4.datasets.row_table import RowTable

RECORDS = [{"text": "plain"}, {"text": "東京 ☕ é"}, {"text": "after non-ASCII", "n": [1, {"m": -2.5}]}, {}]


class OneEach:
    """Every record is one row, without image."""

    fields = {}  # noqa: RUF012

    def rows_of(self, record):
        return [record]

    def image_files(self, row):
        return []

    def text_chars(self, row):
        return 0, 0

    def box_fault(self, row):
        return 0

    def remark(self, record):
        return None


def table_of(records, rules=None):
    return RowTable.scan(getattr(records, "path", ""), records, rules or OneEach())


CHUNKS = pytest.mark.parametrize("chunk", [1, 3, 1 << 22])
"""The file is read in pieces of this many bytes."""


@CHUNKS
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"ensure_ascii": False}, {"ensure_ascii": False, "indent": 1}])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b" \n\t"])
def test_each_record_is_found_again_where_it_lies(tmp_path, chunk, style, begin):
    path = tmp_path / "a.json"
    path.write_bytes(begin + json.dumps(RECORDS, **style).encode())
    table = table_of(JsonRecords(str(path), chunk=chunk))
    assert [table[index] for index in range(len(table))] == [(record, 0) for record in RECORDS]


@CHUNKS
def test_items_of_an_object_are_records_with_their_key(tmp_path, chunk):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"é": {"n": 1}, "b": {"n": [2]}}, ensure_ascii=False), encoding="utf-8")
    table = table_of(JsonRecords(str(path), chunk=chunk))
    assert [table[0][0], table[1][0]] == [{"é": {"n": 1}}, {"b": {"n": [2]}}]


@CHUNKS
@pytest.mark.parametrize(
    "text", ['{"info": {"data": [7]}, "n": 12, "data": [{"a": 1}, {"a": 2}], "z": 1}', '[{"a": 1}, {"a": 2}]']
)
def test_records_under_a_key_or_the_list_alone(tmp_path, chunk, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert list(JsonRecords(str(path), chunk=chunk, key="data")) == [{"a": 1}, {"a": 2}]


class Numbers(OneEach):
    """Every record is a list of numbers; its even ones are rows, each with two images."""

    def rows_of(self, record):
        if not isinstance(record, list):
            raise ValueError("no list")
        return [number for number in record if number % 2 == 0]

    def image_files(self, row):
        return [f"{row}.jpg", f"{row // 10}.png"]


def test_a_record_may_hold_several_rows(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[[10, 11, 12], [], [20, 21]]")
    table = table_of(JsonRecords(str(path)), Numbers())
    assert [table[index] for index in range(len(table))] == [([10, 11, 12], 0), ([10, 11, 12], 1), ([20, 21], 0)]
    assert table.image_names() == ["10.jpg\n1.png", "12.jpg\n1.png", "20.jpg\n2.png"]


def test_a_record_of_another_shape_is_one_bad_row_with_its_place(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[[10], "x", [20]]')
    table = table_of(JsonRecords(str(path)), Numbers())
    assert (len(table), table.bad, table.bad_row_name(0)) == (3, [(1, 2, "no list")], f"{path}: record 2")
    assert [table.place_of(index) for index in range(3)] == [None, f"{path}: record 2", None]
    assert table[1] == ("x", 0)


def test_lines_of_a_jsonl_file_are_records(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "é"}\n{"a": 2}\n\n', encoding="utf-8")
    table = table_of(JsonRecords(str(path)))
    assert [table[index] for index in range(len(table))] == [({"a": "é"}, 0), ({"a": 2}, 0)]


@pytest.mark.parametrize("text", ['{"a": 1}\n{"a": \n', '{"a": 1}\n,\n{"a": 2}'])
def test_a_line_that_is_no_json_is_named(tmp_path, text):
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.jsonl: line 2: is no JSON: Expecting value"):
        table_of(JsonRecords(str(path)))


def test_records_of_no_json_file_are_kept_in_memory():
    table = table_of(iter(RECORDS))
    assert [table[index][0] for index in range(len(table))] == RECORDS


@pytest.mark.parametrize("text", ["[]", "{}", " [ ] "])
def test_a_file_without_records_is_an_empty_table(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert len(table_of(JsonRecords(str(path)))) == 0


def test_a_table_goes_to_another_process(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS))
    table = table_of(JsonRecords(str(path)))
    assert table[1] == pickle.loads(pickle.dumps(table))[1]


@CHUNKS
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ', "broken or cut off JSON near byte 17: Expecting value"),
        ('[{"a": 1}, {"a": "xy', "broken or cut off JSON near byte 17: Unterminated string"),
        ('[{"a": 1}', r"broken JSON at byte 9: its end where one of ,\] should be"),
        ('[{"a": 1} {"a": 2}]', r"broken JSON at byte 10: '\{' where one of ,\] should be"),
        (" \n", "is blank"),
        ("", "is empty"),
        ("<html>", r"broken JSON at byte 0: '<' where one of \[\{ should be"),
        ('{"other": []}', "has no list under 'data'"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, chunk, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.json: {message}"):
        list(JsonRecords(str(path), chunk=chunk, key="data"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: is not UTF-8 text"):
        list(JsonRecords(str(path)))


def test_a_file_that_changes_after_the_scan_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS))
    table = table_of(JsonRecords(str(path)))
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json: has changed since it was read"):
        table[2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"'q' is missing \(there are no keys\)"),
        ({"question": 1}, r"'q' is missing \(there are question\)"),
        ({"q": 1, "n": 1, "a": ["x"]}, "'q' should be a text, not 1"),
        ({"q": "x", "n": [1], "a": ["x"]}, "'n' should be a whole number or a text, not a list"),
        ({"q": "x", "n": 1, "a": "x"}, "'a' should be a list of one or more texts"),
        ({"q": "x", "n": 1, "a": []}, "'a' should be a list of one or more texts"),
        ({"q": "x", "n": 1, "a": [None]}, "'a' should be a list of one or more texts"),
        ("x", "a row should be an object with q, n, a, not 'x'"),
    ],
)
def test_the_message_names_the_key_of_a_row_of_another_shape(row, message):
    with pytest.raises(ValueError, match=message):
        require(row, {"q": str, "n": (int, str), "a": list[str]})
