"""The check that opens every image, and its report."""

import json
from pathlib import Path

from minigpt4.preflight import images
from minigpt4.preflight.images import check_images, digest, open_images
from minigpt4.preflight.preflight import run_preflight
from tests.datasets.conftest import cells


def damage_images(world):
    (world / "images/0.jpg").write_bytes(b"")
    (world / "images/1.jpg").write_bytes((world / "images/1.jpg").read_bytes()[:-200])


def test_a_full_check_opens_every_image_and_training_can_skip_the_bad_samples(load, world, caplog):
    caplog.set_level("INFO")
    damage_images(world)
    rows = json.loads((world / "gqa.json").read_text())
    (world / "gqa.json").write_text(json.dumps([*rows, {**rows[2], "answer": 3}, {**rows[2], "image": "gone.jpg"}]))
    cfg = load("run.max_bad_samples=2", "run.num_workers=1")
    report = run_preflight(cfg)
    assert report.problems == []  # the quick check opens none
    check_images(report, cfg.run_cfg)
    assert cells(report, "gqa") == ["5", "5", "1", "3", "ok"]
    assert f"gqa: 2 images cannot be read: {world}/images/0.jpg: the file is empty (0 bytes); " in report.table()
    assert f"{world}/images/1.jpg: image file is truncated" in report.table()
    report = json.loads((world / "out/bad_samples.json").read_text())
    assert report["num_images_opened"] == 5
    assert [Path(path).name for path in report["images"]] == ["0.jpg", "1.jpg", "gone.jpg"]
    assert report["rows"] == {f"{world}/gqa.json: record 4": "'answer' should be a text, not 3"}

    clean = run_preflight(load(f"run.bad_samples_report={world}/out/bad_samples.json"))
    assert clean.problems == []
    assert cells(clean, "gqa") == ["5", "1", "0", "0", "ok"]
    assert "gqa: 4 of 5 rows are left out because run.bad_samples_report names them" in caplog.text
    dataset = clean.built()["gqa"]["train"]
    assert [dataset.row(index)["image"] for index in range(len(dataset))] == ["2.jpg"]


def test_images_that_cannot_be_read_stop_a_training_that_tolerates_none(load, world):
    damage_images(world)
    cfg = load("run.num_workers=1")
    report = run_preflight(cfg)
    check_images(report, cfg.run_cfg)
    assert report.problems == [
        "2 rows show an image that cannot be read, run.max_bad_samples allows 0; "
        f"leave them out with run.bad_samples_report={world}/out/bad_samples.json"
    ]


def test_an_interrupted_full_check_continues_where_it_stopped(world, monkeypatch):
    monkeypatch.setattr(images, "CHUNK", 2)
    damage_images(world)
    (world / "images/2.jpg").write_bytes(b"x")
    paths = sorted(str(path) for path in (world / "images").iterdir())
    journal = world / "report.json.part"
    done = {"opened": 2, "bad": {paths[0]: "was empty then"}}
    lines = [json.dumps({"names": digest(paths)}), json.dumps(done), '{"opened": 2, "b']
    journal.write_text("\n".join(lines))
    assert open_images(paths, journal, num_processes=1).bad == {
        paths[0]: "was empty then",  # not looked at again
        paths[2]: f"cannot identify image file '{paths[2]}'",
    }
    assert not journal.exists()
    journal.write_text("\n".join([json.dumps({"names": "of other images"}), *lines[1:]]))
    assert list(open_images(paths, journal, num_processes=1).bad) == [paths[0], paths[1], paths[2]]
