import json

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from minigpt4.common.json_records import HALF, BadRecord, JsonRecords, read_json

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(["\U0001f600", "a\\ud83d", '"', "[", "}"])
NUMBERS = st.integers() | st.floats(allow_nan=False) | st.sampled_from([1.5, -0.25, 1e22, 12, -1])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
STYLES = st.sampled_from(
    [{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"indent": "\t", "ensure_ascii": False}]
)
CHUNKS = st.sampled_from([1, 2, 3, 5, 8, 1 << 22])
IN_ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def nested(depth, inner):
    for _ in range(depth):
        inner = [inner]
    return inner


def check_a_list(tmp_path, values, style, chunk):
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps(values, **style).encode())
    assert list(JsonRecords(path, chunk=chunk)) == json.loads(path.read_bytes())
    for number, start, length, record in JsonRecords(path, chunk=chunk).scan():
        assert json.loads(path.read_bytes()[start : start + length]) == record == values[number - 1]


@pytest.mark.parametrize("num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_list_gives_what_json_gives_in_pieces_of_any_size(tmp_path, num_examples):
    @settings(IN_ONE_FOLDER, max_examples=num_examples)
    @given(st.lists(VALUES, max_size=6), STYLES, CHUNKS)
    @example([1.5, 2e-7, -3], {}, 1)
    @example([nested(400, "deep"), {"a": nested(300, 1.5)}], {}, 7)
    def check(values, style, chunk):
        check_a_list(tmp_path, values, style, chunk)

    check()


@pytest.mark.parametrize("num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_an_object_gives_its_items_in_pieces_of_any_size(tmp_path, num_examples):
    @settings(IN_ONE_FOLDER, max_examples=num_examples)
    @given(st.dictionaries(TEXTS, VALUES, max_size=6), STYLES, CHUNKS)
    def check(values, style, chunk):
        path = tmp_path / "a.json"
        path.write_bytes(json.dumps(values, **style).encode())
        assert list(JsonRecords(path, chunk=chunk)) == [{key: value} for key, value in values.items()]
        assert read_json(path) == values

    check()


@pytest.mark.parametrize("num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_text_that_is_cut_or_has_more_behind_it_is_never_read_as_something_else(tmp_path, num_examples):
    @settings(IN_ONE_FOLDER, max_examples=num_examples)
    @given(st.lists(VALUES, max_size=4) | st.dictionaries(TEXTS, VALUES, max_size=4), STYLES, CHUNKS, st.data())
    def check(values, style, chunk, data):
        path, whole = tmp_path / "a.json", json.dumps(values, **style).encode()
        at = data.draw(st.integers(0, len(whole) - 1))
        more = data.draw(st.sampled_from([b"]", b"x", b"[]", b"{}", b",", b"\0", b"1"]))
        for damaged in (whole[:at], whole + more):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"a\.json"):
                list(JsonRecords(path, chunk=chunk))

    check()


@pytest.mark.parametrize("num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_json_lines_give_a_record_a_line_whatever_the_file_is_called(tmp_path, num_examples):
    @settings(IN_ONE_FOLDER, max_examples=num_examples)
    @given(
        st.lists(st.dictionaries(TEXTS, VALUES, max_size=4), min_size=2, max_size=5),
        st.booleans(),
        st.sampled_from(["\n", "\r\n", "\n\n", "\n \t\n"]),
        st.booleans(),
        CHUNKS,
    )
    def check(rows, ascii_only, between, has_mark, chunk):
        text = between.join(json.dumps(row, ensure_ascii=ascii_only) for row in rows) + between
        for name in ("a.jsonl", "a.json"):
            path = tmp_path / name
            path.write_bytes(b"\xef\xbb\xbf" * has_mark + text.encode())
            records = JsonRecords(path, chunk=chunk)
            assert (list(records), records.unit) == (rows, "line")
            for _, start, length, record in records.scan():
                assert json.loads(path.read_bytes()[start : start + length]) == record

    check()


@pytest.mark.parametrize("num_examples", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_any_bytes_are_records_or_one_error(tmp_path, num_examples):
    pieces = st.sampled_from([b"[", b"]", b"{", b"}", b",", b":", b'"a"', b"1", b"1e", b"-", b" ", b"\n", b"\\ud83d"])

    @settings(IN_ONE_FOLDER, max_examples=num_examples)
    @given(st.lists(pieces | st.binary(max_size=3), max_size=12), CHUNKS, st.sampled_from([None, "a"]))
    def check(parts, chunk, key):
        for name in ("a.json", "a.jsonl"):
            path = tmp_path / name
            path.write_bytes(b"".join(parts))
            try:
                found = list(JsonRecords(path, key=key, chunk=chunk))
            except ValueError as error:
                assert name in str(error)
            else:
                assert isinstance(found, list)

    check()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"a": 1}]\n[{"a": 2}]', "more text after its list at byte 11"),
        (b'{"a": 1} {"b": 2}', "more text after its object at byte 9"),
        (b'{\n"a": 1}\n{"b": 2}', "more text after its object at byte 10"),
        (b'[{"a": 1}]\0\0', "more text after its list at byte 10"),
        (b"", "is empty"),
        (b"\xff\xfe[\0]\0", "is UTF-16 text; save it as UTF-8"),
        (b"[\0]\0", "begins with a NUL byte, as UTF-16 text does; save it as UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a pointer of git-lfs.*run `git lfs pull`"),
        (b"\x1f\x8b\x08", "is a gzip file; unpack it first"),
        (b'[{"a": "\xe9"}]', "is not UTF-8 text: .* at byte 8"),
        (b"[" * 100_000 + b"]" * 100_000, "broken JSON near byte 1: it is nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "broken JSON near byte 1: Exceeds the limit"),
        (b'[{"a": "\\ud83d"}]', "record 1: a text holds half a character"),
        (b'{"a": 1}\n{"\\uDC00": 1}\n', "line 2: a text holds half a character"),
        (b'{"a": 1}\n{"a": \n', "broken or cut off|line 2: is no JSON"),
        (b"{1: 2}", "broken JSON at byte 1: '1' where one of \" should be"),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_what_is_wrong_with_a_file_is_named(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(content)
    if name == "a.jsonl" and content[:1] == b"{":
        message = f"{message}|line 1: is no JSON"
    with pytest.raises(ValueError, match=rf"{name}: ({message})"):
        list(JsonRecords(path))


def test_a_folder_and_an_absent_file_are_named(tmp_path):
    for path, message in ((tmp_path, "is a folder, not a file"), (tmp_path / "none.json", "cannot read .*none.json")):
        with pytest.raises(ValueError, match=message):
            read_json(path)


def test_only_the_record_with_half_characters(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"a": "\\ud83d\\ude00"}, {"a": "\\ude00\\ud83d"}, {"a": "\\\\ud83d"}]')
    first, second, third = (record for *_, record in JsonRecords(path).scan())
    assert (first, third) == ({"a": "\U0001f600"}, {"a": "\\ud83d"})
    assert isinstance(second, BadRecord) and second.error == HALF
    assert read_json(path, any_text=True)[1] == {"a": "\ude00\ud83d"}


def test_a_list_of_one_row_in_a_jsonl_file_is_a_list(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    assert read_json(path) == [{"a": 1}, {"a": 2}]


def test_one_object_is_a_row_of_jsonl_and_an_object_of_json(tmp_path):
    for name, content in (("a.jsonl", [{"a": 1, "b": 2}]), ("a.json", {"a": 1, "b": 2})):
        (tmp_path / name).write_text('{"a": 1, "b": 2}\n')
        assert read_json(tmp_path / name) == content


@pytest.mark.parametrize("text", ['[{"a": 1, "a": 2}]', '{"a": 1, "a": 2}', '{"b": 0}\n{"a": 1, "a": 2}'])
def test_a_key_that_comes_twice_is_an_error_where_all_is_read(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"a\.json.* has the key 'a' twice"):
        read_json(path)


def test_text_after_a_list_under_a_key_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    for text, message in (
        ('{"data": [1], "n": 2} x', "more text after its object at byte 22"),
        ('{"data": [1], "data": [2]}', "has 'data' twice"),
        ('{"data": [1]', "its end where one of ,} should be"),
        ('{"data": [1],}', "'}' where one of \" should be"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            list(JsonRecords(path, key="data"))
