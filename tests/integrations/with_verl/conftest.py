"""One Ray and one TransferQueue for all tests of verl's v1 trainers."""

import shutil
import tempfile

import pytest


@pytest.fixture(scope="session")
def queue():
    import os

    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - else its processes starve on a busy machine
    import ray
    import transfer_queue as tq

    from tests.integrations.with_verl.trainers import config

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets' paths may not be long
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=folder, object_store_memory=100 * 2**20
    )
    settings = config().transfer_queue
    settings.enable, settings.backend.SimpleStorage.num_data_storage_units = True, 1
    tq.init(settings)
    yield tq
    tq.close()
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
