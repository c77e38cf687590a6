"""Whatever a YAML file or an option holds: it gives a config, or a ValueError that names the file."""

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from minigpt4.common.config import Config
from tests.common.config_fuzz import FILES, ODD_TEXTS, ODD_VALUES, as_yaml, changed_bytes, changed_trees, places_of

# a failing example is not made smaller: that takes minutes, and the example is readable as it is
IN_A_FIXTURE = {"suppress_health_check": list(HealthCheck), "deadline": None, "phases": [Phase.generate]}
SOME = settings(max_examples=100, **IN_A_FIXTURE)
MANY = settings(max_examples=2000, **IN_A_FIXTURE)


def gives_a_config_or_names_the_file(path, options=()):
    try:
        return Config.load(path, options)
    except ValueError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 100_000
    return None


def loads_back_to_the_same(path, cfg):
    plain = cfg.to_dict()
    path.write_text(yaml.safe_dump(plain))
    assert Config.load(path).to_dict() == plain


def check_a_changed_tree(path, tree):
    path.write_bytes(as_yaml(tree))
    cfg = gives_a_config_or_names_the_file(path)
    if cfg is not None:
        loads_back_to_the_same(path, cfg)


def check_an_option(path, key, value):
    cfg = gives_a_config_or_names_the_file(path, [f"{key}={value}"])
    if cfg is not None:
        loads_back_to_the_same(path.with_name("again.yaml"), cfg)


keys = st.sampled_from(
    [".".join(map(str, place)) for place in places_of(yaml.safe_load(FILES[0].read_text())) if place]
)
values = st.text(max_size=30) | st.sampled_from([*map(str, ODD_VALUES), *ODD_TEXTS])


@SOME
@given(tree=changed_trees())
def test_a_published_file_with_other_values_gives_a_config_or_names_the_file(tmp_path, tree):
    check_a_changed_tree(tmp_path / "my.yaml", tree)


@SOME
@given(seed=st.integers(0, 2**32))
def test_a_published_file_with_other_bytes_gives_a_config_or_names_the_file(tmp_path, seed):
    path = tmp_path / "my.yaml"
    path.write_bytes(changed_bytes(seed))
    gives_a_config_or_names_the_file(path)


@SOME
@given(key=keys | st.text(max_size=12), value=values)
def test_an_option_of_any_text_gives_a_config_or_names_the_file(tmp_path, key, value):
    path = tmp_path / "my.yaml"
    path.write_bytes(FILES[0].read_bytes())
    check_an_option(path, key, value)


@settings(max_examples=100, **IN_A_FIXTURE)
@given(word=st.text(min_size=1, max_size=30).filter(lambda word: word.isprintable() and word.strip() == word))
def test_a_text_option_is_the_word_or_unset(tmp_path, word):
    path = tmp_path / "my.yaml"
    path.write_text("run: {device: cpu}\n")
    quoted = len(word) > 1 and word[0] == word[-1] and word[0] in "'\""
    if word in ("null", "Null", "NULL", "~", "None") or word.startswith("#") or quoted or "${" in word:
        return
    assert Config.load(path, [f"run.name={word}"]).run_cfg.name == word


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_2000_changed_files_and_options_give_a_config_or_name_the_file(tmp_path, part):
    path = tmp_path / "my.yaml"
    for seed in range(500 * part, 500 * part + 500):
        path.write_bytes(changed_bytes(seed))
        gives_a_config_or_names_the_file(path)


@pytest.mark.slow
@MANY
@given(tree=changed_trees())
def test_2000_files_with_other_values_give_a_config_or_name_the_file(tmp_path, tree):
    check_a_changed_tree(tmp_path / "my.yaml", tree)


@pytest.mark.slow
@MANY
@given(key=keys, value=values, file=st.sampled_from(FILES))
def test_2000_options_give_a_config_or_name_the_file(tmp_path, key, value, file):
    path = tmp_path / "my.yaml"
    path.write_bytes(file.read_bytes())
    check_an_option(path, key, value)
