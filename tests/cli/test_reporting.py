import pytest

from minigpt4.cli.reporting import write_report
from tests.evaluation.one_run import add_result


def test_a_folder_of_a_training_gets_the_page_of_a_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 2.5}\n')
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html" and "<h2>Loss</h2>" in path.read_text()
    assert (tmp_path / "loss.png").is_file()


def test_a_folder_of_an_evaluation_gets_the_page_of_its_results(tmp_path):
    add_result(tmp_path, "gqa", {"accuracy": 61.25})
    path = write_report(tmp_path)
    assert path == tmp_path / "report.html" and "61.25" in path.read_text()


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has neither metrics\.jsonl, as the folder of a run, nor results\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []
