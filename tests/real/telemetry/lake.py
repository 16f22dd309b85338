"""Steps of a run that loses rows and units, and whose errors hold secrets."""

import os
import time

from penstock.errors import UnitError


def fetched(batch):
    """Takes its time; one unit cannot be fetched, and of each unit one row is bad."""
    time.sleep(0.5)
    names = batch["id"].to_pylist()
    if "n12" in names:
        token, signed = (
            os.environ["LAKE_TOKEN"],
            "s3://lake/n12?X-Amz-Signature=planted-query&X-Amz-Credential=planted-query",
        )
        raise UnitError(f"403 at https://me:planted-user@lake/x for {signed} with {token}\n  tried with {token}")
    if bad := [name for name in names if name.endswith("7")]:
        raise ValueError(f"{bad[0]} is bad, said {os.environ['LAKE_TOKEN']}")
    return batch
