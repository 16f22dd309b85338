"""The pages and the JSON: who may see them, what is escaped, what is not found, what changes while a run goes on."""

import asyncio
import re
import time
from urllib.parse import unquote_to_bytes

import pytest
from typer.testing import CliRunner

from penstock.cli import app
from penstock.clusters.local import Local
from penstock.core.nouns import Job
from penstock.dashboard.gate import COOKIE, names_of
from penstock.dashboard.jobs import Scheduler

TOKEN = "a-token-of-these-tests-0000"
PAGES = ["/", "/dataset/out/profiles", "/quarantine/out/profiles", "/jobs", "/live", "/live/out/profiles"]


# --- pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES)
def test_pages_answer_with_strict_headers(visit, path):
    answer = visit.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("path", PAGES[:4])
def test_pages_name_no_other_origin_and_hold_no_inline_code(visit, path):
    text = visit.get(path).text
    assert set(re.findall(r'(?:src|href|action)="([a-z]+:[^"]*)"', text)) <= {"data:,"}
    assert re.findall(r"<script(?! src=\"/ui.js\" defer>)", text) == []
    assert not re.search(r'\son\w+="|\sstyle="', text)


def test_the_overview_tells_what_there_is(visit):
    text = visit.get("/").text
    assert 'href="/dataset/out/profiles"' in text
    assert "finished" in text
    assert re.search(r'<td class="n">54</td>', text)


def test_markup_in_the_data_is_shown_as_text(visit, evil):
    shown = "&lt;script&gt;alert(1)&lt;/script&gt;"
    rows, bad = visit.get("/dataset/out/profiles").text, visit.get("/quarantine/out/profiles").text
    assert "&lt;b&gt;r0&lt;/b&gt;" in rows
    assert "<b>r" not in rows + bad
    assert bad.count(shown) == 6
    assert evil not in rows + bad
    assert "<i>x" not in visit.get("/quarantine/out/profiles?error=<i>x").text


def test_the_quarantine_is_filtered_and_says_how_rows_are_fed_back(visit):
    text = visit.get("/quarantine/out/profiles").text
    assert "6 rows, page 1 of 1." in text
    assert "[pipeline.mended.source]\nuse = &#34;parquet&#34;" in text
    assert "No error has this text in it." in visit.get("/quarantine/out/profiles?error=other").text
    assert visit.get("/quarantine/out/profiles?page=x").status_code == 422


def test_a_report_is_shown_without_any_right(commit, client, tmp_path):
    commit("out/profiles")
    assert client(tmp_path).get("/report/out/profiles").status_code == 404
    (tmp_path / "report.html").write_text("<script>1</script>")
    answer = client(tmp_path).get("/report/out/profiles")
    assert answer.text == "<script>1</script>"
    assert answer.headers["content-security-policy"].endswith("sandbox allow-scripts")
    assert "connect-src" not in answer.headers["content-security-policy"]
    assert 'href="/report/out/profiles"' in client(tmp_path).get("/").text


def test_a_report_that_is_a_link_is_not_shown(commit, client, tmp_path):
    commit("out/profiles")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "report.html").symlink_to(tmp_path / "secret")
    assert client(tmp_path).get("/report/out/profiles").status_code == 404


def test_names_with_strange_letters_are_found(commit, client, tmp_path):
    name = "out/a b#c?d%2e"
    commit(name)
    visit = client(tmp_path)
    (path,) = re.findall(r'class="title" href="([^"]+)"', visit.get("/").text)
    assert path == "/dataset/out/a%20b%23c%3Fd%252e"
    assert _asked(visit.app, path.encode()) == 200  # the client of the tests would decode it twice


def test_a_root_that_is_a_dataset_has_a_page(made, client):
    visit = client(made / "out" / "profiles")
    assert 'href="/dataset/"' in visit.get("/").text
    assert visit.get("/dataset/").status_code == 200
    assert visit.get("/live/").json()["rows"] == 54


# --- what is not found -----------------------------------------------------------------------------------

OUTSIDE = [
    "..", "../", "../secret", "out/../../secret", "out/profiles/../profiles", "/etc", "//etc/passwd", "%2e%2e/secret",
    "..%2fsecret", "%2e%2e%2fsecret", "..%252fsecret", "out%2f..%2f..%2fsecret", "%2fetc%2fpasswd", "out\\..\\secret",
    "out/profiles/manifests", "out/profiles/", "./out/profiles", "out//profiles", "out/profiles%00", "file:///etc",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["dataset", "quarantine", "report", "live"])
def test_nothing_but_the_names_of_datasets_is_found(made, client, kind):
    (made / "secret" / "parts").mkdir(parents=True, exist_ok=True)
    gate = client(made / "out").app
    inside = {name for name in OUTSIDE if _asked(gate, f"/{kind}/{name}".encode()) != 404}
    assert inside == set()
    assert _asked(gate, f"/{kind}/profiles".encode()) == (404 if kind == "report" else 200)


def test_other_paths_and_verbs_are_refused(visit):
    assert visit.get("/nothing").status_code == 404
    assert "There is no such page here" in visit.get("/nothing").text
    assert [visit.request(verb, "/").status_code for verb in ("POST", "PUT", "DELETE", "PATCH")] == [405] * 4
    assert visit.get("/docs").status_code == visit.get("/openapi.json").status_code == 404


def _asked(gate, raw: bytes) -> int:
    """The status of a request whose path is sent as it stands: clients would tidy it."""
    status: list[int] = []

    async def ask() -> None:
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "query_string": b"",
            "raw_path": raw, "path": unquote_to_bytes(raw).decode("utf-8", "replace"), "root_path": "",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                status.append(message["status"])

        await gate(scope, receive, send)

    asyncio.run(ask())
    return status[0]


# --- who may see it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:9", "127.0.0.1:1"])
def test_names_of_this_machine_itself_are_taken(visit, host):
    assert visit.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "10.0.0.1", "", "a@localhost"]
)
def test_other_host_names_are_refused(visit, host):
    answer = visit.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert answer.text.startswith("this server is not called so; ask it by the address that 'penstock ui' has printed")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_given_host_is_taken_and_a_wildcard_takes_numbers_alone(made, client):
    assert client(made, host="10.0.0.5").get("/", headers={"host": "10.0.0.5:80"}).status_code == 200
    assert client(made, host="10.0.0.5").get("/", headers={"host": "10.0.0.6:80"}).status_code == 421
    every = client(made, host="0.0.0.0")
    statuses = [
        every.get("/", headers={"host": host}).status_code for host in ("10.1.2.3:80", "[fe80::1]:80", "evil.example")
    ]
    assert statuses == [200, 200, 421]
    assert "evil.example" not in names_of("0.0.0.0")


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_without_the_token_nothing_is_seen(made, client, path):
    visit = client(made, token=TOKEN)
    for answer in (
        visit.get(path),
        visit.get(path, headers={"authorization": f"Bearer {TOKEN}x"}),
        visit.get(path, headers={"authorization": TOKEN}),
        visit.get(path, headers={"cookie": f"{COOKIE}_8000={TOKEN}; {COOKIE}={TOKEN}"}),
        visit.get(path, params={"token": "wrong"}),
    ):
        assert answer.status_code == 401
        assert "A token is needed" in answer.text
        assert "profiles" not in answer.text
        assert answer.headers["www-authenticate"] == "Bearer"


def test_the_token_is_taken_once_and_a_cookie_after_that(made, client):
    visit = client(made, token=TOKEN)
    first = visit.get("/dataset/out/profiles", params={"token": TOKEN})
    assert (first.status_code, first.headers["location"]) == (303, "/dataset/out/profiles")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert TOKEN not in cookie
    assert visit.get("/dataset/out/profiles").status_code == 200
    assert visit.get("/dataset/out/profiles", params={"token": TOKEN}).status_code == 303
    assert visit.get("/", headers={"host": "127.0.0.1:8001"}).status_code == 401, "another port is another dashboard"


def test_the_token_cannot_be_used_to_be_sent_elsewhere(made, client):
    for path in ("//evil.example/", "/%5cevil.example/", "/%2f%2fevil.example"):
        assert (
            client(made, token=TOKEN)
            .get(f"http://127.0.0.1:8000{path}", params={"token": TOKEN})
            .headers["location"]
            .startswith("/evil.example")
        )


def test_programs_send_the_token_as_bearer(made, client):
    visit = client(made, token=TOKEN)
    assert visit.get("/live/out/profiles", headers={"authorization": f"Bearer {TOKEN}"}).json()["rows"] == 54
    assert visit.get("/report.css").status_code == 200


# --- a run that goes on ----------------------------------------------------------------------------------


def test_the_live_numbers_follow_the_ledger(ledger, client, tmp_path):
    visit = client(tmp_path)
    assert "There is no dataset yet" in visit.get("/").text
    ledger.add(2)
    first = visit.get("/live/out/live").json()
    assert (first["state"], first["units_in_ledger"], first["rows_in_ledger"], first["bad_rows"]) == (
        "running",
        2,
        20,
        2,
    )
    assert first["last_unit"] == pytest.approx(time.time(), abs=10)
    ledger.add(3)
    second = visit.get("/live/out/live").json()
    assert (second["units_in_ledger"], second["texts"]["units"], second["texts"]["rows"]) == (5, "5", "50")
    assert second["shape"] == first["shape"]
    assert second["charts"]["pace"]["path"] != ""
    (encode,) = [step for step in second["steps"] if step["step"] == "1-encode"]
    assert encode == {"step": "1-encode", "units": 5, "busy_seconds": 2.5, "mean_wait_seconds": 0.25}
    assert visit.get("/live").json()["texts"]["ledger@out/live"] == "5 units, 50 rows"


def test_the_page_of_a_run_has_a_place_for_each_live_text(ledger, client, tmp_path):
    ledger.add(2)
    visit = client(tmp_path)
    places = set(re.findall(r'data-text="([^"]+)"', visit.get("/dataset/out/live").text))
    assert places <= visit.get("/live/out/live").json()["texts"].keys()
    assert {"units", "rows", "rate", "1.busy", "1.wait", "why"} <= places
    text = visit.get("/dataset/out/live").text
    assert 'data-live="/live/out/live"' in text
    assert "How many units there are in all is known to the run alone." in text


def test_the_page_is_drawn_anew_when_a_version_is_committed(commit, client, tmp_path, ledger_at):
    visit = client(tmp_path)
    root = commit("out/profiles")
    before = visit.get("/live/out/profiles").json()["shape"]
    ledger_at(root).add(1)
    assert visit.get("/live/out/profiles").json()["shape"] != before


# --- jobs ------------------------------------------------------------------------------------------------


@pytest.fixture
def scheduler(tmp_path):
    cluster = Local(folder=str(tmp_path / "jobs"))
    job = Job(
        "k" * 16,
        ("sh", "-c", "echo '<i>out</i>'; echo trouble >&2; exit 3"),
        str(tmp_path / "jobs" / "a" / "b"),
        "solve",
    )
    ids = [cluster.submit(job)]
    end = time.monotonic() + 20
    while not all(status.state.final for status in cluster.poll(ids).values()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return Scheduler("local", cluster)


def test_jobs_are_listed_with_state_and_log(made, client, scheduler):
    visit = client(made, schedulers=[scheduler])
    text = visit.get("/jobs").text
    assert "solve" in text
    assert "exit status 3" in text
    (path,) = re.findall(r'href="(/jobs/[0-9a-f]{16})"', text)
    assert "&lt;i&gt;out&lt;/i&gt;" in visit.get(path).text
    assert "trouble" in visit.get(f"{path}?stream=stderr").text
    for wrong in ("stream=exit", "stream=../record.json", "item=1", "item=-1"):
        assert visit.get(f"{path}?{wrong}").status_code == 404
    assert visit.get("/jobs/..%2f..%2fetc").status_code == 404


def test_a_cluster_that_does_not_answer_is_told(made, client, scheduler, monkeypatch):
    from penstock.errors import JobError

    def silent(self):
        raise JobError("the cluster is away")

    monkeypatch.setattr(Local, "jobs", silent)
    assert "local: the cluster is away" in client(made, schedulers=[scheduler]).get("/jobs").text


# --- the command -----------------------------------------------------------------------------------------


def test_the_command_refuses_what_cannot_be_served(tmp_path):
    def said(*words):
        done = CliRunner().invoke(app, ["ui", *map(str, words)])
        assert done.exit_code == 1
        return done.stderr

    assert "there is no such folder; give the folder below which runs write" in said(tmp_path / "nowhere")
    assert "the token has 5 characters, at least 16 were needed" in said(tmp_path, "--token", "short")
    assert "cannot be listened at" in said(tmp_path, "--host", "192.0.2.1")


@pytest.mark.parametrize(("host", "asks"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)])
def test_a_token_is_made_where_others_can_look(tmp_path, monkeypatch, host, asks):
    gates = []
    monkeypatch.setattr("penstock.dashboard.listening.listen", lambda gate, at, say: (gates.append(gate), say()))
    done = CliRunner().invoke(app, ["ui", str(tmp_path), "--host", host])
    assert done.exit_code == 0, done.output
    assert bool(gates[0].token) is asks
    assert (f"/?token={gates[0].token}" in done.stdout.replace("\n", "")) is asks
    assert len(gates[0].token) == (32 if asks else 0)
