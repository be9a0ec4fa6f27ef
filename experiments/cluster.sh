# shellcheck shell=bash disable=SC2034  # read by lib/submit.sh
# The facts of your cluster: the only file to edit. Nothing else but clusters/ names one.
#
# Each value can also come from the environment (CLUSTER_TIME=1:00:00 bash experiments/...), or from a file that sets some
# of them (CLUSTER_FILE=experiments/clusters/gh200.sh). The environment wins, then that file, then this one.
# An empty value leaves its flag out, so these defaults are accepted by any Slurm, also one without GPUs.

CLUSTER_JOB_NAME=${CLUSTER_JOB_NAME-rlvr}
CLUSTER_ACCOUNT=${CLUSTER_ACCOUNT-}             # --account; empty: your default account
CLUSTER_PARTITION=${CLUSTER_PARTITION-}         # --partition; empty: the cluster's default
CLUSTER_TIME=${CLUSTER_TIME-12:00:00}           # --time: a job that reaches it goes on in the next one, see below
CLUSTER_NODES=${CLUSTER_NODES-1}                # --nodes, and trainer.nnodes
CLUSTER_GPUS_PER_NODE=${CLUSTER_GPUS_PER_NODE-} # --gpus-per-node (4, or a100:4), and trainer.n_gpus_per_node; empty: no GPU
CLUSTER_CPUS_PER_TASK=${CLUSTER_CPUS_PER_TASK-} # --cpus-per-task; one task per node
CLUSTER_MEM=${CLUSTER_MEM-}                     # --mem: per node, in megabytes or with a unit (400G)
CLUSTER_FLAGS=${CLUSTER_FLAGS-}                 # any other flags of sbatch, separated by blanks

# Containers, see docker/README.md. All are options of plug-ins; a Slurm without the plug-in refuses them.
CLUSTER_ENVIRONMENT=${CLUSTER_ENVIRONMENT-} # --environment of sbatch: an EDF file, which holds its mounts too
CLUSTER_CONTAINER=${CLUSTER_CONTAINER-}     # --container-image of srun (pyxis): a .sqsh file or an image
CLUSTER_MOUNTS=${CLUSTER_MOUNTS-}           # --container-mounts of srun (pyxis): /host:/container,...
CLUSTER_SRUN_FLAGS=${CLUSTER_SRUN_FLAGS-}   # any other flags of srun, separated by blanks

# So many seconds before the walltime a job writes a checkpoint and goes back into the queue: more than a step with its
# validation and a save take. Empty: it does not.
CLUSTER_SIGNAL_SECONDS=${CLUSTER_SIGNAL_SECONDS-600}

CLUSTER_LOG_DIR=${CLUSTER_LOG_DIR-logs/slurm}   # %j.log and %j.err of each job
CLUSTER_DATA_DIR=${CLUSTER_DATA_DIR-datasets}   # where the data sets are
CLUSTER_SETUP=${CLUSTER_SETUP-}                 # shell commands at the start of a job; what they export reaches all nodes
CLUSTER_OVERRIDES=${CLUSTER_OVERRIDES-}         # key=value for every run, separated by blanks (vars.ckpt_dir=/scratch/me)
WANDB_ENTITY=${WANDB_ENTITY-}                   # account of Weights & Biases; empty: your own
