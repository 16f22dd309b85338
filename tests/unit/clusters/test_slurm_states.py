"""What Slurm's words mean, and what follows from them and from exit records."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.clusters.slurm.states import STATES, Facts, doubtful, meaning, read, refusal, standing
from penstock.core.nouns import JobState, Status

PENDING, RUNNING, DONE, FAILED, CANCELLED, UNKNOWN = (
    JobState[name] for name in ("PENDING", "RUNNING", "DONE", "FAILED", "CANCELLED", "UNKNOWN")
)
# squeue(1), JOB STATE CODES; each with its code, what it is for us, and whether its cause passes.
TABLE = """
BF BOOT_FAIL FAILED passing
CA CANCELLED CANCELLED -
CD COMPLETED DONE -
CF CONFIGURING PENDING -
CG COMPLETING RUNNING -
DL DEADLINE FAILED -
EX EXPEDITING PENDING -
F FAILED FAILED -
LF LAUNCH_FAILED FAILED passing
NF NODE_FAIL FAILED passing
OOM OUT_OF_MEMORY FAILED -
PD PENDING PENDING -
PN POWER_UP_NODE PENDING -
PR PREEMPTED FAILED passing
R RUNNING RUNNING -
RC RECONFIG_FAIL FAILED passing
RD RESV_DEL_HOLD PENDING -
RF REQUEUE_FED PENDING -
RH REQUEUE_HOLD PENDING -
RQ REQUEUED PENDING -
RS RESIZING RUNNING -
RV REVOKED RUNNING -
SI SIGNALING RUNNING -
SE SPECIAL_EXIT PENDING -
SO STAGE_OUT RUNNING -
ST STOPPED RUNNING -
S SUSPENDED RUNNING -
TO TIMEOUT FAILED -
UD UPDATE_DB RUNNING -
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_every_state_of_the_manual(line):
    code, name, state, passing = line.split()
    for text in (code, name, f"{name} by 0", f"{name}+", f" {name} ", name.lower()):
        assert meaning(text).state is JobState[state]
        assert meaning(text).passing is (passing == "passing")


def test_the_table_has_every_state():
    rows = [line.split() for line in TABLE.strip().splitlines()]
    assert {name: code for code, name, *_ in rows} == {name: code for name, (code, _) in STATES.items()}
    assert len(rows) == len(STATES) == 29


def test_no_state_has_two_codes():
    assert len({code for code, _ in STATES.values()}) == len(STATES)


@given(st.text())
def test_a_word_that_nobody_knows_never_ends_a_job(text):
    codes = {code for code, _ in STATES.values()} | set(STATES)
    if text.strip().partition(" ")[0].rstrip("+*").upper() not in codes:
        assert meaning(text) == meaning("RUNNING")


@pytest.mark.parametrize("text", ["", "HIBERNATING", "BAD_FUTURE by 7"])
def test_words_of_the_future_keep_the_poll_going(text):
    assert meaning(text).state is RUNNING


# --- one item --------------------------------------------------------------------------------------------


def known(state, reason="None", **more):
    return standing(Facts(slurm={0: (state, reason)}, **more))


def recorded(code=1, ended=0.0, now=1000.0, slurm=None, **more):
    record = {
        "code": code,
        "ended": ended,
        **{key: more.pop(key) for key in ("why", "warned", "terminated") if key in more},
    }
    return standing(Facts(bad={0: record}, slurm={0: slurm} if slurm else {}, now=now, **more))


def test_a_record_of_success_is_enough():
    assert standing(Facts(attempt=2, complete=True, trouble="squeue: down", over_seconds=999)) == Status(
        DONE, attempt=2
    )


def test_a_waiting_job_says_why():
    assert known("PENDING", "Priority") == Status(PENDING, "PENDING (Priority)")


def test_the_end_that_slurm_tells_is_an_end_without_a_record():
    assert known("NODE_FAIL", over_seconds=0) == Status(FAILED, "NODE_FAIL: a node of it failed", True)
    assert known("TIMEOUT", "TimeLimit", over_seconds=0).why == "TIMEOUT (TimeLimit): it was ended at its time limit"
    assert known("CANCELLED by 0", over_seconds=0) == Status(CANCELLED, "CANCELLED by 0")
    assert known("FAILED", "JobLaunchFailure", over_seconds=60).passing


def test_a_failure_waits_a_little_for_its_record():
    assert known("FAILED", "NonZeroExitCode", over_seconds=3).state is RUNNING
    assert known("FAILED", "NonZeroExitCode", over_seconds=20).state is FAILED


def test_completed_without_a_record_is_never_done():
    assert known("COMPLETED", over_seconds=5).state is RUNNING
    lost = known("COMPLETED", over_seconds=500)
    assert (lost.state, lost.passing) == (FAILED, True)
    assert "no exit record for 500 s" in lost.why


def test_a_job_that_vanished_is_unknown_and_then_lost_and_never_done():
    assert standing(Facts(over_seconds=30)).state is UNKNOWN
    lost = standing(Facts(over_seconds=130))
    assert (lost.state, lost.passing) == (FAILED, True)
    assert lost.why.startswith("lost: Slurm has not known it for 130 s")
    assert standing(Facts(over_seconds=1, cancelled=True)).state is CANCELLED


def test_a_sacct_that_cannot_be_asked_is_no_answer():
    assert standing(Facts(over_seconds=500, accounting="dbd is down")) == Status(UNKNOWN, "dbd is down")
    assert standing(Facts(over_seconds=500, accounting="dbd is down", cancelled=True)).state is CANCELLED


def test_a_squeue_that_cannot_be_asked_is_no_answer():
    assert standing(Facts(trouble="down")) == Status(UNKNOWN, "down")
    assert standing(Facts(trouble="down", cancelled=True)).state is UNKNOWN


def test_the_exit_status_is_told():
    assert recorded(7, slurm=("FAILED", "NonZeroExitCode")) == Status(FAILED, "exit status 7")
    assert recorded(7) == Status(FAILED, "exit status 7")
    assert recorded(7, trouble="down") == Status(FAILED, "exit status 7")
    assert recorded(1, why="a line of the prologue failed").why == "exit status 1, a line of the prologue failed"


def test_slurm_has_the_last_word_on_why_a_program_failed():
    assert recorded(1, slurm=("RUNNING", "None"), ended=999).state is RUNNING
    assert recorded(1, slurm=("RUNNING", "None"), ended=900).state is FAILED
    oom = recorded(-9, slurm=("OUT_OF_MEMORY", "OutOfMemory"))
    assert oom.why == "exit status -9, OUT_OF_MEMORY: it needed more memory than it had asked for; raise memory"
    preempted = recorded(-15, slurm=("PREEMPTED", "None"), terminated=True)
    assert preempted.passing
    assert "preempted" in preempted.why


def test_a_job_ended_from_outside():
    assert recorded(-15, terminated=True, cancelled=True).state is CANCELLED
    assert recorded(-15, slurm=("CANCELLED", "None")).state is CANCELLED
    assert not recorded(-15, terminated=True).passing
    limit = recorded(-15, terminated=True, why="ended at its time limit of 9 min")
    assert (limit.why, limit.passing) == ("exit status -15, ended at its time limit of 9 min", False)


def test_a_job_ended_from_outside_while_slurm_cannot_be_asked_why():
    assert recorded(-15, terminated=True, trouble="down", ended=995).state is RUNNING
    assert recorded(-15, terminated=True, trouble="down") == Status(UNKNOWN, "down")
    assert recorded(-15, terminated=True, accounting="dbd is down") == Status(UNKNOWN, "dbd is down")
    assert recorded(-15, terminated=True, accounting="dbd is down", slurm=("PREEMPTED", "None")).passing
    assert recorded(-15, terminated=True, trouble="down", cancelled=True).state is CANCELLED
    limit = recorded(-15, terminated=True, trouble="down", why="ended at its time limit of 9 min")
    assert (limit.state, limit.passing) == (FAILED, False)
    assert recorded(7, trouble="down", accounting="dbd is down") == Status(FAILED, "exit status 7")


def test_a_job_ended_from_outside_whose_node_takes_its_time_to_clean_up():
    assert recorded(-15, terminated=True, slurm=("COMPLETING", "None"), ended=940) == Status(RUNNING, "ending")
    late = recorded(-15, terminated=True, slurm=("COMPLETING", "None"), ended=800)
    assert (late.state, late.passing) == (FAILED, False)


def test_a_job_that_the_controller_lost_in_a_crash_runs_again():
    status = recorded(-15, terminated=True, ended=990)
    assert status.passing
    assert "Slurm does not know it" in status.why


def test_a_program_that_was_warned_may_be_continued():
    status = Status(FAILED, "exit status 99: it wants to be continued", True, continues=True)
    assert recorded(99, warned=True) == status
    assert recorded(99) == Status(FAILED, "exit status 99")


def test_a_copy_that_failed_may_work_the_next_time():
    assert recorded(74, why="s3://a/b cannot be copied to b").passing


# --- many items ------------------------------------------------------------------------------------------


def test_items_run_while_one_of_them_may_still_end():
    waiting = dict.fromkeys(range(3), ("PENDING", "Resources"))
    assert standing(Facts(items=3, slurm=waiting)) == Status(PENDING, "PENDING (Resources)")
    assert standing(Facts(items=4, good={3}, slurm=waiting)).state is RUNNING
    assert standing(Facts(items=4, slurm={**waiting, 3: ("RUNNING", "None")})).state is RUNNING
    assert standing(Facts(items=4, bad={3: {"code": 1, "ended": 0}}, slurm=waiting)).state is RUNNING


def test_the_items_that_failed_are_counted_and_the_first_is_named():
    bad = {4: {"code": 9, "ended": 0}, 2: {"code": 3, "ended": 0}}
    assert standing(Facts(items=5, good={0, 1, 3}, bad=bad)) == Status(
        FAILED, "2 of 5 items failed, the first is item 2: exit status 3"
    )


def test_items_run_again_where_all_their_causes_pass():
    lost = {0: ("NODE_FAIL", "None"), 1: ("PREEMPTED", "None")}
    assert standing(Facts(items=2, slurm=lost, over_seconds=0)).passing
    assert not standing(Facts(items=3, slurm=lost, bad={2: {"code": 1, "ended": 0}}, over_seconds=0)).passing
    assert standing(Facts(items=3, good={2}, slurm=lost, over_seconds=0)).passing


def test_items_are_continued_where_all_that_are_left_ask_for_it():
    asking = {item: {"code": 99, "ended": 0, "warned": True} for item in (1, 2)}
    assert standing(Facts(items=3, good={0}, bad=asking)) == Status(
        FAILED,
        "2 of 3 items failed, the first is item 1: exit status 99: it wants to be continued",
        True,
        continues=True,
    )
    mixed = standing(Facts(items=3, bad=asking, slurm={0: ("NODE_FAIL", "None")}, over_seconds=0))
    assert (mixed.passing, mixed.continues) == (True, False)


# --- reading ---------------------------------------------------------------------------------------------

ANSWER = """\
now|1000
none|9.aa
job|1.aa|1|1|0
done|1.aa
job|2.aa|3|1|1
bad|2.aa|=7|{"code": 7, "why": "", "ended": 990.5, "tail": "a | b"}
part|2.aa|2|0
job|3.aa|1|25|0
bad|3.aa|.4=-9|{}
good|3.aa|0,1,24
part|3.aa|30|0
part|3.aa|41|11
squeue|0
slurm|30|RUNNING|None|2,3
slurm|41|PENDING|Resources|0,1
slurm|2|FAILED|NonZeroExitCode|
slurm|77|FAILED|of somebody else|
over|2.aa|12
a line of tomorrow|1
""".splitlines()


def test_an_answer_is_read():
    facts = read(ANSWER)
    assert set(facts) == {"1.aa", "2.aa", "3.aa"}
    assert facts["1.aa"].complete
    record = {"code": 7, "why": "", "ended": 990.5, "tail": "a | b"}
    assert facts["2.aa"] == Facts(
        3, 1, True, bad={0: record}, slurm={0: ("FAILED", "NonZeroExitCode")}, over_seconds=12, now=1000
    )
    assert facts["3.aa"].good == {0, 1, 24}
    assert facts["3.aa"].bad == {4: {"code": -9, "ended": 0.0}}
    assert facts["3.aa"].slurm == {
        2: ("RUNNING", "None"), 3: ("RUNNING", "None"), 11: ("PENDING", "Resources"), 12: ("PENDING", "Resources")
    }  # fmt: skip


def test_a_squeue_that_failed_is_everybodys_trouble_whose_end_is_not_known():
    facts = read(["job|1|1|1|0", "done|1", "job|2|1|1|0", "squeue|1|Unable to contact slurm controller"])
    assert facts["1"].trouble == ""
    assert facts["2"].trouble == "Unable to contact slurm controller"


@pytest.mark.parametrize("said", ["Slurm accounting storage is disabled", "bash: line 9: sacct: command not found"])
def test_where_there_is_no_accounting_sacct_has_answered(said):
    lines = ["job|1|1|1|0", "part|1|7|0", "job|2|1|1|0", "part|2|8|0", "squeue|0"]
    assert read([*lines, f"sacct|1|7|{said}"])["1"].accounting == ""
    facts = read([*lines, "sacct|1|7,9|sacct: error: Problem talking to the database"])
    assert facts["1"].accounting == "sacct: error: Problem talking to the database"
    assert facts["2"].accounting == ""


@given(st.text(), st.integers(-64, 255))
def test_a_damaged_record_still_has_its_exit_status(text, code):
    line = f"bad|1|={code}|" + text.replace("\n", " ")
    assert read(["job|1|1|1|0", line])["1"].bad[0]["code"] == code


@given(st.dictionaries(st.integers(0, 500), st.integers(1, 64), min_size=1))
def test_records_come_back_as_they_were_told(codes):
    lines = [f"bad|1|.{item}={code}|" + json.dumps({"code": code, "why": "|"}) for item, code in codes.items()]
    assert {k: v["code"] for k, v in read(["job|1|1|501|0", *lines])["1"].bad.items()} == codes


# --- what sbatch says ------------------------------------------------------------------------------------

# As sites show it: the line before it says which of these it is, except of old.
POLICY = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)"
)


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: invalid partition specified: nowhere",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Memory specification can not be satisfied",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
        "sbatch: error: Invalid generic resource (gres) specification",
        "sbatch: error: Batch job submission failed: Job dependency problem",
        f"sbatch: error: QOSMinGRES {POLICY}",
        f"sbatch: error: AssocMaxWallDurationPerJobLimit {POLICY}",
    ],
)
def test_a_refusal_is_final(text):
    assert refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
        "sbatch: error: QOSMaxSubmitJobPerUserLimit",
        f"sbatch: error: AssocMaxSubmitJobLimit {POLICY}",
        POLICY,
        "sbatch: error: If munged is up, restart with --num-threads=10 sbatch: error: Munge encode failed",
    ],
)
def test_trouble_that_may_pass_is_no_refusal(text):
    assert not refusal(text)
    assert doubtful(text) is (text == POLICY)
