"""The estimated tokens of rows: near what the encoder makes of them, and of the right rows."""

import json
from typing import ClassVar

import numpy as np
import pytest

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import load_tokenizer
from minigpt4.datasets import row_index
from minigpt4.datasets.base_dataset import InstructionDataset
from minigpt4.datasets.builders.base_dataset_builder import BaseDatasetBuilder
from minigpt4.datasets.lengths import TokenCosts, chars_with_boxes, mean_chars, num_chars, token_costs
from tests.datasets.conftest import RECORDED

NUM_IMAGE_TOKENS = 256
TOKENIZER = RECORDED.parent / "model" / "assets" / "llama_tiny"
NAMES = sorted({path.stem for path in (RECORDED / "golden" / "train").glob("[a-z]*.json")} - {"cc_sbu", "laion"})
BY_CHARACTER = TokenCosts(image=1000, layout=10, character=1.0, max_prompt=9999, max_rest=9999)


def real_text_length(dataset, encoder, index):
    """Return the tokens of a row but its images', the mean of ten draws; None when its image does not decode."""
    try:
        examples = [dataset.get(index, derive_rng(1, dataset.name, turn, index)) for turn in range(10)]
    except ValueError:
        return None
    return np.mean([len(encoder.encode(e.turns)[0]) - NUM_IMAGE_TOKENS * len(e.images) for e in examples])


def test_estimates_are_near_the_encoded_lengths(recorded_dataset):
    """Text alone: within a third by dataset, within an eighth over all, where rows range from 26 to 311 tokens."""
    encoder = ChatEncoder(load_tokenizer(str(TOKENIZER)), num_image_tokens=NUM_IMAGE_TOKENS, max_txt_len=1024)
    assert len(NAMES) == 26
    estimated, real = [], []
    for name in NAMES:
        dataset = recorded_dataset(name)
        lengths = enumerate(dataset.row_lengths(token_costs(encoder)))
        pairs = [(real_text_length(dataset, encoder, index), length) for index, length in lengths]
        image = 0 if name == "unnatural_instruction" else NUM_IMAGE_TOKENS
        pairs = [(length, float(estimate) - image) for length, estimate in pairs if length is not None]
        assert len(pairs) >= len(dataset) - 1 > 0
        sums = np.sum(pairs, axis=0)
        assert sums[1] == pytest.approx(sums[0], rel=1 / 3), name
        real += [length for length, _ in pairs]
        estimated += [estimate for _, estimate in pairs]
    assert (min(real), max(real)) == (26, 311)
    assert sum(estimated) == pytest.approx(sum(real), rel=1 / 8)
    assert np.corrcoef(estimated, real)[0, 1] > 0.95


@pytest.mark.parametrize("smallest", [0, 1 << 22])
def test_the_length_of_a_kept_row_is_that_of_its_own_text(recorded_dataset, monkeypatch, tmp_path, smallest):
    """COCO VQA comes from two files of which rows are left out; with an index and without."""
    monkeypatch.setattr(row_index, "SMALLEST", smallest)
    monkeypatch.setattr(
        row_index, "_index_files", lambda path, key: [f"{tmp_path}/{path.replace('/', '-')}.{key}.index"]
    )
    dataset = recorded_dataset("coco_vqa")
    dataset.templates = []
    assert dataset.report.num_left_out > 0
    rows = [dataset.row(index) for index in range(len(dataset))]
    expected = [1010 + num_chars(row["question"]) + mean_chars(row["answer"]) for row in rows]
    assert len(set(expected)) == len(expected) == 7
    assert dataset.row_lengths(BY_CHARACTER).tolist() == expected
    assert dataset.row_lengths(BY_CHARACTER).dtype == np.uint16


@pytest.fixture
def mine(tmp_path, build):
    """Return a function that writes rows and builds them as `custom`."""

    def make(*rows):
        (tmp_path / "a.json").write_text(json.dumps(rows))
        return build("custom", {"ann_path": str(tmp_path / "a.json")})

    return make


ROWS = [
    {"question": "12345", "answer": "123"},
    {"image": "a.jpg", "question": "12345", "answer": ["1", "123"]},
    {"image": ["a.jpg", "b.jpg"], "question": "12345", "answer": "1"},
    {"image": "a.jpg", "conversations": [{"value": text} for text in ("12345", "1", "123", "1234")]},
    {"question": "é東", "answer": "x" * 70_000},
    {"question": 5, "answer": "a row that is bad"},
]


def test_each_image_costs_and_a_text_alone_costs_none(mine):
    later_turn = 35 + 3 + 4  # what the layout puts around it is taken for 35 characters
    lengths = mine(*ROWS).row_lengths(BY_CHARACTER).tolist()
    assert lengths == [10 + 8, 1010 + 5 + 2, 2010 + 6, 1010 + 6 + later_turn, 10 + 5 + 9999, 10]


def test_what_the_encoder_cuts_costs_nothing(mine):
    costs = TokenCosts(image=0, layout=10, character=0.5, max_prompt=2, max_rest=100)
    lengths = mine(*ROWS).row_lengths(costs).tolist()
    assert lengths == [10 + 2 + 2, 10 + 2 + 1, 10 + 2, 10 + 2 + 22, 10 + 2 + 100, 10]


def test_a_prompt_template_counts_with_its_mean(build, tmp_path):
    (tmp_path / "a.jpg").touch()
    rows = [{"image": "a.jpg", "question": "Who?", "answer": "a"}]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    storage = {"annotations": {"train": {"storage": f"{tmp_path}/a.json"}}, "images": {"storage": str(tmp_path)}}
    dataset = build("gqa", storage)
    dataset.templates = ["{}", "1234 {}", "{} 123456789"]
    assert dataset.row_lengths(BY_CHARACTER).tolist() == [1010 + 5 + 5]


def test_boxes_cost_more_than_their_characters():
    assert chars_with_boxes("a dog") == 5
    assert chars_with_boxes("a dog {<12><34><56><78>}") == 5 + 1 + 50


class ColourDataset(InstructionDataset):
    fields: ClassVar = {"file": str, "colour": str, "names": list[str], "box": list}

    def image_files(self, row):
        return [row["file"]]


class ColourBuilder(BaseDatasetBuilder):
    train_dataset_cls = ColourDataset


def test_a_dataset_that_does_not_say_has_the_texts_that_are_required_of_its_rows(build, tmp_path):
    (tmp_path / "a.jpg").touch()
    row = {"file": "a.jpg", "colour": "blue", "names": ["1234", "12"], "box": [1, 2], "more": "not required"}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    dataset = build(ColourBuilder, {"ann_path": f"{tmp_path}/a.json", "image_path": str(tmp_path)})
    assert dataset.row_lengths(BY_CHARACTER).tolist() == [1010 + 4 + 3]
