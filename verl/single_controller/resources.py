"""Which rank runs on which machine and GPU: what Ray has, and a run's slots in it.

Who has which slot is the placement's business (`verl.config.placement`); roles that have the same slot share its GPU.
Slots of one machine are one Ray placement group, so other jobs cannot get between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from verl.config.placement import Machine, Seat

PROCESS_CPUS = 0.05
"""What a worker outside of a pool books, for Ray's bookkeeping only: laptops run more processes than cores."""
SLOT_CPUS = 4 * PROCESS_CPUS
"""What a slot books, for all workers on it."""
GPU_SHARE = 0.45
"""What a role books of each of its GPUs: two roles share one."""
NODE_ID = "ray.io/node-id"
"""The label that Ray gives every node."""
PLACEMENT_TIMEOUT = 120.0  # seconds


def machines(has_gpus: bool) -> list[Machine]:
    """The machines of the Ray cluster, with all their slots, also those that are in use."""
    kind, per_slot = ("GPU", 1.0) if has_gpus else ("CPU", SLOT_CPUS)
    found = sorted(
        (node["NodeManagerAddress"], node["Resources"].get(kind, 0.0)) for node in ray.nodes() if node["Alive"]
    )
    return [Machine(address, int(count / per_slot + 1e-6)) for address, count in found]


def alive_nodes() -> set[str]:
    """Ray's ids of the machines that it can reach. One that was lost stays among them for some 15 s."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class ResourcePool:
    """The slots of a run.

    Args:
        slots_per_node: slots on each machine (`Placement.slots_per_node`).
        has_gpus: whether a slot is a GPU.

    Raises:
        RuntimeError: Ray does not give them, because others use them.
    """

    def __init__(self, slots_per_node: Sequence[int], has_gpus: bool) -> None:
        self.slots_per_node = tuple(slots_per_node)
        self.has_gpus = has_gpus
        slot = {"CPU": SLOT_CPUS, **({"GPU": 1.0} if has_gpus else {})}
        self._nodes: dict[int, PlacementGroup] = {}
        self._addresses: dict[int, str] = {}
        # What asks for most comes first: whatever machine Ray takes for it, the rest needs no larger one.
        for node in sorted(range(len(slots_per_node)), key=lambda node: -slots_per_node[node]):
            count, others = slots_per_node[node], _different_from(list(self._nodes.values()))
            group = placement_group([slot] * count, strategy="STRICT_PACK", bundle_label_selector=[others] * count)
            self._nodes[node] = group
            if group.wait(PLACEMENT_TIMEOUT):
                self._addresses[node] = _address_of(group)
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

    def lost_machine(self, seat: Seat) -> str | None:
        """Address of the seat's machine if it is gone and Ray has no other for it: whoever is put there never starts.

        None for a machine that is there, and for one that is gone for less than `alive_nodes` notices.
        """
        homes = placement_group_table(self._nodes[seat.node])["bundles_to_node_id"]
        return None if homes.get(seat.slots[0]) in alive_nodes() else self._addresses[seat.node]

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
        for group in self._nodes.values():
            remove_placement_group(group)

    def _request(self) -> str:
        return f"{' + '.join(map(str, self.slots_per_node))} {'GPU(s)' if self.has_gpus else 'CPU process(es)'}"


def _different_from(taken: Sequence[PlacementGroup]) -> dict[str, str]:
    """Selects nodes that hold none of these groups: two groups of a few slots may well fit into one large node."""
    places = [placement_group_table(group)["bundles_to_node_id"] for group in taken]
    ids = sorted({node_id for place in places for node_id in place.values()})
    return {NODE_ID: f"!in({','.join(ids)})"} if ids else {}


def _address_of(group: PlacementGroup) -> str:
    """Of the machine that Ray has put the group on."""
    node_id = placement_group_table(group)["bundles_to_node_id"][0]
    return next(node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == node_id)


@ray.remote(num_cpus=0, num_gpus=0.01)
def _gpu_ids() -> Sequence[int | str]:
    """Which GPU the slot is."""
    return ray.get_gpu_ids()
