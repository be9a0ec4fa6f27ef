"""Who gets which GPU. Ray only counts GPUs, so two pretended ones (see conftest) do."""

import pytest
from toy_worker import Toy

from verl.config.placement import Seat, in_order, place
from verl.config.root import TrainerConfig
from verl.types import InputError


@pytest.fixture
def pool_cls(ray_runtime):
    import ray

    from verl.single_controller.resources import ResourcePool

    if ray.cluster_resources().get("GPU", 0) < 2:
        pytest.skip("needs two GPUs, or none to pretend two")
    return ResourcePool


@pytest.fixture
def two_gpus(pool_cls):
    pool = pool_cls([2], has_gpus=True)
    yield pool
    pool.release()


def devices(group):
    found = [environment["CUDA_VISIBLE_DEVICES"] for environment in group.environment("CUDA_VISIBLE_DEVICES")]
    group.shutdown()
    return found


def test_equal_ranks_of_two_roles_share_a_gpu(two_gpus):
    from verl.single_controller.ray_group import RayWorkerGroup

    actor, engine = (
        RayWorkerGroup(role, Toy, num_ranks=2, pool=two_gpus, seats=in_order(2, 2)) for role in ("actor", "engine")
    )
    of_actor, of_engine = devices(actor), devices(engine)
    assert of_actor == of_engine
    assert sorted(of_actor) == ["0", "1"]


def test_an_engine_with_two_gpus_sees_both(two_gpus):
    from verl.single_controller.ray_group import RayWorkerGroup

    engine = RayWorkerGroup("engine", Toy, pool=two_gpus, seats=[Seat(0, (0, 1))])
    assert sorted(devices(engine)[0].split(",")) == ["0", "1"]


@pytest.mark.parametrize("has_gpus", [True, False])
def test_what_ray_has_is_what_can_be_placed(pool_cls, has_gpus):
    import ray

    from verl.single_controller.resources import machines

    (there,) = machines(has_gpus)
    assert there.name == "127.0.0.1"
    # a fifth of a core for each process on the CPU
    assert there.num_slots == (ray.cluster_resources()["GPU"] if has_gpus else 5 * ray.cluster_resources()["CPU"])
    with pytest.raises(InputError, match=rf"There is 127\.0\.0\.1 with {there.num_slots} .* Missing: 1 machine"):
        place(TrainerConfig(n_gpus_per_node=there.num_slots + 1), None, [there], has_gpus)


def test_ranks_on_a_cpu_share_few_cores_and_slots(pool_cls):
    from verl.single_controller.ray_group import RayWorkerGroup

    pool = pool_cls([4], has_gpus=False)
    group = RayWorkerGroup("actor", Toy, num_ranks=4, pool=pool, seats=in_order(4, 4))
    crowd = RayWorkerGroup("rollout", Toy, num_ranks=5, pool=pool, seats=[Seat(0, (1,))] * 5)
    assert group.local_ranks() == [0, 1, 2, 3]
    assert crowd.local_ranks() == [0, 1, 2, 3, 4]
    group.shutdown()
    crowd.shutdown()
    pool.release()
