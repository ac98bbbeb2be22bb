"""A second cluster, in a program of its own, because a program is connected to one cluster at a time.

The program waits for requests, so that starting it is paid for once. A request is a line of JSON on its standard input,
the answer a line on its standard output: the state of the model that was loaded, and its state one step later.
"""

import functools
import json
import os
import pathlib
import sys

import keras
import numpy as np

import tfps
from tests import programs
from tests.conformance import models
from tests.conformance.matrix import FORMATS, KINDS, MODES

ROOT = pathlib.Path(__file__).parents[2]


class Elsewhere:
    """The program, seen from the tests.

    Args:
        servers: of its cluster, which has one worker.
        folder: for its log.
    """

    def __init__(self, servers: int, folder: pathlib.Path) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "TF_CONFIG"}
        self._log = folder / f"{servers}.log"
        (requests, to_requests), (from_answers, answers) = os.pipe(), os.pipe()
        self._requests, self._answers = os.fdopen(to_requests, "w"), os.fdopen(from_answers)
        with self._log.open("w") as log:
            self._program = programs.start(
                ["-m", "tests.conformance.elsewhere", str(servers)],
                cwd=ROOT,
                env=environment | {"PYTHONPATH": str(ROOT)},
                stdin=requests,
                stdout=answers,
                stderr=log,
            )
        # The program has these ends.
        os.close(requests)
        os.close(answers)

    def load(self, folder: pathlib.Path, kind: str, mode: str, form: str) -> tuple[models.State, models.State]:
        """Loads what is saved in a folder; returns the state, and the state one step later."""
        self._requests.write(json.dumps([str(folder), kind, mode, form]) + "\n")
        self._requests.flush()
        answer = self._answers.readline()
        assert answer, f"the program has ended:\n{self._log.read_text()[-4000:]}"
        loaded, stepped = (dict(np.load(path)) for path in json.loads(answer))
        return loaded, stepped

    def close(self) -> None:
        """Ends the program, which must have found nothing wrong."""
        self._requests.close()
        assert self._program.wait(timeout=60) == 0, self._log.read_text()[-4000:]
        self._answers.close()


def serve(servers: int) -> None:
    """The program: answers requests until its input ends."""
    with tfps.ParameterServerStrategy(
        tfps.LocalCluster(num_ps=servers, num_workers=1), dense_tables_bytes=0
    ) as strategy:

        @functools.cache
        def other(kind: str, mode: str) -> keras.Model:
            # Restored into by one request after the other, so that it is traced once.
            return models.build(strategy, KINDS[kind], MODES[mode])

        for number, line in enumerate(sys.stdin):
            name, kind, mode, form = json.loads(line)
            folder = pathlib.Path(name)
            with strategy.scope():
                model = FORMATS[form].load(folder, functools.partial(other, kind, mode))
            paths = [str(folder / f"{servers}_servers_{number}_{moment}.npz") for moment in ("loaded", "stepped")]
            np.savez(paths[0], **models.state(model))
            np.savez(paths[1], **models.state(models.one_more_step(model)))
            print(json.dumps(paths), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
