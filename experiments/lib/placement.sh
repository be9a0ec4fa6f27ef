# shellcheck shell=bash
# Where a run is: how many nodes and GPUs it gets, as overrides.

ENGINE_GPUS= # of an engine; empty: as in the presets (`one_engine` sets it)

visible_gpus() { # how many GPUs a run here may use
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '[^[:space:]]'
  else
    nvidia-smi -L 2>/dev/null | grep -c '^GPU'
  fi || true
}

gpus_per_node() { # for the chosen mode; at least 1, because without GPU that is the number of ranks on the CPU
  local count=${CLUSTER_GPUS_PER_NODE:-1}
  if [[ $MODE == local ]]; then count=${N_GPUS_PER_NODE:-$(visible_gpus)}; fi
  [[ $count =~ ^([A-Za-z0-9._-]+:)?[0-9]+$ ]] || refuse "the number of GPUs per node is '$count' (allowed: a whole number, or TYPE:NUMBER)"
  count=${count##*:}
  echo $((count > 0 ? count : 1))
}

placement() { # overrides that say where a run is; engines span ENGINE_GPUS, or two as in the presets, if that divides a node
  local gpus nodes=1
  gpus=$(gpus_per_node)
  if [[ $MODE == submit ]]; then nodes=${CLUSTER_NODES:-1}; fi
  echo "trainer.nnodes=$nodes"
  echo "trainer.n_gpus_per_node=$gpus"
  echo "actor_rollout_ref.rollout.tensor_model_parallel_size=${ENGINE_GPUS:-$((gpus % 2 == 0 ? 2 : 1))}"
}
