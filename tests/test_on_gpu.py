"""The command that measures on a GPU: its cases run at a tiny size, and a second call continues the first."""

import json
import queue
import time
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionInterface

from minigpt4.models import minigpt_v2
from minigpt4.models.attention import PACKED, packed_attention
from tests.forked import ROOT, run_script
from tests.models.golden_model import examples_of, recorded, tiny_model

BENCHMARKS = ROOT / "benchmarks"
DRY_RUN = (
    *("ceiling", "golden training float32", "golden answers", "published", "ours", "without packing"),
    *("profile", "host alone", "evaluation, published way"),
    *("evaluation, batches of 32", "decoding, 32 prompts", "resumed, deterministic"),
)
"""Every kind of case but the two whose every figure is looked at below, and no compiler."""


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Make the scripts importable, as they are for each other, and leave PyTorch's switches as they were."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    uses_cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(uses_cudnn)


@pytest.fixture
def worker(tmp_path):
    from gpu_worker import Worker

    return Worker(size="tiny", device="cpu", out=tmp_path, workers=0)


def case_of(name):
    from gpu_cases import CASES

    return next(case for case in CASES if case.name == name)


def arguments(tmp_path, *words):
    from on_gpu import parse_args

    return parse_args(["--out", str(tmp_path), "--size", "tiny", "--device", "cpu", *words])


def test_cases_of_every_kind_run_on_a_cpu_and_are_reported(worker, tmp_path):
    from gpu_cases import CASES, read_results
    from gpu_report import report

    results = {name: worker.run(case_of(name)) for name in DRY_RUN}
    assert {name: result.get("error") for name, result in results.items() if result["status"] != "ok"} == {}
    assert {case.kind for case in CASES} == {case_of(name).kind for name in DRY_RUN} | {"attention", "parts"}
    figures = {name: result["figures"] for name, result in results.items()}
    assert figures["golden training float32"]["loss_error"] < 1e-5
    assert figures["golden answers"]["num_equal"] == figures["golden answers"]["num_answers"] == 16
    assert figures["without packing"]["samples_a_step"] == figures["ours"]["samples_a_step"]
    assert figures["without packing"]["tokens_a_step"] > figures["ours"]["tokens_a_step"]
    assert figures["without packing"]["loss"] == pytest.approx(figures["ours"]["loss"], rel=1e-2)  # dropout differs
    assert figures["evaluation, batches of 32"]["num_differing_from_published"] == 0
    assert figures["resumed, deterministic"]["bit_equal"] and figures["resumed, deterministic"]["largest_change"] > 0
    assert any("mm" in row["name"] for row in figures["profile"]["host_operators"])
    assert [result["case"] for result in read_results(tmp_path)] == [c.name for c in CASES if c.name in DRY_RUN]
    text = report(read_results(tmp_path))
    assert all(f"| {name} |" in text for name in DRY_RUN if name != "profile")


def test_our_parts_are_as_near_to_float64_as_the_libraries_are(worker):
    """The bound on 16 bits is that of rounding: eight bits of bfloat16, eleven of float16."""
    allowed = {"bfloat16": 0.01, "float16": 0.0013, "float32": 2e-6}
    for name in ("numerics attention", "numerics parts"):
        for of, by in worker.run(case_of(name))["figures"].items():
            bound = next(value for dtype, value in allowed.items() if dtype in of)
            errors = {(of, key): error for key, error in by["ours"].items() if error is not None}
            assert errors and {key: error for key, error in errors.items() if error > bound} == {}


def test_what_fails_or_is_not_available_is_written_down_in_one_line(worker, tmp_path):
    from gpu_cases import Case, due, read_results

    worker.run(Case("ours", "train", "train", 1, {"options": ["run.no_such_option=1"]}))
    worker.run(Case("ceiling", "numerics", "golden", 1, {"dtype": "float8"}))
    ceiling, ours = read_results(tmp_path)
    assert (ours["status"], ours["error"]) == ("absent", "not available: run.no_such_option is no option here")
    assert ceiling["status"] == "error" and ceiling["error"].startswith("KeyError: 'float8' (gpu_numerics.py:")
    assert {"device", "versions", "commit", "settings", "seconds", "size"} <= set(ceiling)
    names = [case.name for case in due(tmp_path)]
    assert "ours" not in names and "ceiling" not in names and "published" in names
    assert {"ours", "ceiling"} < {case.name for case in due(tmp_path, retry=True)}


def test_named_cases_and_groups_run_again(tmp_path):
    from gpu_cases import due

    names = [case.name for case in due(tmp_path, only=["float16", "ceiling"])]
    assert names == ["ceiling", "ours, float16"]
    with pytest.raises(ValueError, match="no case or group is named cieling"):
        due(tmp_path, only=["cieling"])


def test_a_budget_that_is_too_short_starts_nothing(tmp_path, capsys):
    from on_gpu import measure

    measure(arguments(tmp_path, "--budget", "6", "--only", "published", "ceiling"))
    assert not (tmp_path / "results.jsonl").exists()
    assert "published: 1 cases left for the next call" in capsys.readouterr().out


class Died:
    """A worker that says what it is given to say and is gone then, or is silent."""

    def __init__(self, *events, status=-11):
        self.events, self.status, self.about, self.group = list(events), status, {}, SimpleNamespace(build=0)

    def give(self, cases, *, deadline):
        self.given = [case.name for case in cases]

    def next_event(self, *, seconds):
        if not self.events:
            raise queue.Empty
        return self.events.pop(0)

    def end(self):
        return self.status

    def last_words(self):
        return "an illegal memory access"


def test_a_process_that_dies_costs_the_case_it_died_of_alone(tmp_path):
    from gpu_cases import read_results
    from on_gpu import run_group

    cases = [case_of(name) for name in ("ours", "cudnn on", "together")]
    died = Died(
        *({"about": {"device": "H100"}}, {"begins": "ours", "limit": 60}, {"ends": "ours", "status": "ok"}),
        *({"begins": "cudnn on", "limit": 60}, None),
    )
    remaining = run_group(died, cases, arguments(tmp_path), deadline=time.time() + 100)
    assert [case.name for case in remaining] == ["together"]
    (result,) = read_results(tmp_path)
    assert (result["case"], result["device"]) == ("cudnn on", "H100")
    assert result["error"] == "the process ended (-11): an illegal memory access"


def test_a_case_that_takes_too_long_is_ended_and_the_others_remain(tmp_path):
    from gpu_cases import read_results
    from on_gpu import run_group

    cases = [case_of(name) for name in ("ours", "cudnn on")]
    silent = Died({"begins": "ours", "limit": 60})
    remaining = run_group(silent, cases, arguments(tmp_path), deadline=time.time() + 100)
    assert [case.name for case in remaining] == ["cudnn on"]
    assert read_results(tmp_path)[0]["error"] == "took longer than 60 s"


def test_a_case_that_the_budget_cuts_off_is_due_again(tmp_path):
    from gpu_cases import due, read_results
    from on_gpu import run_group

    silent = Died({"begins": "ours", "limit": 60})
    assert run_group(silent, [case_of("ours")], arguments(tmp_path), deadline=time.time()) == []
    assert read_results(tmp_path)[0]["status"] == "cut"
    assert "ours" in [case.name for case in due(tmp_path)]


def test_the_command_measures_what_has_no_result_yet(tmp_path):
    command = [BENCHMARKS / "on_gpu.py", "--out", tmp_path, "--size", "tiny"]
    command += ["--device", "cpu", "--only", "ceiling", "golden answers"]
    done = run_script(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(line["case"], line["status"]) for line in lines] == [("ceiling", "ok"), ("golden answers", "ok")]
    assert "| golden answers | 16 | 16 |" in (tmp_path / "results.md").read_text()


def test_what_ideas_taken_out_change_is_put_back():
    from variants import VARIANTS, put_back

    call = recorded("train_calls.json")["conv"]
    model = tiny_model(image_size=call["image_size"], **call["config"])
    kinds, inference, loss_of = [type(m) for m in model.modules()], torch.inference_mode, minigpt_v2.cross_entropy
    with put_back(model):
        for take_out in VARIANTS.values():
            take_out(model)
        for module in model.compilable("llm"):
            module.compile()
        assert [type(m) for m in model.modules()] != kinds
    assert [type(m) for m in model.modules()] == kinds
    assert (torch.inference_mode, minigpt_v2.cross_entropy) == (inference, loss_of)
    assert AttentionInterface()[PACKED] is packed_attention
    assert all(module._compiled_call_impl is None for module in model.modules())
    batch = model.chat_encoder.collate(examples_of(call["samples"], call["image_size"]))
    assert len(set(batch.lengths.tolist())) > 1
    assert model(batch).loss.item() == pytest.approx(call["loss"], abs=1e-4)
