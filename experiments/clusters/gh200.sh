# shellcheck shell=bash disable=SC2034  # read by lib/submit.sh
# Nodes of four GH200 with the container plug-in that reads EDF files: 288 cores and 460 GB a node, environment `sdpo`
# (docker/README.md shows its file). Use: CLUSTER_FILE=experiments/clusters/gh200.sh CLUSTER_ACCOUNT=... bash experiments/...

CLUSTER_PARTITION=${CLUSTER_PARTITION-normal}
CLUSTER_ENVIRONMENT=${CLUSTER_ENVIRONMENT-sdpo}
CLUSTER_GPUS_PER_NODE=${CLUSTER_GPUS_PER_NODE-4}
CLUSTER_MEM=${CLUSTER_MEM-460000}
CLUSTER_CPUS_PER_TASK=${CLUSTER_CPUS_PER_TASK-288}
