"""The task of a process from TF_CONFIG, Open MPI or SLURM: roles, addresses, and what is wrong with the variables."""

import json
import os

import pytest

from tfps.cluster.environments import mpi
from tfps.cluster.environments.find import find_task
from tfps.cluster.environments.roles import RoleCounts, assign_roles
from tfps.cluster.environments.slurm import expand_counts, expand_nodes
from tfps.errors import ConfigError

# Rank 3 of `srun --nodes=2 --ntasks=6`, as SLURM 22.05 sets it.
STEP = {
    "SLURM_STEP_NUM_TASKS": "6",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_TASKS_PER_NODE": "3(x2)",
    "SLURM_PROCID": "3",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}


@pytest.fixture(autouse=True)
def no_process_manager(monkeypatch):
    """The tests themselves may run in a job."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "OMPI_", "PMI_")) or name in ("TF_CONFIG", "TFPS_FIRST_PORT"):
            monkeypatch.delenv(name)


@pytest.fixture
def environment(monkeypatch):
    """Sets variables: `environment(STEP, SLURM_PROCID="9")`; None leaves one out."""

    def set_variables(base, **changes):
        for name, value in {**base, **changes}.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    return set_variables


@pytest.fixture
def exchanged(monkeypatch):
    """The addresses that the processes of `mpirun` exchange."""
    addresses = ["a:1", "a:2", "b:1", "b:2"]
    monkeypatch.setattr(mpi, "_run_exchange", lambda address: json.dumps(addresses))
    mpi._exchange_addresses.cache_clear()
    yield addresses
    mpi._exchange_addresses.cache_clear()


def tf_config(address="n2:5", workers=4):
    cluster = {"chief": ["x:1"], "ps": [address], "worker": [f"y:{port}" for port in range(1, workers + 1)]}
    return json.dumps({"cluster": cluster, "task": {"type": "ps", "index": 0}})


# Roles.


@pytest.mark.parametrize(
    ("hosts", "num_ps", "letters"),
    [
        ("aaa", 1, "cpw"),
        ("aaabbb", 1, "cpwwww"),
        ("aaabbb", 2, "cpwpww"),
        ("aaabbb", 3, "cpppww"),
        ("abcd", 1, "cpww"),  # the chief's host has no other rank
        ("abab", 2, "cppw"),  # cyclic
        ("aaaabb", 4, "cppwpp"),
    ],
)
def test_servers_are_spread_over_hosts(hosts, num_ps, letters):
    roles = assign_roles(hosts, num_ps)
    assert "".join(job[0] for job, _ in roles) == letters
    for job in ("chief", "ps", "worker"):
        indices = [index for name, index in roles if name == job]
        assert indices == list(range(len(indices)))


@pytest.mark.parametrize(
    ("size", "counts", "num_ps"),
    [(3, {}, 1), (4, {}, 1), (7, {}, 2), (100, {}, 33), (7, {"num_ps": 5}, 5), (7, {"num_workers": 5}, 1)],
)
def test_default_counts(size, counts, num_ps):
    assert RoleCounts(**counts).divide(size, "SIZE") == num_ps


@pytest.mark.parametrize("counts", [(6, None), (None, 6), (2, 3), (3, 4)])
def test_counts_that_do_not_fit_the_tasks(counts):
    with pytest.raises(ConfigError, match=rf"`--ps` and `--workers` must fit .* = 7 \(SIZE\).*--ps {counts[0]}, "):
        RoleCounts(*counts).divide(7, "SIZE")


# SLURM.


def test_node_lists():
    assert expand_nodes("rack[1-2]node[09-10,12],login") == [
        *("rack1node09", "rack1node10", "rack1node12", "rack2node09", "rack2node10", "rack2node12", "login")
    ]
    assert expand_counts("2(x3),1") == [2, 2, 2, 1]


def test_a_step_is_a_cluster(environment):
    environment(STEP)
    task = find_task(RoleCounts(num_ps=2))
    port = 10_000 + 7 * 64
    assert task.name == "ps 1"
    assert task.cluster.as_dict() == {
        "chief": [f"n1:{port}"],
        "ps": [f"n1:{port + 1}", f"n2:{port + 3}"],
        "worker": [f"n1:{port + 2}", f"n2:{port + 4}", f"n2:{port + 5}"],
    }


def test_many_tasks_have_the_ports_of_their_numbers_on_a_node(environment):
    variables = {"SLURM_STEP_NUM_TASKS": "66", "SLURM_STEP_TASKS_PER_NODE": "33(x2)", "SLURM_PROCID": "65"}
    environment(STEP, **variables, SLURM_LOCALID="32")
    assert find_task().endpoint.dial == f"n2:{10_000 + 7 * 64 + 32}"


@pytest.mark.parametrize("distribution", ["cyclic", "cyclic:block", "cyclic,NoPack"])
def test_ranks_may_be_dealt_out_to_nodes_in_turn(environment, distribution):
    environment(STEP, SLURM_DISTRIBUTION=distribution, SLURM_NODEID="1", SLURM_LOCALID="1")
    workers = find_task().cluster.as_dict()["worker"]
    assert [address.partition(":")[0] for address in workers] == ["n2", "n2", "n1", "n2"]


def test_on_one_node_no_name_is_needed(environment):
    environment(STEP, SLURM_STEP_NODELIST="n1", SLURM_STEP_TASKS_PER_NODE="6", SLURM_NODEID="0", SLURM_LOCALID="3")
    assert find_task().endpoint.dial == f"127.0.0.1:{10_000 + 7 * 64 + 3}"


@pytest.mark.parametrize(
    ("variables", "ports"),
    [
        ({"SLURM_STEP_ID": "1"}, [*range(18832, 18838)]),
        ({"SLURM_STEP_RESV_PORTS": "12001-12002,12007"}, [12001, 12002, 12007]),
        ({"SLURM_STEP_RESV_PORTS": "12001-12003", "TFPS_FIRST_PORT": "9000"}, [*range(9000, 9006)]),
    ],
)
def test_ports_of_a_step(environment, variables, ports):
    environment(STEP, **variables)
    addresses = [address for of_job in find_task().cluster.as_dict().values() for address in of_job]
    assert sorted({int(address.partition(":")[2]) for address in addresses}) == ports


def test_ports_of_jobs_that_follow_one_another_differ(environment):
    ports = set()
    for job in range(100):
        for step in range(2):
            environment(STEP, SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step))
            ports.add(find_task().endpoint.dial)
    assert len(ports) == 200


@pytest.mark.parametrize("variables", [{}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "6", "SLURM_NODELIST": "n[1-2]"}])
def test_a_batch_script_is_no_step(environment, variables):
    environment(variables)
    assert find_task() is None


def test_one_task_alone_is_a_program_of_one_machine(environment):
    environment({"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"})
    assert find_task() is None


@pytest.mark.parametrize("name", [name for name in STEP if name != "SLURM_STEP_TASKS_PER_NODE"])
def test_half_a_step(environment, name):
    environment(STEP, **{name: None})
    with pytest.raises(ConfigError, match=f"`{name}` must be set, because other variables of SLURM are"):
        find_task()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SLURM_PROCID": "6"}, r"`SLURM_PROCID` must be an integer from 0 to 5.*Received: '6'"),
        ({"SLURM_PROCID": "-1"}, "`SLURM_PROCID` must be an integer from 0 to 5"),
        ({"SLURM_NODEID": "2"}, "`SLURM_NODEID` must be an integer from 0 to 1"),
        ({"SLURM_STEP_NUM_TASKS": "many"}, "`SLURM_STEP_NUM_TASKS` must be an integer of at least 1"),
        ({"SLURM_STEP_NODELIST": "n[1-2"}, "`SLURM_STEP_NODELIST` must be a list of nodes"),
        ({"SLURM_STEP_NODELIST": "n[2-1]"}, "`SLURM_STEP_NODELIST` must have ranges .* not '2-1'"),
        ({"SLURM_STEP_NODELIST": "n[1-3]"}, "`SLURM_STEP_TASKS_PER_NODE` must have a number for each of the 3 nodes"),
        ({"SLURM_STEP_TASKS_PER_NODE": "3,2"}, "`SLURM_STEP_TASKS_PER_NODE` must have .* 6 in all"),
        ({"SLURM_STEP_TASKS_PER_NODE": "3x2"}, "`SLURM_STEP_TASKS_PER_NODE` must be a list of numbers"),
        ({"SLURM_DISTRIBUTION": "plane"}, "`SLURM_DISTRIBUTION` must be block or cyclic .*Received: 'plane'"),
        (
            {"SLURM_LOCALID": "1"},
            "`SLURM_DISTRIBUTION` must be .* rank 3 on node 1 as its task 0.*SLURM_LOCALID 1",
        ),
        ({"SLURM_STEP_RESV_PORTS": "12001-12002"}, "`SLURM_STEP_RESV_PORTS` must have .* srun --resv-ports=3"),
        ({"TFPS_FIRST_PORT": "0"}, "TFPS_FIRST_PORT must be a port from 1 to 65535. Received: '0'"),
        ({"TFPS_FIRST_PORT": "65531"}, "`TFPS_FIRST_PORT` must be at most 65530.*Received: 65531"),
        (
            {"TF_CONFIG": tf_config(workers=3)},
            "TF_CONFIG must list a task for each of the 6 tasks of SLURM.*: 5",
        ),
        ({"TF_CONFIG": tf_config("n1:5")}, "TF_CONFIG must name a task of this host, which is 'n2'.*ps 0 at n1:5"),
    ],
)
def test_wrong_variables_of_a_step(environment, variables, words):
    environment(STEP, **variables)
    with pytest.raises(ConfigError, match=words):
        find_task()


@pytest.mark.parametrize("variables", [STEP, {**STEP, "SLURM_DISTRIBUTION": "plane"}, {}])
def test_tf_config_comes_first(environment, variables):
    environment(variables, TF_CONFIG=tf_config())
    assert find_task().endpoint.dial == "n2:5"


# Open MPI.


def test_processes_of_mpirun_are_a_cluster(environment, exchanged):
    environment(MPIRUN)
    task = find_task()
    assert task.name == "worker 0"
    assert task.cluster.as_dict() == {"chief": ["a:1"], "ps": ["a:2"], "worker": ["b:1", "b:2"]}


def test_daemons_of_mpirun_in_a_slurm_job_are_no_tasks(environment, exchanged):
    environment(STEP | MPIRUN)
    assert find_task().name == "worker 0"


def test_processes_of_mpirun_exchange_once(environment, exchanged):
    environment(MPIRUN)
    first = find_task()
    exchanged.reverse()
    assert find_task() == first


def test_counts_are_checked_before_the_exchange(environment, monkeypatch):
    environment(MPIRUN)
    monkeypatch.setattr(mpi, "_run_exchange", lambda address: pytest.fail("exchanged"))
    with pytest.raises(ConfigError, match=r"must fit the tasks.* = 4 \(OMPI_COMM_WORLD_SIZE\)"):
        find_task(RoleCounts(num_ps=3))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OMPI_COMM_WORLD_SIZE": None}, "`OMPI_COMM_WORLD_SIZE` must be set, because other variables of Open MPI are"),
        ({"OMPI_COMM_WORLD_RANK": None}, "`OMPI_COMM_WORLD_RANK` must be set"),
        ({"OMPI_COMM_WORLD_RANK": "4"}, "`OMPI_COMM_WORLD_RANK` must be an integer from 0 to 3"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "`OMPI_COMM_WORLD_SIZE` must be at least 3"),
        ({"TF_CONFIG": tf_config(workers=1)}, "TF_CONFIG must list a task for each of the 4 tasks of Open MPI"),
    ],
)
def test_wrong_variables_of_mpirun(environment, variables, words):
    environment(MPIRUN, **variables)
    with pytest.raises(ConfigError, match=words):
        find_task()


def test_another_mpi_is_refused(environment):
    environment({"PMI_RANK": "0", "PMI_SIZE": "4"})
    with pytest.raises(ConfigError, match="`PMI_SIZE` must be 1 or unset.*Received: '4'. Valid .* TF_CONFIG"):
        find_task()
