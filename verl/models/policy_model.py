"""A causal language model whose forward ends in a function of your own instead of in logits.

Logits of a whole micro-batch ([B, T, V]) are the largest tensor of training, so the model never makes them: it returns
what `fn(hidden, head)` makes of the hidden states at the response positions and of the output head. `fn` runs INSIDE
the forward of the FSDP root, which is the point: there, and only there, the head is one whole plain tensor, gathered
by FSDP, and its gradient is reduced as any other parameter's. Calling `unshard()` and using the head outside a forward
gives wrong gradients on two ranks without any error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from verl.models.collate import Sequences

Result = TypeVar("Result")


class PolicyModel(nn.Module):
    """Wraps a Hugging Face causal language model, kept as `lm`; parameter names are its own behind `lm.`."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, sequences: Sequences, fn: Callable[[Tensor, Tensor], Result]) -> Result:
        """Run the backbone and hand `fn` the hidden states that predict the response, and the head.

        Args:
            sequences: the micro-batch.
            fn: gets hidden [B, T, H] and head [V, H]. For a backward pass its result must hold the loss as a tensor,
                bare or in a tuple, list or dict: FSDP looks there for what to hook.
        """
        output = self.lm.get_decoder()(input_ids=sequences.input_ids, use_cache=False)
        hidden = output.last_hidden_state  # [B, S, H]
        index = sequences.response_positions[:, :, None].expand(-1, -1, hidden.shape[-1])
        return fn(hidden.gather(1, index), self.head.weight)

    @property
    def head(self) -> nn.Linear:
        """The output head; its weight [V, H] is a shard outside of a forward."""
        return cast(nn.Linear, self.lm.get_output_embeddings())

    @torch.no_grad()
    def evaluate(self, sequences: Sequences, fn: Callable[[Tensor, Tensor], Result]) -> Result:
        """`forward` without gradient. The result must not hold the head itself: it is freed again afterwards.

        Without the explicit reshard FSDP would keep gathered weights (the root's always) for a backward that never
        comes, and the next forward would use them even if the weights had changed in between.
        """
        result = self(sequences, fn)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return result
