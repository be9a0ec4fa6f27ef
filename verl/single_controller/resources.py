"""Which rank runs on which machine and GPU.

A pool is `num_nodes` times `slots_per_node` slots: one GPU each, or on a machine without GPU a place for processes on
the CPU. Who has which is the placement's business (`verl.config.placement`); roles that have the same slot share its
GPU. Slots of one node are one Ray placement group, so other jobs cannot get between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from verl.config.placement import Seat

PROCESS_CPUS = 0.05
"""What a worker outside of a pool books, for Ray's bookkeeping only: laptops run more processes than cores."""
SLOT_CPUS = 4 * PROCESS_CPUS
"""What a slot books, for all workers on it."""
GPU_SHARE = 0.45
"""What a role books of each of its GPUs: two roles share one."""
NODE_ID = "ray.io/node-id"
"""The label that Ray gives every node."""
PLACEMENT_TIMEOUT = 120.0  # seconds


class ResourcePool:
    """The slots of a run. Counts are checked first: RuntimeError says what was asked for and what there is.

    Args:
        num_nodes: machines (`trainer.nnodes`).
        slots_per_node: ranks on each (`trainer.n_gpus_per_node`).
        has_gpus: whether a slot is a GPU.
    """

    def __init__(self, num_nodes: int, slots_per_node: int, has_gpus: bool) -> None:
        self.num_nodes = num_nodes
        self.slots_per_node = slots_per_node
        self.has_gpus = has_gpus
        self._check_counts()
        slot = {"CPU": SLOT_CPUS, **({"GPU": 1.0} if has_gpus else {})}
        self._nodes: list[PlacementGroup] = []
        for _ in range(num_nodes):
            others = _different_from(self._nodes)
            node = placement_group(
                [slot] * slots_per_node, strategy="STRICT_PACK", bundle_label_selector=[others] * slots_per_node
            )
            self._nodes.append(node)
            if node.wait(PLACEMENT_TIMEOUT):
                continue
            self.release()
            raise RuntimeError(
                f"Ray did not give {self._request()} within {PLACEMENT_TIMEOUT:g} s; free are now "
                f"{ray.available_resources()}. Is another job running on this Ray cluster?"
            )

    def options(self, seat: Seat) -> dict[str, Any]:
        """Options of a rank's Ray actor."""
        return {
            "num_cpus": 0,
            "num_gpus": GPU_SHARE if self.has_gpus else 0,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(self._nodes[seat.node], seat.slots[0]),
        }

    def visible_devices(self, seat: Seat) -> str | None:
        """CUDA_VISIBLE_DEVICES of a rank with several GPUs; None where Ray sets it, as it does for a single one."""
        if not self.has_gpus or len(seat.slots) == 1:
            return None
        node = self._nodes[seat.node]
        ids = [
            _gpu_ids.options(scheduling_strategy=PlacementGroupSchedulingStrategy(node, slot)).remote()
            for slot in seat.slots
        ]
        return ",".join(str(gpu) for (gpu,) in ray.get(ids))

    def release(self) -> None:
        """Give the slots back; workers that still stand on them are killed."""
        for node in self._nodes:
            remove_placement_group(node)

    def _check_counts(self) -> None:
        kind, per_slot = ("GPU", 1.0) if self.has_gpus else ("CPU", SLOT_CPUS)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        counts = [(node["NodeManagerAddress"], node["Resources"].get(kind, 0.0)) for node in nodes]
        if sum(count >= per_slot * self.slots_per_node for _, count in counts) < self.num_nodes:
            there = ", ".join(f"{address} with {count:g} {kind}(s)" for address, count in counts)
            raise RuntimeError(
                f"The run needs {self._request()}, but the Ray cluster has: {there}. "
                "Set trainer.nnodes and trainer.n_gpus_per_node to what there is."
            )

    def _request(self) -> str:
        what = "GPU(s)" if self.has_gpus else "CPU process(es)"
        return f"{self.num_nodes} node(s) with {self.slots_per_node} {what} each"


def _different_from(taken: Sequence[PlacementGroup]) -> dict[str, str]:
    """Selects nodes that hold none of these groups: two groups of a few slots may well fit into one large node."""
    places = [placement_group_table(group)["bundles_to_node_id"] for group in taken]
    ids = sorted({node_id for place in places for node_id in place.values()})
    return {NODE_ID: f"!in({','.join(ids)})"} if ids else {}


@ray.remote(num_cpus=0, num_gpus=0.01)
def _gpu_ids() -> Sequence[int | str]:
    """Which GPU the slot is."""
    return ray.get_gpu_ids()
