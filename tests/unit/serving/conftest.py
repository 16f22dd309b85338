"""A chain with known answers, and a client that talks to its service without a network."""

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pyarrow as pa
import pytest

from penstock.core.nouns import Pipeline, Step
from penstock.core.spec import Spec
from penstock.serving.chain import chain_at
from penstock.serving.door import Limits
from penstock.serving.here import opened_here
from penstock.serving.web import application
from penstock.sinks.parquet import Parquet
from penstock.stages.clean import Clean
from penstock.stages.tokens import Tokens
from penstock.testing.parts import Numbers, Squares

DEFAULT = Limits()
SEQUENCES = pa.schema([("id", pa.string()), ("sequence", pa.string())])


def spec_of(*stages, source=None, name="line"):
    return Spec((Pipeline(name, source or Numbers(), Parquet("unused"), tuple(Step(stage) for stage in stages)),))


@pytest.fixture
def numbers():
    """Squares of numbers; 13 is bad."""
    return chain_at(spec_of(Squares(bad=(13,))))


@pytest.fixture
def sequences():
    """Clean, then tokens: the last step makes them, so nothing is cut off for the door."""
    return chain_at(spec_of(Clean(alphabet="protein"), Tokens("residue:protein", max_length=12)), given=SEQUENCES)


@asynccontextmanager
async def serving(chain, limits=DEFAULT, token="", atlas=None, opening=None):
    app = application(chain, opening or partial(opened_here, chain, limits), token, atlas)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        client.app = app
        yield client


@pytest.fixture
def talk():
    """Runs a conversation, an async function of a client, with the service of a chain."""

    def talk(chain, conversation, **how):
        async def act():
            async with serving(chain, **how) as client:
                return await conversation(client)

        return asyncio.run(act())

    return talk


@pytest.fixture
def ask(talk):
    """One request by one client."""

    def ask(chain, verb, path, headers=None, content=None, json=None, **how):
        async def conversation(client):
            return await client.request(verb, path, headers=headers, content=content, json=json)

        return talk(chain, conversation, **how)

    return ask
