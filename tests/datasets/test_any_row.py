"""Whatever value a key of a training row has, the row is used or counted as bad; nothing else is raised."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from minigpt4.datasets import caption, conversations, custom, engine, flickr, grounding, vqa
from minigpt4.processors.blip_processors import BlipCaptionProcessor

INSTANCE = {"instruction_with_input": "Q", "constraints": None, "output": "a"}
SAID = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}]
FLICKR = {"image_id": 1, "caption": "c", "grounded_caption": "g", "output": "o", "phrase": "p", "bbox": "b"}
ITEM = {"image": "train/a.jpg", "instruction": "Q", "answer": "A", "options": ["a", "b"], "choice_answer": "B"}
REGION = {"phrase": "p", "x": 1, "y": 1, "width": 5, "height": 5}
GOOD = {
    caption.COCOCaptionDataset: {"image": "train/a.jpg", "caption": "c"},
    caption.TextCapsDataset: {"image_id": "1", "caption_str": "c"},
    caption.CCSBUAlignDataset: {"image_id": 1, "caption": "c"},
    vqa.COCOVQADataset: {"image": "train/a.jpg", "question": "Q", "answer": ["a"]},
    vqa.AOKVQADataset: {"image": "a.jpg", "image_id": 1, "question": "Q", "direct_answers": ["a"]},
    vqa.GQADataset: {"image": "a.jpg", "question": "Q", "answer": "a"},
    vqa.OCRVQADataset: {"split": 1, "imageURL": "x.jpg", "questions": ["Q"], "answers": ["a"]},
    conversations.ConversationDataset: {"id": "000000000001", "conversations": SAID},
    conversations.FirstTurnDataset: {"id": "000000000001", "conversations": SAID},
    conversations.UnnaturalDataset: {
        "instances": [{"instruction_with_input": "Q", "constraints": None, "output": "a"}]
    },
    engine.EngineDADataset: ITEM,
    engine.EngineMCDataset: ITEM,
    engine.EngineMCPDataset: ITEM,
    flickr.GroundedCaptionDataset: FLICKR,
    flickr.CaptionToPhraseDataset: FLICKR,
    flickr.ObjectToPhraseDataset: FLICKR,
    grounding.ReferDataset: {"image": "a.jpg", "sentences": ["s"], "box": [0, 1, 2, 3]},
    grounding.RefVGDataset: {"id": 1, "regions": [REGION]},
    custom.CustomDataset: {"image": "a.jpg", "question": "Q", "answer": "a", "conversations": SAID},
}
TEXTS = st.sampled_from(["", "a.jpg", "\0", "a\nb", "A", "1", "\ud83d", "<ImageHere>", "é" * 3])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.sampled_from([0, 1, 10**400, 10**20]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.sampled_from(["value", "from", "phrase", "x", "split", "constraints"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def changed_at_a_place(row, data):
    """A copy of the row with any value at one place in it."""
    if not isinstance(row, dict | list) or not row or data.draw(st.integers(0, 3)) == 0:
        return data.draw(ANY)
    copy = json.loads(json.dumps(row))
    keys = list(copy) if isinstance(copy, dict) else range(len(copy))
    key = data.draw(st.sampled_from(keys))
    copy[key] = changed_at_a_place(copy[key], data)
    return copy


@pytest.fixture
def dataset_of(tmp_path):
    for image in ("a.jpg", "1.jpg", "k.jpg", "COCO_train2014_000000000001.jpg", "train/a.jpg", "x.org/a.jpg"):
        (tmp_path / image).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 5)).save(tmp_path / image)
    (tmp_path / "image_data.json").write_text('[{"image_id": 1, "url": "https://x.org/a.jpg"}]')

    def make(cls, records):
        if cls is vqa.OCRVQADataset:
            content = {f"k{number or ''}": record for number, record in enumerate(records)}
        elif cls is caption.TextCapsDataset:
            content = {"data": records}
        else:
            content = records
        (tmp_path / "rows.json").write_text(json.dumps(content))
        return cls(
            name="mine",
            annotations=[str(tmp_path / "rows.json")],
            image_folder=str(tmp_path),
            vis_processor=lambda image: image,
            text_processor=BlipCaptionProcessor(),
            other_files=[str(tmp_path / "image_data.json")],
            templates=["{}", "[x] {}"],
        )

    return make


@pytest.mark.parametrize("num_examples", [100, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_row_is_used_or_counted_as_bad(dataset_of, num_examples):
    @settings(max_examples=num_examples, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.sampled_from(list(GOOD)), st.data())
    def check(cls, data):
        dataset = dataset_of(cls, [GOOD[cls], changed_at_a_place(GOOD[cls], data)])
        [(table, kept)] = dataset._tables
        bad = {row for row, _, _ in table.bad}
        assert 0 not in bad
        for index in range(len(dataset)):
            if (index if kept is None else int(kept[index])) in bad:
                try:
                    names = dataset.image_files(dataset.row(index))
                except ValueError as error:
                    assert "rows.json: record 2: " in str(error)
                else:  # no file has such a name, or it would be taken for two
                    assert any("\0" in name or "\n" in name for name in names)
            else:
                turns = dataset.turns({**dataset.row(index), "image_size": (6, 5)}, random.Random(0))
                assert all(turn.prompt.encode() and turn.answer.encode() is not None for turn in turns)

    check()


def test_the_record_of_the_other_kinds_of_files_is_named(dataset_of, tmp_path):
    for text, message in (
        ('[{"image_id": 1, "url": 5}]', "image_data.json: record 1: 'url' should be a text, not 5"),
        ('[{"image_id": 99999999999999999999, "url": "a"}]', "'image_id' should be a number of usual size"),
        ("[] []", "image_data.json: more text after its list at byte 3"),
    ):
        (tmp_path / "image_data.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            dataset_of(grounding.RefVGDataset, [GOOD[grounding.RefVGDataset]])
