import pickle
import warnings

import pytest
import torch

from verl.weights import Bucket, buckets, digest


def named(*sizes, dtype=torch.float32):
    return [(f"w{i}", torch.arange(size, dtype=dtype)) for i, size in enumerate(sizes)]


def test_buckets_keep_order_and_stay_within_their_size():
    cut = list(buckets(named(2, 3, 4, 20, 1), bucket_bytes=24))
    assert [bucket.names for bucket in cut] == [["w0", "w1"], ["w2"], ["w3"], ["w4"]]
    assert [bucket.num_bytes for bucket in cut] == [20, 16, 80, 4]
    assert list(buckets([], 10)) == []


def test_buckets_read_no_further_than_needed():
    seen = []
    lazy = (seen.append(name) or (name, tensor) for name, tensor in named(4, 4, 4, 4))
    next(buckets(lazy, bucket_bytes=16))
    assert seen == ["w0", "w1"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_a_bucket_survives_pickling_bit_by_bit(dtype):
    bucket = Bucket(["a", "scalar", "t"], [torch.ones(2, 3, dtype=dtype), torch.tensor(2, dtype=dtype), named(3)[0][1]])
    out_of_band = []
    data = pickle.dumps(bucket, protocol=5, buffer_callback=out_of_band.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        received = pickle.loads(data, buffers=[bytes(b.raw()) for b in out_of_band])  # read-only, as from shared memory
    assert received.names == bucket.names and len(data) < 1500
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(received.tensors, bucket.tensors, strict=True))
    assert digest(received) == digest(bucket)


@pytest.mark.parametrize(
    "other",
    [
        Bucket(["b"], [torch.tensor([[1.0, 2.0]])]),
        Bucket(["a"], [torch.tensor([[1.0, 2.0000002]])]),
        Bucket(["a"], [torch.tensor([[2.0, 1.0]])]),
        Bucket(["a"], [torch.tensor([1.0, 2.0])]),
        Bucket(["a"], [torch.tensor([[1.0, 2.0]]).view(torch.int32)]),
    ],
    ids=["name", "last bit", "order", "shape", "type"],
)
def test_digest_sees_every_change(other):
    assert digest(other) != digest(Bucket(["a"], [torch.tensor([[1.0, 2.0]])]))
