"""What a user's mistake and Ctrl-C look like at the end of a command."""

import pytest

from minigpt4.common.user_errors import plain_errors


def test_a_users_mistake_is_its_message_alone():
    with pytest.raises(SystemExit, match=r"^train\.py: run\.seed: expected a number$"), plain_errors("train.py"):
        raise ValueError("run.seed: expected a number")


def test_a_loss_that_is_not_finite_is_its_message_alone():
    with pytest.raises(SystemExit, match=r"^train\.py: loss is nan at step 2$"), plain_errors("train.py"):
        raise FloatingPointError("loss is nan at step 2")


def test_of_a_librarys_message_only_the_first_line_is_shown():
    with pytest.raises(SystemExit, match=r"^train\.py: no such file$"), plain_errors("train.py"):
        raise OSError("no such file\nand a page of advice")


def test_ctrl_c_ends_a_command_with_one_line(capsys):
    with pytest.raises(SystemExit) as ended, plain_errors("train.py"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\ntrain.py: interrupted\n"


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(AssertionError), plain_errors("train.py"):
        raise AssertionError
