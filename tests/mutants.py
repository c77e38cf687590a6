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
FAMILIES = "tests/conversation/test_families.py::"
TRAIN_STEP = "tests/runners/test_train_step.py::"
TRAIN_STATE = "tests/runners/test_train_state.py::"
RESUMING = "tests/runners/test_resuming.py::"
MUTANTS = (
    Mutant(
        name="all ranks draw equal dropout masks",
        file="runners/train_step.py",
        line='seed_torch("step", self._seed, get_rank(), step)',
        fault='seed_torch("step", self._seed, step)',
        test=TRAIN_STEP + "test_ranks_draw_other_dropout_masks",
    ),
    Mutant(
        name="a checkpoint is saved before the last loss is checked",
        file="runners/runner_base.py",
        line="        self.guard.check()\n        self.last_checkpoint",
        fault="        self.last_checkpoint",
        test=WIRING + "test_a_loss_that_is_not_finite_is_never_saved",
    ),
    Mutant(
        name="after one update is left out, all others are",
        file="runners/train_step.py",
        line="is_finite = not self.guard.skips(step, values, packed_batches) and is_finite",
        fault="is_finite = not self.guard.skips(step, values, packed_batches) and not self.guard.num_skipped",
        test=TRAIN_STEP + "test_updates_go_on_after_one_is_left_out",
    ),
    Mutant(
        name="an update is taken although its loss is not finite",
        file="runners/train_state.py",
        line="norm = self._update(lr) if is_finite else None",
        fault="norm = self._update(lr)",
        test=TRAIN_STATE + "test_gradients_that_are_not_finite_are_left_out",
    ),
    Mutant(
        name="a gradient is clipped while float16 still scales it",
        file="runners/train_state.py",
        line="        self.scaler.unscale_(self.optimizer)\n",
        fault="",
        test=TRAIN_STATE + "test_a_scaled_gradient_is_clipped_as_if_it_were_not_scaled",
    ),
    Mutant(
        name="ranks average the gradient of every micro-batch of a window",
        file="runners/train_step.py",
        line="contextlib.nullcontext() if is_last else self.parallel.no_sync()",
        fault="contextlib.nullcontext()",
        test=TRAIN_STEP + "test_the_gradient_is_averaged_over_the_ranks_once_an_update",
    ),
    Mutant(
        name="a training leaves other random numbers behind",
        file="common/process_state.py",
        line=", torch.random.fork_rng(gpus):",
        fault=":",
        test="tests/test_api.py::test_a_training_leaves_the_process_as_it_was",
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
        line='"data_wait": sums[3] / world_size / seconds',
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
        name="answers of one model in memory are reused for another",
        file="api.py",
        line="run_name = dist_utils.broadcast_object(weights_name(given) or uuid.uuid4().hex)",
        fault='run_name = "a model"',
        test="tests/evaluation/test_callable.py::test_answers_of_a_model_with_other_weights_are_not_reused",
    ),
    Mutant(
        name="saved predictions are scored though another tool wrote the published file since",
        file="evaluation/shards.py",
        line='fingerprint(questions, {"result_sha256": published})',
        fault='fingerprint(questions, {"result_sha256": published[:0]})',
        test="tests/evaluation/test_command.py::test_another_tools_file_is_scored_without_the_provenance_of_ours",
    ),
    Mutant(
        name="decay and betas come from the checkpoint",
        file="runners/train_state.py",
        line='self.optimizer.load_state_dict({"state": saved["state"], "param_groups": own})',
        fault="self.optimizer.load_state_dict(dict(saved))",
        test=TRAIN_STATE + "test_rates_decay_and_betas_are_those_of_this_run",
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
        file="runners/train_state.py",
        line='            "num_rows": self.num_rows,\n',
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
        file="runners/train_state.py",
        line='            "changes": self.changes,\n',
        fault="",
        test=RESUMING + "test_allowed_changes_are_logged_and_kept_in_run_json",
    ),
    Mutant(
        name="an unset option differs from its default",
        file="runners/resuming.py",
        line="return _unset_value(path, leaves) if value is None else value",
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
        name="without BOS an example's first token is predicted from the example before",
        file="conversation/encoder.py",
        line="        labels[:1] = IGNORE_INDEX\n",
        fault="",
        test=FAMILIES + "test_positions_begin_at_zero_in_each_example_and_no_first_token_has_a_label",
    ),
    Mutant(
        name="an answer ends at the tokenizer's end of sequence alone",
        file="conversation/encoder.py",
        line="[tokenizer.eos_id, *(ids[0] for ids in ends if len(ids) == 1)]",
        fault="[tokenizer.eos_id]",
        test=FAMILIES + "test_an_answer_ends_at_the_mark_of_a_turn_as_well_as_at_the_end_of_sequence",
    ),
    Mutant(
        name="the answers of a chat's history are tokenized with their questions",
        file="conversation/chat_format.py",
        line="answer = found + len(mark)",
        fault="answer = found",
        test=FAMILIES + "test_a_chat_over_several_turns_has_the_ids_of_training",
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
        line="one or self.annotations_url",
        fault="self.annotations_url",
        test="tests/datasets/test_urls.py::test_a_url_of_the_yaml_comes_before_that_of_the_builder",
    ),
)
