"""A Ray cluster of two nodes with a core each, on this machine: prints its address and stands until its input ends.

A process of its own, because Ray keeps signal handlers and constants in the process that starts a cluster.
"""

import sys

from ray.cluster_utils import Cluster

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()
