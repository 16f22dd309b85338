"""Steps as an application of Ray Serve by its import path: what KubeRay's RayService and ``serve deploy`` start.

::

    applications:
      - name: penstock
        import_path: penstock.runners.application:service
        args: {address: "pipeline.toml#embeddings.clean:encode"}

A replica is the whole service of ``penstock serve --runner inline``, behind Serve's own HTTP proxies: they share
requests out, and batches are put together in each replica. `penstock serve` itself does without those proxies
(`runners.serve` says why) and is the better one where it can listen; on Kubernetes the operator wants an application.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from penstock.core import spec
from penstock.errors import SpecError
from penstock.runners import places
from penstock.runners.replicas import scale
from penstock.serving.chain import Chain, chain_at
from penstock.serving.door import Limits
from penstock.serving.here import opened_here

__all__ = ["service"]

_TOKEN = "PENSTOCK_TOKEN"  # noqa: S105 (the name of a variable)
_AT_ONCE = 100


def service(args: Mapping[str, str]) -> Any:
    """The application that *args* describe.

    Args:
        args: ``address``, which is ``FILE#PIPELINE.STEP`` as for `penstock serve`. The file is read where Serve builds
            the application. A token is read in each replica, from $PENSTOCK_TOKEN.

    Raises:
        SpecError: there is no such address.
    """
    from ray import serve

    if set(args) != {"address"}:
        raise SpecError(f"args: {sorted(args)} were found, address alone was needed: FILE#PIPELINE.STEP")
    file, _, words = args["address"].partition("#")
    chain = chain_at(spec.load(file), words)
    options = {**scale(chain.cut()[1].place), "max_ongoing_requests": _AT_ONCE}

    def answering() -> Any:  # Serve calls a function in each replica, and takes anything else for the application
        return _answering(chain)

    replica = serve.ingress(answering)()
    return serve.deployment(replica).options(name="service", **options).bind()


def _answering(chain: Chain) -> Any:
    """The ASGI application of one replica."""
    from penstock.serving.web import application

    return application(chain, functools.partial(opened_here, chain, Limits(), places.live), os.environ.get(_TOKEN, ""))
