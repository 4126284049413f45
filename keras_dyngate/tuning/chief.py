"""The chief of a search that several processes share, as keras-tuner has it.

Its address is in the environment: `KERASTUNER_TUNER_ID="chief"`, `KERASTUNER_ORACLE_IP`,
`KERASTUNER_ORACLE_PORT`; of a worker the same, with an id of its own.
"""

import os
import time
from concurrent import futures
from typing import Any

LOOK = 0.2  # seconds from one look at who is at work to the next
GRACE = 10.0  # seconds for the last answers to be sent


def serve(oracle: Any) -> None:
    """Hand out trials until there are no more, and every worker has been told so.

    keras-tuner's own loop looks every twenty seconds, and does not wait for its last
    answer to be sent: a worker that misses it waits an hour.

    Args:
        oracle: A `SafeOracle`.
    """
    import grpc  # type: ignore[import-untyped]
    from keras_tuner.src import protos
    from keras_tuner.src.distribute.oracle_chief import OracleServicer

    servicer = OracleServicer(oracle)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    protos.get_service_grpc().add_OracleServicer_to_server(servicer, server)
    where = (os.environ[f"KERASTUNER_ORACLE_{part}"] for part in ("IP", "PORT"))
    server.add_insecure_port(":".join(where))
    server.start()
    try:
        while not servicer.stop_triggered or oracle.ongoing_trials or oracle.tuner_ids:
            time.sleep(LOOK)
    finally:
        server.stop(GRACE).wait()
