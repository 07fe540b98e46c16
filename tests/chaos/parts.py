"""What a cluster at night consists of, each part to be started, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


class Ray:
    """A head without room for workers, and nodes with two GPUs that are not there.

    Every node has its own raylet; on a machine that is all a node is.
    """

    GPUS = 2

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)  # where Ray notes the address of its newest cluster, too
        self._folder = folder
        self._cluster: Any = None

    @property
    def address(self) -> str:
        """What RAY_ADDRESS says."""
        return str(self._cluster.address)

    @property
    def nodes(self) -> list[Any]:
        """Those that workers live on, the oldest first."""
        return sorted(self._cluster.worker_nodes, key=lambda node: node.node_id)

    def start(self, nodes: int) -> None:
        """A new cluster."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "temp_dir": str(self._folder),
                "object_store_memory": 80 * 2**20,
            },
        )
        for _ in range(nodes):
            self.add()

    def add(self) -> None:
        """Another node."""
        self._cluster.add_node(
            num_cpus=self.GPUS, num_gpus=self.GPUS, object_store_memory=80 * 2**20
        )

    def kill(self, node: Any) -> int:
        """SIGKILL the raylet of a node, then put away what is left of that node; its pid.

        Workers have to notice for themselves that their raylet is gone.
        """
        process = node.all_processes["raylet"][0].process
        process.kill()
        process.wait()
        self._cluster.remove_node(node, allow_graceful=False)
        return int(process.pid)

    def kill_head(self) -> int:
        """SIGKILL the head's raylet and the keeper of the cluster's state; all nodes are lost."""
        head = self._cluster.head_node
        pid = 0
        for kind in ("gcs_server", "raylet"):
            process = head.all_processes[kind][0].process
            process.kill()
            process.wait()
            pid = process.pid
        self.stop()
        return int(pid)

    @property
    def pids(self) -> set[int]:
        """Processes that it waits for itself."""
        if self._cluster is None:
            return set()
        nodes = [self._cluster.head_node, *self._cluster.worker_nodes]
        return {
            started.process.pid
            for node in nodes
            for kind in node.all_processes.values()
            for started in kind
        }

    def gpus(self) -> tuple[float, float]:
        """GPUs that are free, and all."""
        state = self._cluster.global_state
        free, all_ = state.available_resources_per_node(), state.total_resources_per_node()
        return tuple(sum(n.get("GPU", 0.0) for n in of.values()) for of in (free, all_))  # type: ignore[return-value]

    def stop(self) -> None:
        """End every process of it."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = None


class Command:
    """`mergefront ...` in a folder, its output in a file."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder, self.log = folder, log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, **environment: str) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            log.write(f"--- mergefront {' '.join(arguments)}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                [BIN / "mergefront", *arguments],
                cwd=self._folder,
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self.process is None else self.process.poll()

    def kill(self) -> int:
        """SIGKILL it; its pid."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return self.process.pid
