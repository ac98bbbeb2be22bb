"""Every constant of the choice, with its source.

*Measured* are constants of `docs/scaling_constants.json`, and of `OneDeviceStrategy` and `MirroredStrategy` on a
machine of two cores: CPU time a step of the CTR-DNN and of dense models of 64 and 1,024 columns, with batches of 64 to
4,096.
*Assumed* are constants of hardware that nobody here has measured; the explanation says where they decide.
Predictions compare strategies on one machine. They do not predict the speed of another machine.
"""

# Memory.
HOST_PART = 0.9
"""The part of a host's memory that training may take. The rest is for the system and other programs."""
PROCESS_BYTES = 730 * 2**20
"""The memory of a process of TensorFlow and Keras without a model. Measured: the chief of the README's start table."""
SERVER_BYTES = 500_000_000
"""The memory of a parameter server without variables. Measured."""
CARD_RESERVE_BYTES, CARD_RESERVE_PART = 1_800 * 2**20, 0.15
"""What TensorFlow leaves to the driver and its libraries, in bytes, and at most as part of a card. Assumed."""
FIT_BORDER = 0.8
"""More than this part of the memory makes a fit a borderline: the count leaves out fragmentation and workspaces."""

# The decision.
TIE = 1.1
"""A faster strategy must be faster by this factor to be preferred to one that needs fewer processes."""
BORDER = 1.25
"""Two strategies whose figures differ by less than this factor are a borderline."""
UNSURE = 2.0
"""Predictions across hosts are right to a factor of two (docs/scaling.md), so bytes decide unless this is exceeded."""

# The work of a step on a CPU.
STEP_S = 0.2e-3
"""`fit` of Keras for each step of one device, without the model: many steps run in one call. Measured."""
REPLICATED_STEP_S = 1.8e-3
"""`fit` of Keras for each step of several replicas, without the model. Measured."""
OPERATION_S = 4e-6
"""An operation, without what it computes. Measured."""
UPDATE_OPERATIONS = 8
"""Operations of the optimizer for each variable. Measured."""
CORE_FLOPS = 90e9
"""Floating-point operations a second of a core in matrix products. Measured: float32, 256 to 1,024 columns."""
CORE_BYTES_S = 6e9
"""Bytes a second that a core reads or writes in operations on elements. Measured: Adam on 12.7 MB."""
ROW_S = 0.2e-6
"""A unique row: looking it up, summing its gradients and updating it and its slots. Measured."""
PASSES = 1
"""Passes over what operations write. Measured: about half of it stays in the caches of a core."""
PARALLEL = 0.95
"""The part of several cores that one process uses beside the serial part of a step. Measured with two cores."""
MOST_CORES = 16
"""More cores do not help one process with operations of this size. Assumed."""

# The work of a step on a card.
CARD_FLOPS = 10e12
CARD_BYTES_S = 500e9
CARD_OPERATION_S = 8e-6
CARD_LINK_BYTES_S = 50e9
"""The bytes a second between the cards of one host, each way. Assumed, as the three before."""

# All-reduce.
BANDWIDTH_BYTES_S = 1.25e9
"""The bandwidth between hosts, each way, if nothing says it: 10 Gbit/s. Assumed."""
LOOPBACK_BYTES_S = 1e9
"""The bytes a second between two processes of one host. Measured: dense variables of the CTR-DNN."""
DELAY_S = 0.1e-3
"""The one-way delay between hosts. Assumed, as in docs/scaling.md."""
REPLICA_STEP_S = 2e-3
"""What a step of several replicas costs beside the steps of the replicas. Measured."""

# Parameter servers, seconds of CPU. Half of docs/scaling_constants.json, whose machine was throttled: with these, a
# step of 512 examples of the CTR-DNN costs 25 ms in all. Measured: 23 ms in long epochs, 27 ms in epochs of 100 steps.
WORKER_STEP_S = 1.46e-3
WORKER_REQUEST_S = 0.77e-3
SERVER_REQUEST_S = 0.98e-3
SERVER_ROW_S = 0.11e-6
CHIEF_CLOSURE_S = 2.6e-3
CLOSURE_S = 2e-3
"""A closure, for its worker and the servers, without bytes."""
EXCHANGE_S_BYTE = 13.5e-3 / 3.45e6
"""A byte of the dense variables with slots, for worker and servers, both ways: 13.5 ms for 3.45 MB."""
DELAYS_STEP = 3.69
"""One-way delays of a step."""
EMBEDDED_WORKERS = 2
"""The workers of the default cluster on one machine, beside one server."""
