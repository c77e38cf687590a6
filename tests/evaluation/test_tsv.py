import csv
import io

import pandas
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minigpt4.evaluation.tables import read_tsv

CELLS = st.text(st.sampled_from('ab1"\t\n ,é'), max_size=8) | st.sampled_from(["", "NA", "1.50", "007", '"', "x\n5\ty"])
COLUMNS = ["index", "question", "hint", "image"]


def write(path, cells):
    table = pandas.DataFrame([[number, *row] for number, row in enumerate(cells, 1)], columns=COLUMNS)
    table.to_csv(path, sep="\t", index=False)
    return table


def as_texts(table):
    return [["" if value != value else value for value in row] for row in table.to_numpy().tolist()]


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_table_that_pandas_wrote_is_read_as_pandas_and_csv_read_it(tmp_path, num_examples):
    @settings(max_examples=num_examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5))
    def check(cells):
        path = tmp_path / "a.tsv"
        write(path, cells)
        expected = pandas.read_csv(path, sep="\t", dtype=str)
        try:
            table = read_tsv(path, "a test", columns=COLUMNS, as_text=True)
        except ValueError as error:  # a cell that holds a whole further row is taken for one
            assert "is not closed" in str(error)
            assert any("\t" in line for row in cells for cell in row for line in cell.split("\n")[1:])
            return
        pandas.testing.assert_frame_equal(table, expected)
        _, *rows = csv.reader(io.StringIO(path.read_text()), delimiter="\t")
        absent = {"", "NA"}
        assert as_texts(table) == [["" if cell in absent else cell for cell in row] for row in rows]

    check()


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_table_without_one_of_its_marks_is_read_with_all_rows_or_named(tmp_path, num_examples):
    @settings(max_examples=num_examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=2, max_size=5), st.data())
    def check(cells, data):
        path = tmp_path / "a.tsv"
        write(path, cells)
        text = path.read_text()
        at = data.draw(st.integers(0, len(text)))
        path.write_text(text[:at] + data.draw(st.sampled_from(['"', "\t", "\n", ""])) + text[at + 1 :])
        try:
            table = read_tsv(path, "a test", columns=COLUMNS, as_text=True)
        except ValueError as error:
            assert "a.tsv" in str(error)
        else:
            assert set(map(int, table["index"])) and table.shape[1] == len(COLUMNS)

    check()


def test_numbers_stay_numbers_for_the_sheet(tmp_path):
    write(tmp_path / "a.tsv", [("3", "x", "1.5"), ("4", "", "2")])
    table = read_tsv(tmp_path / "a.tsv", "a test", columns=("index",))
    assert [str(kind) for kind in table.dtypes][0::3] == ["int64", "float64"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a.tsv: is empty"),
        (b"\n\n", "a.tsv: has no column index"),
        (b"\xff\xfei\0n\0", "is UTF-16 text"),
        (b"index\tq\n1\t\xe9\n", "is not UTF-8 text: .* at byte 10"),
        (b"index\tindex\n1\t2\n", "has the column 'index' twice"),
        (b"index\tq\n1\t2\t3\n", "line 2: has 3 fields, though the first line has 2"),
        (b"index\tq\n1\n", "line 2: has 1 fields, though the first line has 2"),
        (b'index\tq\n1\t"a\n', "line 2: the quotation mark that begins its 'q' is not closed"),
        (b'index\tq\n1\ta\n2\t"b\n3\tc\n', "line 3: the quotation mark .* 2 further lines would become part of it"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(tmp_path, content, message):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_tsv(tmp_path / "a.tsv", "a test", columns=("index",))


def test_a_cell_with_a_small_table_inside_is_read(tmp_path):
    write(tmp_path / "a.tsv", [("No\tName\n1\tfoo\n2\tbar", "x", "y"), ("Q", "z", "w")])
    assert len(read_tsv(tmp_path / "a.tsv", "a test", columns=COLUMNS)) == 2
