"""Who gets which GPU. Ray only counts GPUs, so two pretended ones (see conftest) do."""

import pytest
from toy_worker import Toy

from verl.config.placement import Seat


@pytest.fixture
def pool_cls(ray_runtime):
    import ray

    from verl.single_controller.resources import ResourcePool

    if ray.cluster_resources().get("GPU", 0) < 2:
        pytest.skip("needs two GPUs, or none to pretend two")
    return ResourcePool


@pytest.fixture
def two_gpus(pool_cls):
    pool = pool_cls(num_nodes=1, slots_per_node=2, has_gpus=True)
    yield pool
    pool.release()


def devices(group):
    found = [environment["CUDA_VISIBLE_DEVICES"] for environment in group.environment("CUDA_VISIBLE_DEVICES")]
    group.shutdown()
    return found


def test_equal_ranks_of_two_roles_share_a_gpu(two_gpus):
    from verl.single_controller.ray_group import RayWorkerGroup

    actor, engine = (RayWorkerGroup(role, Toy, num_ranks=2, pool=two_gpus) for role in ("actor", "engine"))
    of_actor, of_engine = devices(actor), devices(engine)
    assert of_actor == of_engine
    assert sorted(of_actor) == ["0", "1"]


def test_an_engine_with_two_gpus_sees_both(two_gpus):
    from verl.single_controller.ray_group import RayWorkerGroup

    engine = RayWorkerGroup("engine", Toy, pool=two_gpus, seats=[Seat(0, (0, 1))])
    assert sorted(devices(engine)[0].split(",")) == ["0", "1"]


@pytest.mark.parametrize(("num_nodes", "slots", "has_gpus"), [(1, 3, True), (2, 1, True), (2, 1, False)])
def test_counts_are_checked_before_anything_starts(pool_cls, num_nodes, slots, has_gpus):
    what = "GPU" if has_gpus else "CPU process"
    request = rf"needs {num_nodes} node\(s\) with {slots} {what}"
    with pytest.raises(RuntimeError, match=request + r".* has: 127\.0\.0\.1 with"):
        pool_cls(num_nodes, slots, has_gpus)


def test_ranks_on_a_cpu_share_few_cores_and_slots(pool_cls):
    from verl.single_controller.ray_group import RayWorkerGroup

    pool = pool_cls(num_nodes=1, slots_per_node=4, has_gpus=False)
    group = RayWorkerGroup("actor", Toy, num_ranks=4, pool=pool)
    crowd = RayWorkerGroup("rollout", Toy, num_ranks=5, pool=pool, seats=[Seat(0, (1,))] * 5)
    assert group.local_ranks() == [0, 1, 2, 3]
    assert crowd.local_ranks() == [0, 1, 2, 3, 4]
    group.shutdown()
    crowd.shutdown()
    pool.release()
