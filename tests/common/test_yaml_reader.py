"""A text option keeps the text as written; numbers, lists and sections are read as YAML."""

import pytest

from minigpt4.common.config import Config

YAML = """
model: {lora_r: 8}
datasets:
  2024:
    type: custom
    build_info: {ann_path: 010.json, storage: }
    batch_size: 2
run:
  device: cpu
  job_id: 0010
  valid_splits: [train, 1e3]
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(YAML)
    return file


@pytest.mark.parametrize(
    "word",
    [
        *("0010", "2024_01_05", "12e5", "1e3", "yes", "off", "2024-01-05", "1:30", "0x1F", ".5", "+1", "1.0", "1_000"),
        *("a,b", "[x]", "[x", "{a: b}", "a: b", "a #b", "*x", "&x", "!x", "%x", "@x", "|", "'", "a=b", "-", "- a", "ä"),
    ],
)
def test_a_text_option_keeps_the_text_as_written(path, word):
    assert Config.load(path, [f"run.job_id={word}"]).run_cfg.job_id == word
    assert Config.load(path, ["run.job_id", word] if "=" not in word else []).run_cfg.job_id in (word, "0010")
    merged = Config.load(path, [f"datasets.2024.build_info.ann_path={word}", f"model.end_sym={word}"])
    assert merged.datasets_cfg["2024"].build_info.ann_path == merged.model_cfg.end_sym == word


def test_texts_of_a_yaml_file_stay_as_written(path):
    cfg = Config.load(path)
    assert cfg.run_cfg.job_id == "0010"
    assert cfg.run_cfg.valid_splits == ["train", "1e3"]
    assert cfg.datasets_cfg["2024"].build_info.ann_path == "010.json"
    entry = "{eval_file_path: 1e3, img_path: 0010}"
    assert Config.load(path, [f"evaluation_datasets.gqa={entry}"]).evaluation_datasets_cfg.gqa.img_path == "0010"


@pytest.mark.parametrize("word", ["null", "~", "", "None", "# a comment of YAML"])
def test_null_unsets_a_text_that_may_be_unset(path, word):
    assert Config.load(path, [f"run.job_id={word}"]).run_cfg.job_id is None


@pytest.mark.parametrize("word", ["../other", "runs/../../x", "/tmp/x"])
def test_the_folder_of_a_run_lies_below_output_dir(path, word):
    with pytest.raises(ValueError, match=rf"run\.job_id: expected a folder below run\.output_dir, got '{word}'"):
        Config.load(path, [f"run.job_id={word}"])
    assert Config.load(path, ["run.job_id=may/first..try"]).run_cfg.job_id == "may/first..try"


def test_null_for_a_text_that_must_be_set_is_refused(path):
    with pytest.raises(ValueError, match=r"my\.yaml: these options are wrong: run\.job_name: expected str, got None"):
        Config.load(path, ["run.job_name=null"])
    assert Config.load(path, ["run.job_name=None"]).run_cfg.job_name == "None"


@pytest.mark.parametrize(("word", "text"), [("'null'", "null"), ('"0010"', "0010"), (r'"a\nb"', "a\nb"), ("''", "")])
def test_quotes_of_yaml_are_removed_from_a_text(path, word, text):
    assert Config.load(path, [f"run.job_id={word}"]).run_cfg.job_id == text


@pytest.mark.parametrize(
    ("word", "paths"),
    [
        ("{00..03}.tar", "{00..03}.tar"),
        ("{a,b}.tar", "{a,b}.tar"),
        ("[a.tar, 0010, 1e3]", ["a.tar", "0010", "1e3"]),
        ("0010", "0010"),
    ],
)
def test_an_option_of_paths_takes_a_word_or_a_list(path, word, paths):
    info = Config.load(path, [f"datasets.2024.build_info.storage={word}"]).to_dict()["datasets"]["2024"]["build_info"]
    assert info["storage"] == paths


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("init_lr=1e-5", 1e-5), ("init_lr=1", 1.0), ("init_lr=1E5", 1e5), ("init_lr='1e-5'", 1e-5)),
        *(("max_epoch=1_000", 1000), ("max_epoch=010", 10), ("max_epoch=0x10", 16), ("max_epoch='7'", 7)),
        *(("amp=yes", True), ("amp=0", False), ("amp=False", False), ("keep_last=null", None)),
    ],
)
def test_numbers_and_flags_are_read_as_such(path, option, value):
    taken = Config.load(path, [f"run.{option}"]).run_cfg[option.partition("=")[0]]
    assert (taken, type(taken)) == (value, type(value))


def test_a_dataset_may_have_a_number_for_a_name(path):
    cfg = Config.load(path, ["datasets.2024.batch_size=3"])
    assert list(cfg.datasets_cfg) == ["2024"]
    assert cfg.datasets_cfg["2024"].batch_size == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["datasets.2024=3"], "--options datasets.2024=3: datasets.2024 holds options, not one value"),
        (["run.job_id.x=1"], "--options run.job_id.x=1: run.job_id is '0010' and holds no options"),
        (["run.valid_splits.0=x"], "--options run.valid_splits.0=x: run.valid_splits is a list; write the whole list"),
        (["run.valid_splits=[a"], "--options run.valid_splits=[a: line 1, column 3: "),
        (["run.valid_splits[0]=x"], "run.valid_splits[0]: no such option; did you mean valid_splits?"),
        (["run.seed"], "--options: 'run.seed' has no value; write run.seed=VALUE"),
        (["run.seed=!!python/object:os.system x"], "tag tag:yaml.org,2002:python/object:os.system is not known here"),
        (["datasets.2024.build_info.storage=[[a]]"], "storage: expected a path or a list of paths, got [['a']]"),
        (["datasets.2024.build_info.storage=[~]"], "storage: expected a path or a list of paths, got [None]"),
        (["run.amp=2"], "run.amp: expected bool, got 2"),
        (["run.max_epoch=" + "1" * 5000], "run.max_epoch: "),
        (["run.job_id=${nowhere}"], "Interpolation key 'nowhere' not found"),
        (["run.job_id=${run.job_id}"], "Recursive interpolation"),
        (["run.job_id=a\0b"], "run.job_id: expected a text, got 'a\\x00b' with a NUL character"),
        (["run.job_id=a\ud800b"], "run.job_id: expected a text, got 'a\\ud800b' with half a character"),
    ],
)
def test_an_option_that_does_not_fit_the_file_is_an_error_of_one_line(path, options, message):
    with pytest.raises(ValueError) as error:
        Config.load(path, options)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_the_last_value_of_an_option_given_twice_counts(path):
    assert Config.load(path, ["run.seed=5", "run.seed=6"]).run_cfg.seed == 6


def test_an_option_may_take_the_value_of_another_one(path):
    assert Config.load(path, ["run.job_name=${run.job_id}_a"]).run_cfg.job_name == "0010_a"
