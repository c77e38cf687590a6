import pytest

from minigpt4.evaluation.compare import compare


def test_answers_that_differ_are_counted_by_result_file(tmp_path):
    for folder, answer in (("a", "A"), ("b", "B")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "seed.jsonl").write_text(f'{{"text": "{answer}"}}\n{{"text": "C"}}\n')
        (tmp_path / folder / "gqa.json").write_text('[{"pred": "yes"}]')
        (tmp_path / folder / "results.json").write_text(f'{{"seed": "{answer}"}}')
    (tmp_path / "a" / "hm.json").write_text("[]")
    expected = ["gqa.json: 0 of 1 answers differ", "seed.jsonl: 1 of 2 answers differ"]
    assert compare(tmp_path / "a", tmp_path / "b") == expected
    (tmp_path / "b" / "gqa.json").write_text("[]")
    with pytest.raises(ValueError, match=r"gqa.json holds 1 answers in .*a and 0 in .*b"):
        compare(tmp_path / "a", tmp_path / "b")
    with pytest.raises(ValueError, match="have no result file in common"):
        compare(tmp_path / "a", tmp_path)
