"""An evaluation by two processes, one of which has done its share long before the other."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from minigpt4.evaluation.worker import InferenceWorker
from tests.evaluation.test_worker import RESULT, Parrot, processor, seven

TIMEOUT, DELAY = timedelta(seconds=60), 70.0


class SlowParrot(Parrot):
    def encode_images(self, images):
        time.sleep(DELAY)
        return super().encode_images(images)


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    dist.barrier()
    # older versions of torch have the second name alone
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    set_timeout(TIMEOUT, dist.group.WORLD)
    benchmark = seven(batch_size=7)  # one batch, which rank 0 asks
    worker = InferenceWorker(benchmark=benchmark, model=SlowParrot(), image_processor=processor)
    worker.infer(benchmark.questions(), folder)
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_rank_without_work_waits_longer_than_collectives_may_take(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(one_rank, args=(tmp_path,), nprocs=2)
    assert (tmp_path / "seven.jsonl").read_text() == RESULT
