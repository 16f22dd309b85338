"""A driver that the tests kill: submits `count` jobs from a few threads, in any order, and watches them to their end.

python submit_and_watch.py BASE HOST FOLDER SESSION COUNT
"""

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import slurm_site
from slurm_site import Site, ended, once


def main(base: str, host: str, folder: str, session: str, count: str) -> None:
    slurm_site.SESSION = session  # the same keys in each life
    cluster = Site(Path(base), host).cluster(poll_seconds=0.5)
    jobs = [once(Path(folder) / f"job{number}", seconds=0.2) for number in range(int(count))]
    for job in jobs:
        Path(job.folder).mkdir(exist_ok=True)
    with ThreadPoolExecutor(4) as threads:
        ids = list(threads.map(cluster.submit, random.sample(jobs, len(jobs))))
    found = ended(cluster, ids, 400)
    print(json.dumps({native_id: status.state.value for native_id, status in zip(ids, found, strict=True)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
