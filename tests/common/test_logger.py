import logging
import re

import pytest

from minigpt4.common.logger import setup_logger


@pytest.fixture
def own_root_logger():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield root
    root.handlers[:], root.level = before


def test_lines_on_the_terminal_begin_with_time_and_level(own_root_logger, capsys):
    setup_logger()
    logging.getLogger("minigpt4.some").info("gqa: %d rows", 5)
    logging.getLogger("minigpt4.some").debug("not shown")
    assert re.fullmatch(r"\d\d:\d\d:\d\d INFO gqa: 5 rows\n", capsys.readouterr().err)


def test_setting_up_twice_does_not_say_everything_twice(own_root_logger, capsys):
    setup_logger()
    setup_logger()
    logging.getLogger("minigpt4.some").warning("once")
    assert capsys.readouterr().err.count("once") == 1
