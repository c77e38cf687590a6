"""One-line faults in the package, each with the test that must fail where the fault is.

`tests/test_mutants.py` holds this list against the code, and puts each fault into a copy of the package (slow).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In `file`, below `minigpt4`, `line` becomes `fault`; `test` fails then."""

    name: str
    file: str
    line: str
    fault: str
    test: str


WIRING = "tests/runners/test_wiring.py::"
RESUMING = "tests/runners/test_resuming.py::"
MUTANTS = (
    Mutant(
        name="all ranks draw equal dropout masks",
        file="runners/runner_base.py",
        line='seed_torch("step", self.run.seed, get_rank(), span.first)',
        fault='seed_torch("step", self.run.seed, span.first)',
        test=WIRING + "test_ranks_draw_other_dropout_masks",
    ),
    Mutant(
        name="a checkpoint is saved before the last loss is checked",
        file="runners/runner_base.py",
        line="            self.guard.check()\n            if is_main_process():",
        fault="            if is_main_process():",
        test=WIRING + "test_a_loss_that_is_not_finite_is_never_saved",
    ),
    Mutant(
        name="after one update is left out, all others are",
        file="runners/runner_base.py",
        line="by their addresses\n        self.finite = True",
        fault="by their addresses",
        test=WIRING + "test_updates_go_on_after_one_is_left_out",
    ),
    Mutant(
        name="a trained vision encoder sees images ahead, without a gradient",
        file="runners/runner_base.py",
        line="self.model.encode_vision if self.run.look_ahead and self.model.freeze_vit else None",
        fault="self.model.encode_vision if self.run.look_ahead else None",
        test=WIRING + "test_a_trained_vision_encoder_gets_its_gradient_also_with_look_ahead",
    ),
    Mutant(
        name="the share of waiting for data is the sum over the ranks",
        file="runners/meter.py",
        line='"data_wait": sums[3] / get_world_size() / seconds',
        fault='"data_wait": sums[3] / seconds',
        test="tests/runners/test_meter.py::test_the_share_of_waiting_for_data_is_the_mean_over_the_ranks",
    ),
    Mutant(
        name="answers made with another image processor are reused",
        file="evaluation/results.py",
        line='        "image_processor": OmegaConf.to_container(image_options(cfg)),\n',
        fault="",
        test="tests/evaluation/test_results.py::test_answers_of_another_image_processor_are_another_run",
    ),
    Mutant(
        name="decay and betas come from the checkpoint",
        file="runners/resuming.py",
        line='runner.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})',
        fault="runner.optimizer.load_state_dict(saved)",
        test=RESUMING + "test_decay_and_betas_are_those_of_this_run",
    ),
    Mutant(
        name="a watcher is not closed where the one before it fails",
        file="runners/sinks.py",
        line="for sink in list(self._sinks):\n            self._guarded(sink, sink.close)",
        fault="for sink in self._sinks:\n            self._guarded(sink, sink.close)",
        test="tests/runners/test_sinks.py::test_a_watcher_that_fails_to_close_leaves_the_others_to_be_closed",
    ),
    Mutant(
        name="other rows in the files of a dataset are not noticed",
        file="runners/resuming.py",
        line='        "num_rows": num_rows_of(runner.datasets),\n',
        fault="",
        test=RESUMING + "test_other_rows_in_a_file_of_the_same_name_are_refused",
    ),
    Mutant(
        name="another mixture is resumed without permission",
        file="runners/resuming.py",
        line="if refused and not cfg.run_cfg.allow_changes:",
        fault="if not refused and not cfg.run_cfg.allow_changes:",
        test=RESUMING + "test_another_mixture_is_refused_with_all_that_changed",
    ),
    Mutant(
        name="changes of earlier resumptions are forgotten",
        file="runners/resuming.py",
        line='        "changes": runner.changes,\n',
        fault="",
        test=RESUMING + "test_allowed_changes_are_warned_of_and_kept_in_run_json",
    ),
    Mutant(
        name="an unset option differs from its default",
        file="runners/changes.py",
        line="return UNSET.get(path) if value is None else value",
        fault="return value",
        test="tests/runners/test_changes.py::test_an_unset_option_equals_its_default",
    ),
    Mutant(
        name="the fingerprint of the weights ignores their values",
        file="common/weight_identity.py",
        line="values = torch.cat([found[name][1].float().bfloat16() for name in names])",
        fault="values = torch.cat([torch.zeros_like(found[name][1], dtype=torch.bfloat16) for name in names])",
        test="tests/common/test_weight_identity.py::test_another_seed_is_another_model",
    ),
    Mutant(
        name="weights with other values are called the same",
        file="common/weight_identity.py",
        line="if (same | stepped).all() and num_other <= max(4, MAX_STEPPED * len(same)):",
        fault="if len(same):",
        test="tests/common/test_weight_identity.py::test_a_model_that_was_tuned_a_little_is_another_model",
    ),
    Mutant(
        name="data workers and the loop may change a batch",
        file="conversation/conversation.py",
        line="@dataclass(frozen=True, slots=True, kw_only=True)\nclass Batch:",
        fault="@dataclass(slots=True, kw_only=True)\nclass Batch:",
        test="tests/conversation/test_batch.py::test_nobody_changes_a_batch_after_it_is_made",
    ),
    Mutant(
        name="a broken plugin of an installed package is read by every run",
        file="common/registry.py",
        line="broken = () if name in table else _load_installed_plugins()",
        fault="broken = _load_installed_plugins()",
        test="tests/common/test_plugins.py::test_a_broken_plugin_of_an_installed_package_is_named_and_stops_no_other_run",
    ),
    Mutant(
        name="a plugin takes a name of this package, when it is imported first",
        file="common/registry.py",
        line="table = self._tables[kind] if _is_ours(cls) else self._table(kind)",
        fault="table = self._tables[kind]",
        test="tests/common/test_plugins.py::test_a_plugin_that_is_imported_first_cannot_take_a_name_of_this_package",
    ),
    Mutant(
        name="a url of the user's YAML is not shown",
        file="datasets/base_builder.py",
        line="one or self.annotations_address",
        fault="self.annotations_address",
        test="tests/datasets/test_addresses.py::test_a_url_of_the_yaml_comes_before_that_of_the_builder",
    ),
)
