import io
import json
import random
import tarfile

import pytest
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.common.seeds import derive_rng
from minigpt4.conversation.prompt_templates import load_templates
from minigpt4.datasets.mixture import STREAM_BLOCK, MixtureComponent, MixtureDataset, MixtureSampler


def write_shard(path, samples):
    """Write a tar file of {name: bytes} members."""
    with tarfile.open(path, "w") as tar:
        for name, content in samples.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def picture(width):
    buffer = io.BytesIO()
    Image.new("RGB", (width, 5)).save(buffer, "JPEG")
    return buffer.getvalue()


def sample(key, width, caption=None):
    return {
        f"{key}.jpg": picture(width),
        f"{key}.txt": b"x",
        f"{key}.json": json.dumps({"caption": caption or key}).encode(),
    }


@pytest.mark.parametrize("name", ["cc_sbu", "laion"])
def test_a_stream_has_the_recorded_samples_and_asks_with_the_caption_templates(name, recording, recorded_dataset):
    dataset = recorded_dataset(name)
    rows = [block * STREAM_BLOCK + place for block in range(8) for place in range(60)]
    examples = [dataset.get(row, derive_rng(1, row)) for row in rows]
    samples = {
        (example.turns[0].answer, example.images[0].shape[2], example.images[0].shape[1]) for example in examples
    }
    assert samples == {(item["answer"], *item["image_wh"]) for item in recording(name)["samples"]}
    asked = {f"<Img><ImageHere></Img> {template} " for template in load_templates("caption")}
    assert {example.turns[0].prompt for example in examples} == asked
    assert dataset.num_skipped > 0


def test_a_rows_sample_depends_on_seed_and_row_alone(recorded_dataset):
    def samples(seed, rows):
        dataset = recorded_dataset("laion", seed=seed)
        return {row: dataset.get(row, random.Random(0)).turns for row in rows}

    rows = [
        *range(20),
        *range(5 * STREAM_BLOCK, 5 * STREAM_BLOCK + 20),
        *range(9 * STREAM_BLOCK, 9 * STREAM_BLOCK + 20),
    ]
    whole = samples(1, rows)
    assert samples(1, rows[::-1]) == whole
    assert samples(1, rows[30:]) == {row: whole[row] for row in rows[30:]}
    assert samples(2, rows) != whole


def test_the_rows_of_a_block_are_the_samples_of_one_shard_each_before_any_comes_again(tmp_path, build):
    for shard in range(3):
        members = {}
        for number in range(10):
            members |= sample(f"{number}", 8 + 10 * shard + number)
        write_shard(tmp_path / f"{shard}.tar", members)
    dataset = build("laion", {"storage": f"{tmp_path}/{{0..2}}.tar"})
    widths = [dataset.get(row, random.Random(0)).images[0].shape[2] - 8 for row in range(10)]
    assert len(set(widths)) == 10 and len({width // 10 for width in widths}) == 1
    blocks = [dataset.get(block * STREAM_BLOCK, random.Random(0)).images[0].shape[2] - 8 for block in range(40)]
    assert {width // 10 for width in blocks} == {0, 1, 2}


def test_ranks_draw_different_rows_of_an_endless_stream_and_resume_in_it():
    streams = [
        [
            ref.row
            for batch in MixtureSampler([MixtureComponent("s", None, 1000, 1)], num_steps=9, seed=0, **at)
            for ref in batch
        ]
        for at in (
            {"rank": 0, "world_size": 2},
            {"rank": 1, "world_size": 2},
            {"rank": 1, "world_size": 2, "start_step": 7},
        )
    ]
    assert len(set(streams[0]) | set(streams[1])) == 18000
    assert streams[2] == streams[1][7000:]


@pytest.mark.parametrize("text", [b'{"caption": "\\ud83d"}', b"[" * 100_000, b'{"caption": null}', b"5"])
def test_a_sample_whose_text_cannot_be_used_is_skipped(tmp_path, build, text):
    good = sample("good", 8)
    image = next(content for name, content in good.items() if name.endswith("jpg"))
    write_shard(tmp_path / "0.tar", good | {"bad.jpg": image, "bad.json": text})
    dataset = build("laion", {"storage": f"{tmp_path}/0.tar"})
    assert {dataset.get(row, random.Random(0)).turns[0].answer for row in range(10)} == {"good"}
    assert dataset.num_skipped >= 5


def test_a_sample_that_does_not_decode_is_skipped_and_counted(tmp_path, build, caplog):
    write_shard(tmp_path / "0.tar", sample("good", 8) | {"bad.jpg": b"no jpeg", "bad.json": b'{"caption": "bad"}'})
    dataset = build("laion", {"storage": f"{tmp_path}/0.tar"})
    assert {dataset.get(row, random.Random(0)).turns[0].answer for row in range(10)} == {"good"}
    assert dataset.num_skipped >= 5
    assert "is skipped (1 skipped so far): cannot identify image file" in caplog.text


def test_what_the_workers_skip_is_counted_in_the_main_process(tmp_path, build):
    write_shard(tmp_path / "0.tar", sample("good", 8) | {"bad.jpg": b"no jpeg", "bad.json": b'{"caption": "bad"}'})
    dataset = build("laion", {"storage": f"{tmp_path}/0.tar"})
    sampler = MixtureSampler([MixtureComponent("laion", None, 4, 1)], num_steps=5, seed=0)
    loader = DataLoader(
        MixtureDataset({"laion": dataset}, seed=0), batch_sampler=sampler, collate_fn=len, num_workers=2
    )
    assert list(loader) == [4] * 5
    assert dataset.num_skipped >= 10  # every second sample is bad


def test_a_stream_of_which_nothing_can_be_read_says_so(tmp_path, build):
    write_shard(tmp_path / "0.tar", {"bad.jpg": b"no jpeg", "bad.json": b'{"caption": "bad"}'})
    dataset = build("laion", {"storage": f"{tmp_path}/0.tar"})
    with pytest.raises(ValueError, match=r"laion\[3\] .*0\.tar: 100 samples in a row cannot be read"):
        dataset.get(3, random.Random(0))
    (tmp_path / "0.tar").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="laion: none of its 1 shards has a sample that can be read"):
        build("laion", {"storage": f"{tmp_path}/0.tar"})


@pytest.mark.parametrize("cut", [100, 520])  # in the header of a member, in its content
def test_the_samples_before_the_cut_of_a_shard_are_used(tmp_path, build, caplog, cut):
    write_shard(tmp_path / "0.tar", sample("first", 8) | sample("second", 9))
    whole = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "0.tar").write_bytes(whole[: whole.index(b"second.json") + cut])
    dataset = build("laion", {"storage": f"{tmp_path}/0.tar"})
    assert {dataset.get(row, random.Random(0)).turns[0].answer for row in range(10)} == {"first"}
    assert "0.tar: cannot be read to its end" in caplog.text


def test_shards_that_are_not_there_are_counted_and_none_is_an_error(tmp_path, build, caplog):
    write_shard(tmp_path / "1.tar", sample("a", 8))
    assert build("laion", {"storage": f"{tmp_path}/{{0..3}}.tar"}).shards == [f"{tmp_path}/1.tar"]
    assert "laion: 3 of its 4 shards are not there" in caplog.text
    with pytest.raises(ValueError, match=r"datasets\.laion\.build_info\.storage: no file .*/\{5\.\.6\}\.tar"):
        build("laion", {"storage": f"{tmp_path}/{{5..6}}.tar"})


def test_braces_are_ranges_and_choices(tmp_path, build):
    for name in ("a008", "a009", "a010", "b009", "plain"):
        write_shard(tmp_path / f"{name}.tar", sample(name, 8))
    dataset = build("laion", {"storage": [f"{tmp_path}/{{a,b}}{{008..011}}.tar", f"{tmp_path}/plain.tar"]})
    assert [path.rsplit("/", 1)[1] for path in dataset.shards] == [
        "a008.tar",
        "a009.tar",
        "a010.tar",
        "b009.tar",
        "plain.tar",
    ]
