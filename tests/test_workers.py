"""Work handed to other processes: the same results, in order, with little in memory."""

import os
import pickle
import re
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path

import numpy as np
import pytest
from tools import require_module

from refquant import workers
from refquant.workers import in_order, worker_processes


def scaled(shared, task):
    return shared * task


def process(_):
    time.sleep(0.01)
    return os.getpid()


def tasks(count):
    return ((f"slice {k}", k) for k in range(count))


@pytest.fixture(scope="module")
def two_workers():
    with worker_processes(2) as executor:
        while len({*executor.map(process, range(4))}) < 2:  # until both have started
            pass
        yield executor


def test_results_come_in_the_order_of_the_tasks(two_workers):
    assert list(in_order(scaled, 7, tasks(40), two_workers)) == list(range(0, 280, 7))
    assert list(in_order(scaled, 7, tasks(40))) == list(range(0, 280, 7))


class Forgetful(Executor):
    """Each task meets a worker that was sent nothing before; counts the most in flight."""

    _max_workers = 3

    flying = most = 0

    def submit(self, function, /, *arguments):
        workers._kept.clear()
        self.flying += 1
        self.most = max(self.most, self.flying)
        future = Future()
        future.set_result(function(*arguments))
        read = future.result

        def result(timeout=None):
            self.flying -= 1
            return read(timeout)

        future.result = result
        return future


def test_a_worker_that_was_sent_nothing_asks_for_what_tasks_share():
    executor = Forgetful()
    assert [x.tolist() for x in in_order(scaled, np.arange(2), tasks(20), executor)] == [[0, k] for k in range(20)]
    assert executor.most == 4, "one task for each of three workers, and one more"


def test_what_tasks_share_is_sent_to_each_worker_once(two_workers):
    class Counting(Executor):
        _max_workers, sent = 2, 0

        def submit(self, function, /, *arguments):
            Counting.sent += len(pickle.dumps(arguments))
            return two_workers.submit(function, *arguments)

    shared = np.ones(10**6)
    assert sum(x[0] for x in in_order(scaled, shared, tasks(50), Counting())) == 49 * 25
    assert 8e6 < Counting.sent < 5 * 8e6


@pytest.mark.parametrize("count", [0, -1, 1.5])
def test_fewer_than_one_worker_is_refused(count):
    with (pytest.raises(ValueError, match=f"^workers must be an integer >= 1, got {count}$"),
          worker_processes(count)):
        pass


def test_the_threads_of_this_process_are_as_before():
    before = os.environ.get("OMP_NUM_THREADS")
    with worker_processes(2):
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ.get("OMP_NUM_THREADS") == before
    with worker_processes(1) as executor:
        assert executor is None


DASK = """
from distributed import Client, LocalCluster
from refquant import calibration_images, load_digits, quantize_network
from refquant.network.storage import quantized_to_bytes
if __name__ == "__main__":
    network, images = load_digits()[0], calibration_images()[:8]
    with (LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
          Client(cluster) as client):
        quantized = {call}
        processes = len(cluster.workers)
    here = quantize_network(network, images, "easyquant-int8")
    print(processes, quantized_to_bytes(quantized) == quantized_to_bytes(here))
"""


def test_readmes_line_for_a_dask_cluster_gives_the_same_integers(tmp_path):
    require_module("distributed", "pip install 'refquant[oracles]'")
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (call,) = re.findall(r"`(quantize_network.*client\.get_executor\(\)\))`", readme)
    (tmp_path / "script.py").write_text(DASK.format(call=call))
    done = subprocess.run([sys.executable, "-W", "ignore", tmp_path / "script.py"], capture_output=True, text=True,
                          cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 True\n"), done.stderr
