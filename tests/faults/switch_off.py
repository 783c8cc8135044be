"""What makes each fault survivable, and how to switch that off, so that its test is seen failing without it.

    python -m tests.faults.switch_off ["FAULT" ...]

For each fault one text of one file is replaced in this working tree, the test is run with short limits, and the file is
put back. It prints whether the test failed. About 20 s for each; the tree must have no other changes in those files.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.support.fault_table import FAULTS

ROOT = Path(__file__).resolve().parents[2]
SBATCH = "templates/sbatch.sh.j2"


class Switch(NamedTuple):
    """A mechanism, switched off by a replacement of text."""

    what: str
    file: str
    on: str
    off: str
    test: str
    """Below tests/faults."""
    second: tuple[str, str] = ("", "")
    """Another text of the file with its replacement, where one mechanism stands in for the other."""
    megatron: str = ""
    """The fault of test_megatron.py that is run alone."""


SWITCHES: dict[str, Switch] = {
    "rank crash": Switch(
        "sbatch.sh requeues the job",
        SBATCH,
        '        requeue:*) requeue "${2#*:}" || { submit_successor "$1" && exit 1; } ;;',
        "        requeue:*) ;;",
        "test_next_attempt.py::test_a_crash_is_requeued_and_the_losses_are_those_of_an_uninterrupted_run",
    ),
    "node crash": Switch(
        "the next start judges and goes on",
        SBATCH,
        "        requeue:*) ;; # it goes on here and now",
        "        requeue:*) exit 1 ;;",
        "test_next_attempt.py::test_a_node_failure",
    ),
    "hang": Switch(
        "step.sh starts the watchdog",
        "templates/step.sh.j2",
        "    if [[ $LOCAL_RANK == 0 ]]; then {{ plan.python|q }} -S -E -B",
        "    if [[ $LOCAL_RANK == x ]]; then {{ plan.python|q }} -S -E -B",
        "test_hangs.py::test_the_rank_that_the_others_wait_for_is_named_in_time[stop]",
    ),
    "preemption": Switch(
        "PreemptTime is read",
        SBATCH,
        "    if [[ $shown =~ [[:space:]]PreemptTime=[0-9] || $state == PREEMPTED ]]; then",
        "    if false; then",
        "test_next_attempt.py::test_time_limit_and_preemption",
    ),
    "time limit": Switch(
        "the end of the job is looked at",
        SBATCH,
        "        [[ -z $left_s ]] || ((left_s > stop_s || left_s > half_s)) || why='time limit'",
        "        :",
        "test_next_attempt.py::test_time_limit_and_preemption",
    ),
    "controller away": Switch(
        "a state that Slurm does not tell is unknown",
        "launcher/watch/status.py",
        "    if job.state is State.UNKNOWN:\n        if run_state.result:",
        "    if False:\n        if run_state.result:",
        "test_outside.py::test_a_controller_that_is_away_ends_no_run_and_status_says_unknown",
    ),
    "no accounting": Switch(
        "the ranks' records are judged",
        "launcher/watch/status.py",
        "    if run_state.result or run_state.cancelled or run_state.attempt is None or run_state.world_size < 1:",
        "    if True:",
        "test_signals.py::test_ranks_that_had_finished_when_the_job_was_ended",
    ),
    "bad node": Switch(
        "nodes with strikes are excluded",
        "launcher/contract/next_attempt.py",
        "    if set(exclude) - set(excluded):",
        "    if set():",
        "test_next_attempt.py::test_a_node_that_kills_ranks_is_excluded_by_a_successor",
    ),
    "full disk": Switch(
        "what was written of the lease is read again",
        SBATCH,
        '{ echo "$mine" >"$temporary" && [[ $(<"$temporary") == "$mine" ]]; } 2>/dev/null || {',
        '{ echo "$mine" >"$temporary" || :; } 2>/dev/null || {',
        "test_one_owner.py::test_a_full_disk_fails_the_job_and_a_requeue_runs",
    ),
    "damaged checkpoint": Switch(
        "the next older checkpoint is taken",
        "launcher/job/config/choices.py",
        "        is_marked = is_final and _set_aside(rank, number, path, verdict.problem)\n",
        '        raise _refusal(path, verdict.problem, "")\n',
        "test_megatron.py",
        megatron="cut",
    ),
    "broken image": Switch(
        "the length in the superblock is compared",
        "launcher/images/inspect/squashfs.py",
        "    if used > size:",
        "    if False:",
        "test_outside.py::test_a_broken_image_is_refused_before_anything_is_queued",
    ),
    "two builds of one image": Switch(
        "the last build of the key is used",
        "launcher/images/store/building.py",
        "        made = store.by_digest(after.digest) if after and after != before else None",
        "        made = None",
        "test_outside.py::test_of_six_that_put_one_image_into_the_store_one_does_the_work",
    ),
    "submissions at once": Switch(
        "run ids have random bits",
        "launcher/discovery/host.py",
        '-{os.urandom(6).hex()}"\n\n\ndef count_gpus',
        '-000000000000"\n\n\ndef count_gpus',
        "test_outside.py::test_fifty_submissions_at_once_have_a_job_and_a_directory_each",
    ),
    "submission twice": Switch(
        "a key's run is returned",
        "launcher/api/once.py",
        "        if claim is not None and (found := _submitted(claim, file, wanted, LocalShell())) is not None:",
        "        if False and (found := _submitted(claim, file, wanted, LocalShell())) is not None:",
        "test_once.py::test_a_key_is_one_run_and_another_request_is_refused",
    ),
    "launcher killed": Switch(
        "a killed launcher's job is looked for by its token",
        "launcher/backends/batch.py",
        '    elif (searched := search(token, shell, clusters=events[0].get("clusters"))) is not None:',
        "    elif (searched := None) is not None:",
        "test_once.py::test_launchers_killed_at_random_moments",
    ),
    "container does not start": Switch(
        "srun's refusals are a rule",
        "launcher/contract/failures.py",
        '        "step refused",\n        "step not started",\n        Level.CAUSE,\n        r"Unable',
        '        "step refused",\n        "stopped",\n        Level.CAUSE,\n        r"Unable',
        "test_causes.py::test_a_step_that_is_refused_says_why",
    ),
    "interrupted sweep": Switch(
        "a killed launcher's job is looked for by its token",
        "launcher/backends/batch.py",
        '    elif (searched := search(token, shell, clusters=events[0].get("clusters"))) is not None:',
        "    elif (searched := None) is not None:",
        "test_outside.py::test_a_loop_of_submissions_that_was_killed_is_completed_by_running_it_again",
    ),
    "poisoned run": Switch(
        "two failures alike end the run",
        "launcher/contract/next_attempt.py",
        "    elif is_poisoned(attempts[since:]):",
        "    elif False:",
        "test_next_attempt.py::test_what_ends_and_what_diverges",
    ),
    "clocks, numbers and ranges": Switch(
        "an attempt is known by its token, not by times",
        "launcher/watch/run_state.py",
        "    return newest if record is not None and record.nonce == start.token else None",
        "    return newest if record is not None and (record.job_start or 0) >= start.time else None",
        "test_verdict.py::test_a_login_node_whose_clock_is_ahead",
        ("    if start.attempt == newest.name:", "    if False:"),
    ),
    "requeue by an administrator": Switch(
        "a requeued job begins the next attempt",
        SBATCH,
        "    [[ -e $run_dir/attempts/$LAUNCHER_ATTEMPT ]] || break",
        "    break",
        "test_one_owner.py::test_a_requeued_job_keeps_its_run_and_a_dead_owners_lease_is_taken",
    ),
    "four resumes at once": Switch(
        "the run's lock is held",
        "launcher/rundir/locks.py",
        "        while not _try_lock(descriptor, path):",
        "        while False:",
        "test_one_owner.py::test_four_resumes_at_once_are_one_job",
    ),
    "another run's job": Switch(
        "a job is the run's by its comment or command",
        "launcher/slurm/queue.py",
        "        return False if command or (directory and directory not in directories) else None",
        "        return True",
        "test_identity.py::test_equal_numbers_on_two_clusters",
    ),
    "flipped bytes in a shard": Switch(
        "sums of shards are compared",
        "launcher/contract/manifest.py",
        "        more, problem = _compare(directory, shards, files, algorithm, end, take_sums)\n",
        "        more, problem = dict[str, FileSum](), None\n",
        "test_megatron.py",
        megatron="flip",
    ),
    "full disk at the claim": Switch(
        "an empty lease owns nothing",
        SBATCH,
        "    [[ -n $owner ]] || return 0\n",
        "    [[ -n $owner ]] || return 1\n",
        "test_one_owner.py::test_a_full_disk_fails_the_job_and_a_requeue_runs",
    ),
    "I/O error after sbatch": Switch(
        "a queued job keeps its run",
        "launcher/backends/batch.py",
        "        raise QueuedUnrecordedError(",
        "        raise DiskError(",
        "test_one_owner.py::test_a_journal_that_takes_no_more_does_not_take_the_job_with_it",
    ),
    "equal run ids": Switch(
        "leavings of the dead are swept",
        "launcher/backends/prepare.py",
        "            if maker is not None and maker.has_ended():",
        "            if False:",
        "test_run_ids.py::test_what_killed_launchers_have_left_is_swept",
    ),
    "cut and empty parts of a checkpoint": Switch(
        "structure and sums are verified before loading",
        "launcher/contract/manifest.py",
        "    if problem is not None:\n        return CheckpointVerdict(problem, None)\n    state: _State",
        "    state: _State",
        "test_megatron.py",
        megatron="cut",
    ),
    "login clock ahead": Switch(
        "an attempt is known by its token, not by times",
        "launcher/watch/run_state.py",
        "    return newest if record is not None and record.nonce == start.token else None",
        "    return newest if record is not None and (record.job_start or 0) >= start.time else None",
        "test_verdict.py::test_a_login_node_whose_clock_is_ahead",
        ("    if start.attempt == newest.name:", "    if False:"),
    ),
    "hang on one of several nodes": Switch(
        "step.sh starts the watchdog",
        "templates/step.sh.j2",
        "    if [[ $LOCAL_RANK == 0 ]]; then {{ plan.python|q }} -S -E -B",
        "    if [[ $LOCAL_RANK == x ]]; then {{ plan.python|q }} -S -E -B",
        "test_hangs.py::test_a_hang_on_one_of_two_nodes",
    ),
    "signals of sites and users": Switch(
        "step.sh ignores USR1 and USR2",
        "templates/step.sh.j2",
        "trap '' USR1 USR2 #",
        ": '' USR1 USR2 #",
        "test_signals.py::test_a_users_own_notice_is_honoured",
    ),
    "NaN without a check": Switch(
        "the last logged losses are looked at",
        "launcher/contract/verdict.py",
        "        if not loss_is_not_finite(line):\n            break\n",
        "        break\n",
        "test_megatron.py",
        megatron="nan unchecked",
    ),
    "a lost peer and the real cause": Switch(
        "ranks that report nothing are the ones that did not come",
        "launcher/contract/verdict.py",
        '    return _hang_with_ranks(found, attempt, ranks) if found.failure == "hang" else found',
        "    return found",
        "test_causes.py::test_of_a_hang_the_rank_that_did_not_come_is_named",
    ),
    "what a resume forgot": Switch(
        "holds count for one submission",
        "launcher/api/resume.py",
        '_OF_ONE_SUBMISSION = ("hold", "begin", "deadline", "dependency")',
        '_OF_ONE_SUBMISSION = ("begin", "deadline", "dependency")',
        "test_resume_request.py::test_a_run_of_an_allocation_keeps_its_nodes_and_a_hold_is_of_one_job",
    ),
    "verdict with the job's GPU variables": Switch(
        "the verdict's step asks for no GPU, and the launcher's own interpreter takes its place",
        SBATCH,
        '        unset "$variable"\n    done\n}',
        "    done\n}",
        "test_verdict.py::test_the_verdict_does_not_take_the_resources_of_the_training",
        (
            '[[ -n $word ]] || word=$({{ plan.launcher_python|q }} "${verdict[@]}" 2>>"$attempt_dir/logs/verdict.log")',
            ":",
        ),
    ),
    "another user's directory": Switch(
        "owners are compared",
        "launcher/_util/ownership.py",
        "    link = directory.lstat()\n",
        "    return\n    link = directory.lstat()\n",
        "test_ownership.py::test_a_run_is_not_made_where_another_user_could_replace_it",
    ),
}


def tried(fault: str) -> str:
    """Switch the mechanism of a fault off, run its test, and return a row about it."""
    switch = SWITCHES[fault]
    path = ROOT / switch.file
    before = path.read_text()
    began = time.monotonic()
    argv = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/faults/{switch.test}"]
    environ = {**os.environ, "TEST_TIME_SCALE": os.environ.get("TEST_TIME_SCALE", "0.5")}
    if switch.megatron:
        environ["TEST_FAULT_OF_MEGATRON"] = switch.megatron
    try:
        changed = before.replace(switch.on, switch.off)
        path.write_text(changed.replace(*switch.second) if switch.second[0] else changed)
        done = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    finally:
        path.write_text(before)
    word = {0: "PASSED", 1: "fails"}.get(done.returncode, f"status {done.returncode}")
    why = next((line for line in done.stdout.splitlines() if line.startswith("E  ")), "")[:100].strip()
    return f"{fault}: {word} ({time.monotonic() - began:.0f} s) without: {switch.what} | {why}"


def main() -> None:
    """Try the faults that were named, else all."""
    for fault in sys.argv[1:] or FAULTS:
        print(tried(fault), flush=True)


if __name__ == "__main__":
    main()
