import pytest
import torch

from verl.models.device import choose_attention, choose_compute_dtype, choose_device

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def test_defaults_follow_the_device():
    assert choose_compute_dtype(None, CPU) == torch.float32
    assert choose_compute_dtype(None, CUDA) == torch.bfloat16
    assert choose_compute_dtype("fp32", CUDA) == torch.float32
    assert choose_device("cpu", 1) == CPU


def test_flash_attention_is_for_gpus_in_bf16(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose_attention(CUDA, torch.bfloat16) == "packed_varlen"
    assert choose_attention(CUDA, torch.float32) == choose_attention(CPU, torch.bfloat16) == "packed_sdpa"
    assert choose_attention(CUDA, torch.bfloat16, remove_padding=False) == "flash_attention_2"
    assert choose_attention(CPU, torch.bfloat16, remove_padding=False) == "sdpa"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert choose_attention(CUDA, torch.bfloat16) == "packed_sdpa"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_without_a_gpu_is_an_error():
    with pytest.raises(ValueError, match="no GPU"):
        choose_device("cuda", 0)
