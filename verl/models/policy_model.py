"""A causal language model whose forward ends in a function of your own instead of in logits.

Logits of a whole micro-batch ([B, T, V]) are the largest tensor of training, so the model never makes them: it returns
what `fn(hidden, head)` makes of the hidden states at the response positions and of the output head. `fn` runs INSIDE
the forward of the FSDP root, which is the point: there, and only there, the head is one whole plain tensor, gathered
by FSDP, and its gradient is reduced as any other parameter's. Calling `unshard()` and using the head outside a forward
gives wrong gradients on two ranks without any error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from verl.algorithms.head import Head, head_map
from verl.models.packing import Pack

Result = TypeVar("Result")


class PolicyModel(nn.Module):
    """Wraps a Hugging Face causal language model, kept as `lm`; parameter names are its own behind `lm.`.

    Args:
        lm: the model.
        reshard_after_forward: how its layers were sharded, if they were: whether FSDP frees their gathered weights
            between forward and backward.
    """

    def __init__(self, lm: PreTrainedModel, reshard_after_forward: bool = True) -> None:
        super().__init__()
        self.lm = lm
        self.reshard_after_forward = reshard_after_forward
        self._is_kept = False

    def forward(self, pack: Pack, fn: Callable[[Tensor, Head], Result]) -> Result:
        """Run the backbone and hand `fn` the hidden states that predict the response tokens, and the head.

        Args:
            pack: the micro-batch.
            fn: gets hidden [M, H], of this rank's rows (`Pack.states`), and the head. For a backward pass its result
                must hold the loss as a tensor, bare or in a tuple, list or dict: FSDP looks there for what to hook.
        """
        layout = {} if pack.layout is None else {"pack_layout": pack.layout}
        output = self.lm.get_decoder()(
            input_ids=pack.input_ids, position_ids=pack.position_ids, use_cache=False, **layout
        )
        hidden = output.last_hidden_state.flatten(0, 1)  # [N, H]
        return fn(pack.states(hidden), self.as_head(self.head.weight))

    @property
    def head(self) -> nn.Linear:
        """The output head; its weight [V, H] is a shard outside of a forward."""
        return cast(nn.Linear, self.lm.get_output_embeddings())

    def as_head(self, weight: Tensor) -> Head:
        """What makes logits of hidden states, with `weight` [V, H] as its matrix: the head's own, or a gathered one."""
        scale, soft_cap = head_map(self.lm.config)
        return Head(weight, scale, soft_cap)

    @torch.no_grad()
    def evaluate(self, pack: Pack, fn: Callable[[Tensor, Head], Result]) -> Result:
        """`forward` without gradient. The result must not hold the head itself: it is freed again afterwards.

        Without the explicit reshard FSDP would keep gathered weights (the root's always) for a backward that never
        comes, and the next forward would use them even if the weights had changed in between.
        """
        result = self(pack, fn)
        if not self._is_kept:
            self._reshard()
        return result

    @contextmanager
    def kept_gathered(self) -> Iterator[None]:
        """Gather each weight at most once until the end, however many forwards, evaluations and backwards follow.

        Costs the memory of the whole model in the type of the forward, beside the shards. Until the end the weights
        must not change, and `parameters()` may give gathered copies instead of shards: no optimizer step, no average,
        no exchange of adapters, no gathering of weights one by one. Gradients come as always: reduced into the shards
        by the last backward of an accumulation. Nests, and does nothing on a model that is not sharded.
        """
        if self._is_kept:
            yield
            return
        self._is_kept = True
        self._set_resharding(after_forward=False, after_backward=False)
        try:
            yield
        finally:
            self._is_kept = False
            self._set_resharding(after_forward=self.reshard_after_forward, after_backward=True)
            self._reshard()

    def _set_resharding(self, after_forward: bool, after_backward: bool) -> None:
        if isinstance(self, FSDPModule):
            self.set_reshard_after_forward(after_forward)
            self.set_reshard_after_forward(False, recurse=False)  # the root's, see `verl.models.sharding`
            self.set_reshard_after_backward(after_backward)

    def _reshard(self) -> None:
        for module in self.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
