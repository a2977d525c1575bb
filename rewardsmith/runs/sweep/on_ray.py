"""Trials as tasks of Ray: on this machine, or on a cluster whose machines share the folder.

A task starts the trial's own process and waits for it, so that no trial imports Ray, and a worker that is
killed takes nothing with it: its trial sees the pipe close, saves its state, and the next attempt goes on.
"""

import logging
import os
import secrets
import socket
from typing import Any

from ..._core import InputError
from . import launch
from .engines import Ended, Job, cores

# Tasks hand over a few words; the default is a third of the memory.
_OBJECT_STORE_BYTES = 80 * 2**20
_CONNECT_SECONDS = 10.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray gives its workers a low priority, and the trials would inherit it.
    "RAY_worker_niceness": "0",
    # A task without --gpus-per-trial sees the GPUs that plain processes would see.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# Ray trusts whoever reaches its ports, and opens them to the network even for one machine.
_ON_THIS_MACHINE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}


class RayTasks:
    """The engine on Ray.

    Args:
        workers: trials at once; None: one for each core of the machine or the cluster.
        address: of a cluster; None starts a Ray of our own on this machine, which listens on 127.0.0.1 only.
        gpus: for each trial. Ray counts them; it does not look how much of one a trial takes.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, workers: int | None, address: str | None, gpus: float):
        if address is not None:
            _reach(address)
        settings = dict(_ENVIRONMENT)
        if address is None:
            settings |= _ON_THIS_MACHINE | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
        for name, value in settings.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError as error:
            raise InputError(
                "--engine ray needs Ray: pip install 'rewardsmith[ray]', or give --engine processes"
            ) from error
        self._ray: Any = ray
        try:
            if address is None:
                ray.init(
                    address="local",
                    num_cpus=workers or cores(),
                    object_store_memory=_OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    _node_ip_address="127.0.0.1",
                )
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            where = f"reach Ray at {address}" if address else "start Ray on this machine"
            raise InputError(f"cannot {where} ({reason}): mend that, or give --engine processes") from error
        self.workers = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # By value: a worker need not import this library, and JAX with it.
        self._ray.cloudpickle.register_pickle_by_value(launch)
        # Attempts are counted in one place for all engines, so Ray itself does not try again.
        self._attend: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(launch.attend)
        self._names: dict[Any, str] = {}

    def start(self, job: Job) -> None:
        """Hand a trial to Ray."""
        reference = self._attend.options(name=job.name).remote(str(job.folder), job.order, str(job.log))
        self._names[reference] = job.name

    def ended(self, patience: float) -> dict[str, Ended]:
        """The trials that ended since the last call."""
        if not self._names:
            return {}
        ready, _ = self._ray.wait(list(self._names), timeout=patience)
        return {self._names.pop(reference): self._result(reference) for reference in ready}

    def stop(self) -> None:
        """Cancel all tasks, which asks their trials to save their state and end."""
        for reference in self._names:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leave Ray; one of our own ends, and with it what still runs."""
        if self._names:
            self.stop()
        self._ray.shutdown()

    def _result(self, reference: Any) -> Ended:
        try:
            return Ended(self._ray.get(reference))
        except self._ray.exceptions.RayTaskError as error:
            return Ended(1, f"{type(error.cause).__name__}: {error.cause}")
        except self._ray.exceptions.RayError as error:
            return Ended(None, type(error).__name__)


def _reach(address: str) -> None:
    """`InputError` if nobody listens there: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not host or "/" in host:
        # Such as "auto", which Ray explains itself.
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"nobody answers at {address} ({reason}): give the --address of a Ray cluster"
        ) from error
