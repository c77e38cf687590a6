"""Every kind of broken input has a line in the report, which lists all of them."""

import http.server
import json
import pickle
import shutil
import socket
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file

from minigpt4.preflight.preflight import run_preflight
from tests.datasets.conftest import REFS, cells
from tests.forked import run_script
from tests.runners.tiny import ASSETS, ROOT


def problems(cfg):
    return "\n".join(run_preflight(cfg).problems)


def test_when_all_is_well_the_table_has_every_file_with_its_key_and_url(load, world):
    report = run_preflight(load())
    assert report.problems == []
    assert report.summary() == "training could start"
    assert cells(report, "gqa") == ["3", "3", "0", "0", "ok"]
    assert cells(report, "refcoco") == ["1", "1", "0", "0", "ok"]
    lines = {tuple(line.split()[-3:]) for line in report.table().splitlines()}
    assert (
        f"{world}/gqa.json",
        "datasets.gqa.build_info.annotations.train.storage",
        "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/datasets/gqa/train_balanced_questions.json",
    ) in lines
    assert (
        f"{world}/images",
        "datasets.gqa.build_info.images.storage",
        "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
    ) in lines
    refer = "https://bvisionweb1.cs.unc.edu/licheng/referit/data/refcoco.zip"
    assert (f"{world}/{REFS}", "datasets.refcoco.build_info.ann_path", refer) in lines
    assert (f"{world}/refcoco/instances.json", "datasets.refcoco.build_info.ann_path", refer) in lines
    assert any("eva_tiny_28.pth" in line[0] and line[1] == "model.vit_ckpt" for line in lines)


def test_rows_left_out_by_their_rule_are_counted_and_are_no_problem(load, world, caplog):
    caplog.set_level("INFO")
    rows = [{"image": f"train2014/{n}.jpg", "question": "?", "answer": ["a"]} for n in (0, 1, 8)]
    (world / "vqa.json").write_text(json.dumps(rows))
    (world / "train").symlink_to(world / "images")
    info = f"{{annotations: {{train: {{storage: {world}/vqa.json}}}}, images: {{storage: {world}}}}}"
    report = run_preflight(load(f"datasets.coco_vqa.build_info={info}"))
    assert report.problems == []
    assert cells(report, "coco_vqa") == ["3", "2", "1", "0", "ok"]
    assert "coco_vqa: 1 of 3 rows have no image below" in caplog.text


def test_a_missing_folder(load, world):
    shutil.rmtree(world / "images")
    text = problems(load())
    assert f"datasets.gqa.build_info.images.storage: no folder {world}/images; download it from https://" in text
    assert f"datasets.refcoco.build_info.image_path: no folder {world}/images; download it from http://" in text


def test_a_json_file_that_is_cut_off(load, world):
    (world / "gqa.json").write_text((world / "gqa.json").read_text()[:-30])
    assert f"gqa: {world}/gqa.json: broken or cut off JSON near byte " in problems(load())


def test_a_pickle_that_is_cut_off(load, world):
    (world / REFS).write_bytes((world / REFS).read_bytes()[:-9])
    text = problems(load())
    reason = "expected 7 bytes in a unicodestring4, but only 5 remain"
    assert f"refcoco: {world}/{REFS}: is cut off or no pickle file: {reason}" in text


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_run_code(load, world):
    (world / REFS).write_bytes(pickle.dumps([RunsCode(str(world / "was_run"))], protocol=2))
    text = problems(load())
    assert f"refcoco: {world}/{REFS}: cannot be read as a pickle file: it holds " in text
    assert "only plain data is read" in text
    assert not (world / "was_run").exists()


def test_a_file_of_another_schema(load, world):
    (world / "gqa.json").write_text('[{"picture": "0.jpg"}]')
    assert (
        f"gqa: not one of its 1 rows can be used: {world}/gqa.json: record 1: 'image' is missing (there are picture)"
    ) in problems(load())


def test_a_row_of_another_schema_stops_a_training_that_tolerates_none(load, world):
    rows = json.loads((world / "gqa.json").read_text())
    (world / "gqa.json").write_text(json.dumps([*rows, {**rows[0], "answer": 3}]))
    text = problems(load())
    assert f"gqa: 1 of 4 rows are bad: {world}/gqa.json: record 4: 'answer' should be a text, not 3" in text
    assert "1 rows are bad, run.max_bad_samples allows 0; repair them, raise it, or `--check full`" in text
    tolerant = run_preflight(load("run.max_bad_samples=1"))
    assert tolerant.problems == []
    assert cells(tolerant, "gqa") == ["4", "4", "0", "1", "ok"]
    assert "1 rows are bad: tolerated, run.max_bad_samples allows 1" in tolerant.table()


def test_an_absent_image_stops_a_training_that_tolerates_none(load, world):
    (world / "images/1.jpg").unlink()
    assert f"gqa: the images of 1 of 3 rows are not there: {world}/images/1.jpg" in problems(load())
    assert run_preflight(load("run.max_bad_samples=1")).problems == []


def test_all_problems_are_reported_at_once(load, world):
    (world / "text.json").unlink()
    (world / REFS).write_bytes(b"<html>")
    (world / "gqa.json").write_text("[")
    (world / "empty.pth").touch()
    text = problems(
        load(f"model.ckpt={world}/empty.pth", "model.vit_ckpt=nowhere.pth", "run.bad_samples_report=no.json")
    )
    for expected in (
        "datasets.unnatural_instruction.build_info.ann_path: no file ",
        f"refcoco: {world}/{REFS}: ",
        f"gqa: {world}/gqa.json: broken or cut off JSON",
        f"model.ckpt: {world}/empty.pth is empty (0 bytes)",
        "model.vit_ckpt: no file nowhere.pth; download it from https://",
        "run.bad_samples_report: cannot read no.json: No such file",
    ):
        assert expected in text


def test_weights_that_are_cut_off_or_incomplete(load, world):
    torch.save({"model": {}}, world / "whole.pth")
    (world / "cut.pth").write_bytes((world / "whole.pth").read_bytes()[:-40])
    (world / "llama").mkdir()
    (world / "llama/config.json").write_text("{}")
    text = problems(
        load(
            f"model.ckpt={world}/cut.pth",
            f"model.llama_model={world}/llama",
            f"run.resume_ckpt_path={world}/gone.pth",
        )
    )
    assert f"model.ckpt: {world}/cut.pth is cut off or no file of weights" in text
    assert f"{world}/llama lacks tokenizer.model or tokenizer.json, weights (*.safetensors or *.bin)" in text
    assert f"run.resume_ckpt_path: no file {world}/gone.pth" in text
    assert "model.vit_ckpt" not in text


def test_a_hub_id_is_looked_up_in_the_cache_and_a_path_is_no_hub_id(load, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing is neither a folder here nor in the hub's cache, and HF_HUB_OFFLINE" in problems(
        load("model.llama_model=nobody/nothing")
    )
    assert "model.llama_model: no folder ./llama; download it from" in problems(load("model.llama_model=./llama"))


def test_weights_that_would_be_downloaded_need_a_server_that_answers(load, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("minigpt4.common.downloads.PATIENCE", 120.0)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        report = run_preflight(load("model.llama_model=nobody/nothing", f"model.vit_ckpt={address}/v.pth"))
        assert (report.problems, report.table().count("will be downloaded")) == ([], 2)
        server.shutdown()
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    text = problems(load("model.llama_model=nobody/nothing", f"model.vit_ckpt={address}/v.pth"))
    assert f"model.llama_model: cannot reach the hub for nobody/nothing ({address}), and its cache" in text
    assert f"model.vit_ckpt: cannot reach {address}/v.pth; download it elsewhere and set model.vit_ckpt" in text


def test_image_sizes_of_dataset_and_model_must_agree(load):
    text = problems(load("datasets.gqa.vis_processor.train={name: blip2_image_train, image_size: 84}"))
    assert "datasets.gqa.vis_processor.train.image_size is 84 but model.image_size is 56" in text


@pytest.mark.parametrize("how", [["--check", "full"], []])
def test_the_command_ends_with_1_when_training_could_not_start(load, world, how):
    load()
    (world / "images/1.jpg").write_bytes(b"x") if "full" in how else (world / "gqa.json").unlink()
    done = run_script([ROOT / "train.py", "--cfg-path", world / "x.yaml", *how], cwd=world)
    assert done.returncode == 1
    assert "training cannot start:" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "set by" in done.stdout + done.stderr  # the table


def test_a_tokenizer_that_is_none_or_larger_than_the_weights(load, world):
    llama = world / "llama"
    shutil.copytree(ASSETS / "llama_tiny", llama)
    assert run_preflight(load(f"model.llama_model={llama}")).problems == []
    (llama / "tokenizer.model").write_bytes(b"<html>")
    assert f"model.llama_model: {llama}/tokenizer.model: cannot read it as a sentencepiece model" in problems(
        load(f"model.llama_model={llama}")
    )
    shutil.copy(ASSETS / "llama_tiny/tokenizer.model", llama)
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "vocab_size": 9}))
    weights = load_file(llama / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = weights[name][:9].contiguous()
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    text = problems(load(f"model.llama_model={llama}"))
    assert f"model.llama_model: {llama}: its tokenizer has " in text and "its config.json says vocab_size 9" in text


@pytest.mark.parametrize("below", ["file/out", "file"])
def test_an_output_folder_that_cannot_be_made(load, world, below):
    (world / "file").touch()
    text = problems(load(f"run.output_dir={world}/{below}", "run.job_id=0010"))
    assert f"run.output_dir: the folder {world}/{below}/0010 cannot be made, since {world}/file is a file" in text


def test_links_pointers_and_folders_in_the_place_of_files(load, world):
    (world / "text.json").unlink()
    (world / "text.json").symlink_to("nowhere.json")
    (world / "gqa.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (world / REFS).unlink()
    (world / REFS).mkdir()
    text = problems(load())
    assert f"unnatural_instruction.build_info.ann_path: {world}/text.json is a link to nowhere.json, which does" in text
    assert f"datasets.gqa.build_info.annotations.train.storage: {world}/gqa.json is a pointer of git-lfs" in text
    assert f"datasets.refcoco.build_info.ann_path: {world}/{REFS} is a folder, not a file" in text


def test_a_gpu_that_this_machine_lacks_is_a_remark(load, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    report = run_preflight(load("run.device=cuda"))
    assert report.problems == []
    assert "run.device is cuda, which this machine does not have" in report.table()


@pytest.mark.parametrize(
    ("options", "key"),
    [(["run.valid_splits=[val]"], "run.valid_splits"), (["run.evaluate=True"], "run.evaluate needs run.valid_splits")],
)
def test_a_held_out_split_that_no_dataset_has_is_named(load, options, key):
    text = problems(load(*options))
    assert key in text and "no dataset has one of the splits" in text
