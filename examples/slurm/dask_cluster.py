"""Workers in Slurm jobs by dask-jobqueue, encrypted; prints the command that trains on them.

    pip install 'lepton-automl[dask]' dask-jobqueue cryptography
    python dask_cluster.py --jobs 4

Run it on a login node and leave it running. Certificates are made for this cluster, in the folder
`tls`, which only you can read; they are on the disk that all nodes share.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path

from dask_jobqueue import SLURMCluster
from distributed import Security


def main() -> None:
    """Start the cluster and wait for Ctrl-C."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--jobs", type=int, default=2, help="Slurm jobs, one Dask worker each")
    options.add_argument("--cores", type=int, default=8)
    options.add_argument("--memory", default="16GB", help="of a job")
    options.add_argument("--walltime", default="4:00:00")
    options.add_argument("--queue")
    options.add_argument("--tls", type=Path, default=Path("tls"))
    given = options.parse_args()

    # However it is ended, unless by SIGKILL, its jobs end too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    security = Security.temporary()
    given.tls.mkdir(mode=0o700, exist_ok=True)
    cluster = SLURMCluster(
        cores=given.cores,
        processes=1,
        memory=given.memory,
        walltime=given.walltime,
        queue=given.queue,
        protocol="tls://",
        security=security,
        shared_temp_directory=str(given.tls.resolve()),
        # lepton's trainings are children of the worker and have a limit of their own.
        worker_extra_args=["--memory-limit", "0"],
        scheduler_options={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    )
    cluster.scale(jobs=given.jobs)
    names = {"ca-file": "tls_ca_file", "client__cert": "tls_client_cert"}
    names["client__key"] = "tls_client_key"
    for name, field in names.items():
        path = given.tls.resolve() / f"{field}.pem"
        path.touch(mode=0o600)
        path.write_text(getattr(security, field))
        variable = name.upper().replace("-", "_")
        print(f"export DASK_DISTRIBUTED__COMM__TLS__{variable}={path}")
    print(f"lepton run DATA --cluster {cluster.scheduler_address}", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        cluster.close()  # Also ends the jobs.


if __name__ == "__main__":
    main()
