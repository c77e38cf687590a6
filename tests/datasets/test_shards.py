"""What the check says of tar shards: members that no sample uses, shards that are absent or cut off, bad samples."""

import json

import pytest

from minigpt4.datasets.shards import cut_shards, read_shard
from minigpt4.preflight.images import check_images
from minigpt4.preflight.preflight import run_preflight
from tests.datasets.test_streams import picture, sample, write_shard


@pytest.fixture
def load_shards(load, world):
    """Return a function that loads the config of the world with its datasets and one of shards."""

    def make(storage, *options):
        shards = f"datasets.shop={{type: custom, build_info: {{storage: '{storage}'}}}}"
        return load(shards, f"run.output_dir={world}/out", "run.num_workers=1", *options)

    return make


def row(answer="bread"):
    return json.dumps({"question": "What is sold?", "answer": answer}).encode()


def test_members_with_a_dot_in_their_name_are_counted_in_the_check(load_shards, world):
    members = {"0.jpg": picture(8), "0.json": row()}
    for number in range(9):
        members |= {f"shop.v{number}.jpg": picture(8), f"shop.v{number}.json": row()}
    write_shard(world / "some.tar", members)
    report = run_preflight(load_shards(f"{world}/some.tar"))
    assert report.problems == []
    count = f"shop: {world}/some.tar: 18 members are no image or .json of this layout"
    assert f"{count}, e.g. shop.v0.jpg: a dot in the name" in report.remarks


def test_a_shard_without_a_sample_says_why(load_shards, world):
    write_shard(world / "all.tar", {"shop.2024.01.jpg": picture(8), "shop.2024.01.json": row()})
    (problem,) = run_preflight(load_shards(f"{world}/all.tar")).problems
    assert problem == (
        f"shop: none of its 1 shards has a sample that can be read: {world}/all.tar: 2 members are no image or .json "
        "of this layout, e.g. shop.2024.01.jpg: a dot in the name"
    )
    write_shard(world / "all.tar", {"a.bmp": b"x", "a.txt": b"x", "README": b"x"})
    (problem,) = run_preflight(load_shards(f"{world}/all.tar")).problems
    assert problem.endswith("no image with a .json beside it, only members of the kinds bmp, no ending, txt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty (0 bytes)"),
        (b"\x1f\x8b rest", "it is compressed; a stream needs a plain .tar"),
        (b"<html>", ""),
    ],
)
def test_a_shard_that_is_no_tar_file_says_why(load_shards, world, content, reason):
    (world / "0.tar").write_bytes(content)
    (problem,) = run_preflight(load_shards(f"{world}/0.tar")).problems
    assert f"{world}/0.tar: cannot be read to its end: {reason}" in problem


def test_a_shard_that_is_a_pointer_of_git_lfs_is_a_problem(load_shards, world):
    (world / "0.tar").write_text("version https://git-lfs.github.com/spec/v1\n")
    (problem,) = run_preflight(load_shards(f"{world}/0.tar")).problems
    assert problem.startswith(f"datasets.shop.build_info.storage: {world}/0.tar is a pointer of git-lfs")


def test_shards_that_are_absent_or_cut_off_are_counted_and_named(load_shards, world):
    for number in (0, 1, 2):
        write_shard(world / f"{number}.tar", {"0.jpg": picture(8), "0.json": row()})
    whole = (world / "1.tar").read_bytes()
    (world / "1.tar").write_bytes(whole[: whole.index(b"0.json") + 520])
    report = run_preflight(load_shards(f"{world}/{{0..4}}.tar"))
    assert report.problems == []
    assert f"shop: 2 of its 5 shards are not there: {world}/3.tar, {world}/4.tar" in report.remarks
    assert f"shop: 1 of its 5 shards are cut off or no tar files: {world}/1.tar" in report.remarks
    assert cut_shards([f"{world}/{number}.tar" for number in range(3)]) == [f"{world}/1.tar"]


def test_braces_that_do_not_close_are_one_line(load_shards, world):
    (problem,) = run_preflight(load_shards(f"{world}/{{0..4.tar")).problems
    assert problem.startswith("datasets.shop.build_info.storage: ")


def test_a_full_check_opens_every_sample_of_every_shard(load_shards, world):
    good = {"0.jpg": picture(8), "0.json": row()}
    write_shard(world / "0.tar", {**good, "1.jpg": b"no jpeg", "1.json": row(), "alone.jpg": picture(8), "a.txt": b"x"})
    write_shard(world / "1.tar", {**good, "1.jpg": picture(8), "1.json": row(answer=3), "2.json": row()})
    cfg = load_shards(f"{world}/{{0,1}}.tar")
    report = run_preflight(cfg)
    check_images(report, cfg.run_cfg)
    assert report.problems == []
    text = "\n".join(report.remarks)
    assert f"shop: 2 of 4 samples cannot be read: {world}/0.tar/1.jpg: cannot identify image file" in text
    assert f"{world}/1.tar/1.jpg: 'answer' should be a text or a list, not 3" in text
    alone = "an image without a .json of its name, or the reverse"
    assert f"{world}/0.tar: 1 members are no image or .json of this layout, e.g. alone.jpg: {alone}" in text
    assert f"{world}/1.tar: 1 members are no image or .json of this layout, e.g. 2.json: {alone}" in text
    assert "8 images were opened" in text  # 4 of the shards, 3 of gqa, 1 of refcoco
    report = json.loads((world / "out/bad_samples.json").read_text())
    assert list(report["shards"][f"{world}/1.tar"]["bad"]) == ["1.jpg"]
    assert not list((world / "out").glob("*.part"))


def test_a_shard_of_which_no_sample_can_be_read_is_a_problem_of_the_full_check(load_shards, world):
    write_shard(world / "0.tar", {"1.jpg": b"no jpeg", "1.json": row()})
    cfg = load_shards(f"{world}/0.tar")
    report = run_preflight(cfg)
    check_images(report, cfg.run_cfg)
    assert report.problems == [f"shop: not one of the 1 samples of {world}/0.tar can be read"]


def test_samples_stand_in_the_order_of_the_file_and_endings_in_any_case(tmp_path):
    write_shard(
        tmp_path / "0.tar", {"a/1.JPG": b"12", "a/1.Json": b"345", **sample("b", 8), "c.webp": b"", "c.json": b"{}"}
    )
    shard = read_shard(f"{tmp_path}/0.tar")
    assert shard.names == ["a/1.JPG", "b.jpg", "c.webp"]
    assert shard.samples[0][1] == 2
    assert shard.others == {"txt": 1}
    assert shard.remarks() == []
