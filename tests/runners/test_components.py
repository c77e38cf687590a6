"""What the ranks are balanced by: the estimated tokens of each row, as the runner gives them to the planner."""

import json

import pytest

from minigpt4.common.config import Config
from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.encoder import ChatEncoder
from minigpt4.conversation.tokenizer import load_tokenizer
from minigpt4.datasets.mixture import MixtureComponent, SampleRef, balance_by_cost
from minigpt4.runners.loader import components_of
from minigpt4.tasks.image_text_pretrain import ImageTextPretrainTask
from tests.runners.tiny import ASSETS, DATA, tiny_config, write_config

NUM_IMAGE_TOKENS = 64
QUESTION = "What is the man in the red jacket doing at the table? "


@pytest.fixture
def encoder():
    tokenizer = load_tokenizer(str(ASSETS / "llama_tiny"))
    return ChatEncoder(tokenizer, num_image_tokens=NUM_IMAGE_TOKENS, max_txt_len=1024)


@pytest.fixture
def build(tmp_path, encoder, monkeypatch):
    """Return a function that gives the datasets of YAML entries, and their components by name."""
    monkeypatch.chdir(DATA)

    def make(entries):
        cfg = Config.load(write_config(tmp_path, {**tiny_config(), "datasets": entries}))
        built = ImageTextPretrainTask().build_datasets(cfg)
        datasets = {name: splits["train"] for name, splits in built.items()}
        components = components_of(datasets, cfg.datasets_cfg, encoder)
        return datasets, {component.name: component for component in components}

    return make


@pytest.fixture
def long_and_short(tmp_path, build):
    """Return datasets and components: `long` has rows of a few to many sentences, `short` of one word; no images."""
    answers = {"long": [QUESTION * number for number in (1, 1, 1, 1, 2, 3, 4, 12)], "short": ["a table"] * 8}
    entries = {}
    for name, texts in answers.items():
        rows = [{"question": "What is it?", "answer": text} for text in texts]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        build_info = {"ann_path": f"{tmp_path}/{name}.json"}
        entries[name] = {"type": "custom", "build_info": build_info, "batch_size": 8, "sample_ratio": 1}
    return build(entries)


def real_tokens(shares, datasets, encoder):
    """Return the encoded length of each rank's samples."""
    rng = derive_rng(0)
    return [sum(len(encoder.encode(datasets[d.dataset].get(d.row, rng).turns)[0]) for d in share) for share in shares]


def test_long_and_short_rows_are_shared_out_by_their_tokens_and_not_by_their_number(long_and_short, encoder):
    datasets, components = long_and_short
    groups = [[SampleRef(name, row, 0, rank) for row in range(8)] for rank, name in enumerate(("long", "short"))]
    by_length = balance_by_cost(groups, [components["long"], components["short"]], num_ranks=2)
    by_number = balance_by_cost(groups, [MixtureComponent(name, 8, 8, 1) for name in ("long", "short")], num_ranks=2)
    assert [len(share) for share in by_number] == [8, 8]
    assert len({len(share) for share in by_length}) == 2, "equal numbers, although the costs are not"
    for shares, bound in ((by_length, 1.02), (by_number, None)):
        tokens = real_tokens(shares, datasets, encoder)
        ratio = max(tokens) * 2 / sum(tokens)
        assert ratio < bound if bound else ratio > 1.05


def test_a_row_of_text_alone_costs_no_image(build):
    names = ("unnatural_instruction", "engine_mc", "laion")
    _, components = build({name: {"batch_size": 2, "sample_ratio": 1} for name in names})
    text, image, stream = (components[name] for name in names)
    assert min(text.cost(row) for row in range(text.num_rows)) < NUM_IMAGE_TOKENS
    assert min(image.cost(row) for row in range(image.num_rows)) > NUM_IMAGE_TOKENS + 60
    assert (stream.num_rows, stream.lengths, stream.cost(12345)) == (None, None, NUM_IMAGE_TOKENS + 60)
