import pickle

import pytest

from minigpt4.common.safe_pickle import load_plain


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "refs.p"
        path.write_bytes(content)
        return str(path)

    return write


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_is_read(file, protocol):
    data = [{"a": 1, "b": [2.5, None, True, ("東京", -(10**30))]}, {"c": {3, 4}}]
    assert load_plain(file(pickle.dumps(data, protocol=protocol))) == data


def test_texts_that_python_2_wrote_are_read(file):
    assert load_plain(file(b"\x80\x02](U\x06na\xc3\xafveX\x02\x00\x00\x00\xc3\xa9e.")) == ["naïve", "é"]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(file, tmp_path, protocol):
    target = tmp_path / "was_run"
    path = file(pickle.dumps([{"split": RunsCode(str(target))}], protocol=protocol))
    with pytest.raises(ValueError, match=r"refs\.p: cannot be read as a pickle file: it holds .*open; only plain data"):
        load_plain(path)
    assert not target.exists()


def test_an_object_of_a_class_is_refused(file):
    with pytest.raises(ValueError, match=r"it holds collections\.OrderedDict; only plain data is read"):
        load_plain(file(b"ccollections\nOrderedDict\n(tR."))


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2, 3])[:-2], b"<html></html>"])
def test_a_file_that_is_cut_off_or_no_pickle_is_named(file, content):
    with pytest.raises(ValueError, match=r"refs\.p: (is cut off or no pickle file|cannot be read as a pickle file)"):
        load_plain(file(content))


def test_a_damaged_size_takes_no_memory(tmp_path):
    path = tmp_path / "refs.p"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\xf0.")  # a list kept in memo place 4,043,309,055: 32 GB of pointers
    with pytest.raises(ValueError, match=r"refs\.p: is cut off or no pickle file: memo place 4043309055 at byte 3"):
        load_plain(str(path))
