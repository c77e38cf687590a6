import json
import pickle

import pytest

from minigpt4.datasets import rows
from minigpt4.datasets.rows import JsonRecords, RowTable, require

RECORDS = [{"text": "plain"}, {"text": "東京 ☕ é"}, {"text": "after non-ASCII", "n": [1, {"m": -2.5}]}, {}]


def all_of(record):
    return [0]


@pytest.fixture(params=[1, 3, 1 << 22])
def chunk(request, monkeypatch):
    """The file is read in pieces of so many bytes."""
    monkeypatch.setattr(rows, "CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("style", [{}, {"indent": 2}, {"ensure_ascii": False}, {"ensure_ascii": False, "indent": 1}])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf", b" \n\t"])
def test_each_record_is_found_again_where_it_lies(tmp_path, style, begin):
    path = tmp_path / "a.json"
    path.write_bytes(begin + json.dumps(RECORDS, **style).encode())
    table = RowTable(JsonRecords(str(path)), all_of)
    assert [table[index] for index in range(len(table))] == [(record, 0) for record in RECORDS]


@pytest.mark.usefixtures("chunk")
def test_items_of_an_object_are_records_with_their_key(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"é": {"n": 1}, "b": {"n": [2]}}, ensure_ascii=False), encoding="utf-8")
    table = RowTable(JsonRecords(str(path)), all_of)
    assert [table[0][0], table[1][0]] == [{"é": {"n": 1}}, {"b": {"n": [2]}}]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    "text", ['{"info": {"data": [7]}, "n": 12, "data": [{"a": 1}, {"a": 2}], "z": 1}', '[{"a": 1}, {"a": 2}]']
)
def test_records_under_a_key_or_the_list_alone(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert list(JsonRecords(str(path), key="data")) == [{"a": 1}, {"a": 2}]


def test_a_record_may_hold_several_rows_and_only_the_selected_ones_count(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[[10, 11, 12], [], [20, 21]]")
    table = RowTable(JsonRecords(str(path)), lambda record: [part for part, n in enumerate(record) if n % 2 == 0])
    assert [table[index] for index in range(len(table))] == [([10, 11, 12], 0), ([10, 11, 12], 2), ([20, 21], 0)]


def test_records_of_no_json_file_are_kept_in_memory():
    table = RowTable(iter(RECORDS), all_of)
    assert [table[index][0] for index in range(len(table))] == RECORDS


@pytest.mark.parametrize("text", ["[]", "{}", " [ ] "])
def test_a_file_without_records_is_an_empty_table(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert len(RowTable(JsonRecords(str(path)), all_of)) == 0


def test_a_table_goes_to_another_process(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS))
    table = RowTable(JsonRecords(str(path)), all_of)
    assert table[1] == pickle.loads(pickle.dumps(table))[1]


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}, {"a": ', "broken or cut off JSON near byte 17: Expecting value"),
        ('[{"a": 1}, {"a": "xy', "broken or cut off JSON near byte 17: Unterminated string"),
        ('[{"a": 1}', r"broken JSON at byte 9: its end where one of ,\] should be"),
        ('[{"a": 1} {"a": 2}]', r"broken JSON at byte 10: '\{' where one of ,\] should be"),
        ("", r"broken JSON at byte 0: its end where one of \[\{ should be"),
        ("<html>", r"broken JSON at byte 0: '<' where one of \[\{ should be"),
        ('{"other": []}', "has no list under 'data'"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"a.json: {message}"):
        list(JsonRecords(str(path), key="data"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes('[{"a": "é"}]'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.json: is not UTF-8 text"):
        list(JsonRecords(str(path)))


def test_a_file_that_was_changed_underneath_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(RECORDS))
    table = RowTable(JsonRecords(str(path)), all_of)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"a\.json: has changed since it was read"):
        table[2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"'q' is missing \(there are no keys\)"),
        ({"question": 1}, r"'q' is missing \(there are question\)"),
        ({"q": 1, "n": 1, "a": ["x"]}, "'q' should be a text, not int"),
        ({"q": "x", "n": [1], "a": ["x"]}, "'n' should be a whole number or a text, not list"),
        ({"q": "x", "n": 1, "a": "x"}, "'a' should be a list of one or more texts"),
        ({"q": "x", "n": 1, "a": []}, "'a' should be a list of one or more texts"),
        ({"q": "x", "n": 1, "a": [None]}, "'a' should be a list of one or more texts"),
        ("x", "a row should be an object with q, n, a, not str"),
    ],
)
def test_a_row_of_another_shape_is_told_in_words(row, message):
    with pytest.raises(ValueError, match=message):
        require(row, {"q": str, "n": (int, str), "a": list[str]})
