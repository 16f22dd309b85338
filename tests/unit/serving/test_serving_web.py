import asyncio
import json

import httpx
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.batch import from_bytes, to_bytes
from penstock.core.dataset import existing
from penstock.core.nouns import Pipeline, Step
from penstock.core.reading import read_table
from penstock.core.spec import Spec
from penstock.runners.inline import Inline
from penstock.serving.atlas import Atlas
from penstock.serving.chain import chain_at
from penstock.serving.codec import ARROW
from penstock.serving.door import Limits
from penstock.serving.size import Size
from penstock.sinks.parquet import Parquet
from penstock.sources.text import Jsonl
from penstock.stages.clean import Clean
from penstock.stages.encode import Encode
from penstock.stages.tokens import Tokens
from penstock.testing.models import tiny_encoder

TOKEN = "a-token-of-the-tests"


def rows_of(*values, name="number"):
    return {"rows": [{name: value} for value in values]}


def test_rows_go_through_the_steps(numbers, ask):
    answer = ask(numbers, "POST", "/rows", json=rows_of(2, 3))
    assert answer.status_code == 200
    assert answer.json() == {
        "rows": [{"number": 2, "powers": [2, 4, 8, 16]}, {"number": 3, "powers": [3, 9, 27, 81]}],
        "positions": [0, 1],
        "errors": [],
    }


def test_some_bad_rows_give_207_and_only_bad_ones_422(numbers, ask):
    some = ask(numbers, "POST", "/rows", json=rows_of(1, 13, "x", 2))
    assert some.status_code == 207
    assert [row["number"] for row in some.json()["rows"]] == [1, 2]
    assert some.json()["positions"] == [0, 3]
    assert some.json()["errors"] == [
        {"row": 1, "step": "1-squares", "reason": "ValueError: the number 13 is bad"},
        {"row": 2, "step": "request", "reason": 'number is "x"; int64 was needed'},
    ]
    none = ask(numbers, "POST", "/rows", json=rows_of(13, "x"))
    assert none.status_code == 422
    assert (none.json()["rows"], len(none.json()["errors"])) == ([], 2)


def test_arrow_goes_in_and_comes_out_and_accept_chooses(numbers, ask):
    sent = bytes(to_bytes(pa.table({"number": [2, 13]})))
    answer = ask(numbers, "POST", "/rows", {"content-type": ARROW}, sent)
    assert (answer.status_code, answer.headers["content-type"]) == (207, ARROW)
    table = from_bytes(answer.content)
    assert table["number"].to_pylist() == [2]
    assert json.loads(table.schema.metadata[b"penstock.errors"])[0]["row"] == 1
    both = {"content-type": ARROW, "accept": "text/html, application/json;q=0.9"}
    assert ask(numbers, "POST", "/rows", both, sent).json()["positions"] == [0]


def test_a_bad_row_of_one_client_costs_no_other(numbers, talk):
    async def conversation(client):
        answers = await asyncio.gather(*(client.post("/rows", json=rows_of(n)) for n in range(10, 17)))
        metrics = (await client.get("/metrics")).text
        return [answer.status_code for answer in answers], metrics

    statuses, metrics = talk(numbers, conversation, limits=Limits(wait_seconds=0.1))
    assert statuses == [200, 200, 200, 422, 200, 200, 200]
    assert "penstock_batch_requests_sum 7.0" in metrics
    assert "penstock_batch_requests_count 1.0" in metrics, "all of them were one batch"


@pytest.mark.parametrize(
    ("headers", "content", "status", "text"),
    [
        (
            {"content-type": "text/csv"},
            b"a",
            415,
            "the content type is 'text/csv'; application/json or application/vnd",
        ),
        ({}, b"{}", 415, "the content type is ''"),
        ({"content-type": "application/json"}, b"{", 422, "the body is not JSON"),
        ({"content-type": ARROW}, b"{", 422, "the body is not an Arrow IPC stream"),
        ({"content-type": "application/json"}, b'{"rows": [' + b" " * 2000, 413, "at most 1,000 are taken"),
        ({"content-type": "application/json", "content-length": "9" * 30}, b"{}", 413, "at most 1,000 are taken"),
        ({"content-type": "application/json"}, json.dumps(rows_of(*range(9))).encode(), 413, "the request has 9 rows"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_a_reason(numbers, ask, headers, content, status, text):
    answer = ask(numbers, "POST", "/rows", headers, content, limits=Limits(request=Size(8, 1000)))
    assert answer.status_code == status
    assert text in answer.json()["detail"]


def test_a_body_that_grows_beyond_the_limit_is_cut_off_while_it_comes(numbers, talk):
    taken = 0

    async def endless():
        nonlocal taken
        while taken < 1 << 20:
            taken += 1000
            yield b" " * 1000

    async def conversation(client):
        return await client.post("/rows", content=endless(), headers={"content-type": "application/json"})

    answer = talk(numbers, conversation, limits=Limits(request=Size(8, 5000)))
    assert answer.status_code == 413
    assert taken < 20_000


def test_a_body_that_never_comes_is_not_waited_for(numbers, talk):
    async def slow():
        yield b"{"
        await asyncio.sleep(5)

    async def conversation(client):
        return await client.post("/rows", content=slow(), headers={"content-type": "application/json"})

    answer = talk(numbers, conversation, limits=Limits(body_seconds=0.05))
    assert (answer.status_code, answer.json()["detail"]) == (408, "the body did not come within 0.05 s")


def test_too_many_tokens_are_refused(ask):
    spec = Spec((Pipeline("t", Jsonl("x", columns={"text": "string"}), Parquet("u"),
                          (Step(Tokens("residue:dna", column="text")), Step(Clean(column="text")))),))  # fmt: skip
    chain = chain_at(spec, given=pa.schema([("text", pa.string())]))
    limits = Limits(request=Size(tokens=10))
    assert ask(chain, "POST", "/rows", json=rows_of("ACG", "ACG", name="text"), limits=limits).status_code == 200
    answer = ask(chain, "POST", "/rows", json=rows_of("ACG", "ACGT", name="text"), limits=limits)
    assert answer.status_code == 413
    assert answer.json()["detail"] == "the request has 11 tokens, at most 10 are taken; send it in parts"


def test_missing_columns_are_told_by_the_step_that_needs_them(sequences, ask):
    answer = ask(sequences, "POST", "/rows", json=rows_of("a", name="id"))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "step 1-clean: clean needs a column 'sequence'; there are: id"


def test_requests_that_steps_would_mix_are_kept_apart(talk):
    spec = Spec((Pipeline("u", Jsonl("x"), Parquet("y"), (Step(Clean(column="text", unique=("text",))),)),))
    chain = chain_at(spec, given=pa.schema([("text", pa.string())]))

    async def conversation(client):
        answers = await asyncio.gather(*(client.post("/rows", json=rows_of("a", "a", name="text")) for _ in range(3)))
        return [answer.json() for answer in answers]

    expected = {"rows": [{"text": "a"}], "positions": [0], "errors": []}
    assert talk(chain, conversation, limits=Limits(wait_seconds=0.05)) == [expected] * 3


# --- tokens, health, pages -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": ""}]
)
@pytest.mark.parametrize(("verb", "path"), [("POST", "/rows"), ("GET", "/schema"), ("GET", "/metrics")])
def test_who_has_no_token_is_told_nothing_of_the_data(numbers, ask, sent, verb, path):
    answer = ask(numbers, verb, path, sent, json=rows_of(1) if verb == "POST" else None, token=TOKEN)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "a token is needed" in answer.json()["detail"]


def test_who_has_the_token_is_answered(numbers, ask):
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert ask(numbers, "POST", "/rows", headers, json=rows_of(1), token=TOKEN).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/openapi.json", "/page.js"])
def test_pages_and_health_need_no_token(numbers, ask, path):
    assert ask(numbers, "GET", path, token=TOKEN).status_code == 200


def test_readiness_ends_before_the_service_does(numbers, talk):
    async def conversation(client):
        client.app.state.door.closing.set()
        return await client.get("/readyz"), await client.get("/healthz"), await client.post("/rows", json=rows_of(1))

    ready, healthy, answered = talk(numbers, conversation)
    assert (ready.status_code, healthy.status_code, answered.status_code) == (503, 200, 200)
    assert answered.headers["connection"] == "close"


def test_pages_load_nothing_from_elsewhere(numbers, ask):
    for path in ("/", "/docs", "/page.js", "/docs.js", "/page.css"):
        answer = ask(numbers, "GET", path)
        assert "//" not in answer.text.replace("http://www.w3.org/2000/svg", "").replace("// ", ""), path
        assert "default-src 'none'; script-src 'self'" in answer.headers["content-security-policy"]


def test_openapi_tells_the_columns(numbers, ask):
    api = ask(numbers, "GET", "/openapi.json", token=TOKEN).json()
    body = api["paths"]["/rows"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["rows"]["items"]["properties"]["number"] == {"type": "integer"}
    powers = api["components"]["schemas"]["Answer"]["properties"]["rows"]["items"]["properties"]["powers"]
    assert powers["minItems"] == 4
    assert api["security"] == [{"token": []}]
    assert set(api["paths"]) == {"/rows", "/schema", "/healthz", "/readyz", "/metrics"}


def test_schema_tells_what_may_be_sent(sequences, ask):
    found = ask(sequences, "GET", "/schema").json()
    assert found["steps"] == ["1-clean", "2-tokens"]
    assert found["needed"] == ["sequence"]
    assert found["request"] == {"id": "string", "sequence": "string"}
    assert found["answer"]["input_ids"] == "list<item: int32>"
    assert found["limits"] == {"rows": 4096, "bytes": 32 << 20, "tokens": 1 << 18}


def test_metrics_count_requests_rows_and_paths_that_are_none(numbers, talk):
    async def conversation(client):
        await client.post("/rows", json=rows_of(1, 2, 13))
        await client.get("/wp-login.php")
        return (await client.get("/metrics")).text.splitlines()

    lines = talk(numbers, conversation)
    assert 'penstock_requests_total{path="/rows",status="207"} 1.0' in lines
    assert 'penstock_requests_total{path="other",status="404"} 1.0' in lines
    assert 'penstock_rows_total{outcome="answered"} 2.0' in lines
    assert 'penstock_rows_total{outcome="refused"} 1.0' in lines
    assert 'penstock_request_seconds_count{path="/rows"} 1.0' in lines
    assert "penstock_batch_rows_sum 3.0" in lines


@settings(max_examples=30)
@given(st.binary(max_size=200), st.sampled_from(["application/json", ARROW]))
def test_nonsense_is_answered_by_4xx(sent, kind):
    from functools import partial

    from penstock.serving.here import opened_here
    from penstock.serving.web import application
    from penstock.testing.parts import Numbers, Squares

    chain = chain_at(Spec((Pipeline("line", Numbers(), Parquet("unused"), (Step(Squares()),)),)))

    async def act():
        app = application(chain, partial(opened_here, chain, Limits()))
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return await client.post("/rows", content=sent, headers={"content-type": kind})

    assert 400 <= asyncio.run(act()).status_code < 500


# --- equal to the batch run ------------------------------------------------------------------------------


def test_answers_are_those_of_the_batch_run_bit_for_bit(tmp_path, talk):
    model = str(tiny_encoder(tmp_path / "model"))
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), n)) for n in rng.integers(1, 60, 40)] + [
        "A1",
        "",
        "X" * 70,
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"sequence": text}) + "\n" for text in texts))
    steps = (Step(Clean(alphabet="protein")), Step(Tokens(model)), Step(Encode(model, threads=1)))
    source = Jsonl(str(tmp_path / "in.jsonl"), columns={"sequence": "string"})
    pipeline = Pipeline("line", source, Parquet(str(tmp_path / "out")), steps)
    Inline().run(pipeline)
    batch = read_table(existing(str(tmp_path / "out")).uri)
    chain = chain_at(Spec((pipeline,)))

    async def conversation(client):
        whole = await client.post("/rows", json=rows_of(*texts, name="sequence"))
        sent = bytes(to_bytes(pa.table({"sequence": texts})))
        arrow = await client.post("/rows", content=sent, headers={"content-type": ARROW})
        each = await asyncio.gather(*(client.post("/rows", json=rows_of(text, name="sequence")) for text in texts))
        return whole, arrow, each

    whole, arrow, each = talk(chain, conversation)
    assert (whole.status_code, arrow.status_code) == (207, 207)
    assert from_bytes(arrow.content).replace_schema_metadata().equals(batch.replace_schema_metadata())
    embedded = np.array([row["embedding"] for row in whole.json()["rows"]], np.float32)
    expected = np.stack([np.asarray(value) for value in batch["embedding"].combine_chunks().to_numpy_ndarray()])
    assert (embedded == expected).all()
    assert [one["row"] for one in whole.json()["errors"]] == [40, 41, 42]
    alone = [row["embedding"] for answer in each for row in answer.json()["rows"]]
    assert np.abs(np.array(alone) - expected).max() < 1e-5, "in other batches sums round otherwise"


# --- the map ---------------------------------------------------------------------------------------------


@pytest.fixture
def atlas():
    numbers = np.arange(1, 9)
    vectors = (numbers[:, None] ** np.arange(1, 5)).astype(np.float32)
    places = np.stack([numbers, -numbers], 1).astype(float)
    return Atlas("powers", [f"n{n}" for n in numbers], ["odd", "even"] * 4, vectors, places, "by hand")


def test_neighbours_are_told_with_their_places(numbers, talk, atlas):
    async def conversation(client):
        return (await client.get("/map")).json(), await client.post("/neighbours", json=rows_of(5, 13))

    points, near = talk(numbers, conversation, atlas=atlas)
    assert points["names"][:2] == ["n1", "n2"]
    assert points["method"] == "by hand"
    assert near.status_code == 207
    (told,) = near.json()["map"]
    assert told["neighbours"][0]["name"] == "n5"
    assert told["neighbours"][0]["similarity"] == pytest.approx(1)
    assert told["place"] == pytest.approx([5, -5], abs=1e-2), "a row that is on the map lies on its point"
    assert near.json()["errors"][0]["row"] == 1


def test_neighbours_equal_a_plain_search(atlas):
    rng = np.random.default_rng(1)
    vectors, asked = rng.standard_normal((60, 4)).astype(np.float32), rng.standard_normal((5, 4)).astype(np.float32)
    many = Atlas("v", [str(n) for n in range(60)], [], vectors, rng.standard_normal((60, 2)), "none")
    from penstock.core.batch import tensor_column

    for row, told in zip(asked, many.nearest(pa.table({"v": tensor_column(asked)}), 3), strict=True):
        mean = vectors.mean(0)
        cosines = [
            np.dot(row - mean, v - mean) / np.linalg.norm(row - mean) / np.linalg.norm(v - mean) for v in vectors
        ]
        assert [one["point"] for one in told["neighbours"]] == list(np.argsort(cosines)[::-1][:3])
