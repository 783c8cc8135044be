"""Every path of a run directory.

    <run root>/<name>/<run id>/     RunPaths
        attempts/NNN/               AttemptPaths: one execution of the run

Templates write some of these paths themselves; tests/contract holds them to this module.
"""

import zlib
from pathlib import Path

from launcher.contract.frozen import dataclass

CODE = "code"
RECIPE = "recipe"
"""Below code/: the recipe with the *.py beside it."""

CHECK = "check.json"
"""Of a run that checks a configuration: below code/ the request, in the attempt the answer."""

MODELS = "models"
"""Below code/: the architectures of configs/models."""

ENTRYPOINT = "entrypoint.py"
CODE_SUMS = "sums.json"
"""Below code/: the SHA-256 of each file there, by path."""

PLAN, ARGV = "plan.json", "argv.json"
JOURNAL, LEASE, ATTEMPTS = "journal.jsonl", "lease", "attempts"
RESULT, NETWORK = "result.json", "network"
"""In the directory of an attempt."""

SBATCH_SCRIPT, STEP_SCRIPT, ENTER_SCRIPT = "sbatch.sh", "step.sh", "enter.sh"

MANIFEST = "launcher-manifest.json"
"""In a checkpoint's own directory: names, sizes and sums of its files."""

FLIGHT_RECORDER = "flight-recorder-rank-"
"""Start of a dump's file name in the directory of an attempt; torch appends the rank."""

PULLED = ".pulled-from"
"""In a copy that `launcher pull` made: host and path of the run, size of its journal, whether it has checkpoints."""

SCRIPTS = (SBATCH_SCRIPT, STEP_SCRIPT, ENTER_SCRIPT)
"""Rendered from the plan. `enter.sh` where the launcher itself leads tasks into the image."""


def attempt_name(number: int) -> str:
    """Return the name of an attempt's directory: `000`."""
    return f"{number:03d}"


@dataclass(frozen=True)
class AttemptPaths:
    """The paths of one execution of a run: `attempts/NNN` in its directory."""

    path: Path

    @property
    def name(self) -> str:
        """The attempt's number, as in its path: `000`."""
        return self.path.name

    @property
    def start(self) -> Path:
        """Which submission and which start of its job the attempt belongs to; a StartRecord."""
        return self.path / "start"

    @property
    def nodes(self) -> Path:
        """Slurm's names of the attempt's nodes in the order of their ranks, one a line."""
        return self.path / "nodes"

    @property
    def node_check(self) -> Path:
        """Which nodes of a job with spare ones train, and why; a NodeCheck."""
        return self.path / "node_check.json"

    @property
    def node_check_lines(self) -> Path:
        """What each node's check has found, one JSON line for each: what node_check.json is made from."""
        return self.path / "node_check.jsonl"

    @property
    def gates(self) -> Path:
        """Which programs that had to pass before the ranks have been run, and what became of each; a GatesRecord."""
        return self.path / "gates.json"

    @property
    def gate_outputs(self) -> Path:
        """The directory of what such programs have printed: NAME.txt and NAME.err."""
        return self.path / "gates"

    @property
    def logs(self) -> Path:
        """The directory of the logs of ranks and of srun."""
        return self.path / "logs"

    @property
    def srun_log(self) -> Path:
        """What srun said."""
        return self.logs / "srun.log"

    @property
    def node_check_log(self) -> Path:
        """What srun said of the check of the nodes of a job with spare ones."""
        return self.logs / "node_check.log"

    @property
    def verdict_log(self) -> Path:
        """What srun said of the steps after the training: the verdict and the clean-up."""
        return self.logs / "verdict.log"

    @property
    def ranks(self) -> Path:
        """The directory of what the ranks of each node left about their ends."""
        return self.path / "ranks"

    @property
    def timeline(self) -> Path:
        """One JSON line for each phase of the attempt."""
        return self.path / "timeline.jsonl"

    @property
    def metrics(self) -> Path:
        """One JSON line for each iteration."""
        return self.path / "metrics.jsonl"

    @property
    def environment(self) -> Path:
        """The environment of rank 0."""
        return self.path / "environment.json"

    @property
    def megatron(self) -> Path:
        """Which Megatron-Core, Megatron-LM and Megatron Bridge rank 0 has imported."""
        return self.path / "megatron.json"

    @property
    def trackers(self) -> Path:
        """Where W&B, MLflow and TensorBoard have the attempt."""
        return self.path / "trackers.json"

    @property
    def config(self) -> Path:
        """The configuration as Megatron Bridge trained with it."""
        return self.path / "config.yaml"

    @property
    def profiles(self) -> Path:
        """The directory of what profilers captured (names: contract/profiles.py)."""
        return self.path / "profiles"

    @property
    def network(self) -> Path:
        """The directory of what each node's network turned out to be."""
        return self.path / NETWORK

    @property
    def placement(self) -> Path:
        """The directory of what each node's ranks were bound to."""
        return self.path / "placement"

    @property
    def telemetry(self) -> Path:
        """The directory of what each node's GPUs and network adapters did."""
        return self.path / "telemetry"

    @property
    def stacks(self) -> Path:
        """The directory of what watchdogs wrote about ranks without progress: records, stacks, flight recorders."""
        return self.path / "stacks"

    @property
    def doctor(self) -> Path:
        """The directory of what `launcher doctor` found on each rank."""
        return self.path / "doctor"

    @property
    def checkpoint_choice(self) -> Path:
        """The checkpoint that the attempt starts from, as rank 0 chose it for all ranks."""
        return self.path / "checkpoint.json"

    @property
    def sums(self) -> Path:
        """The directory in which nodes share the sums of the checkpoint that is to be loaded."""
        return self.path / "sums"

    @property
    def result_file(self) -> Path:
        """How the attempt ended; missing while it goes on."""
        return self.path / RESULT

    @property
    def next_file(self) -> Path:
        """What was decided after the attempt, where the run keeps going."""
        return self.path / "next.json"

    @property
    def successor(self) -> Path:
        """The token of a successor and then sbatch's options for it, one a line; read by sbatch.sh."""
        return self.path / "successor"

    @property
    def stop(self) -> Path:
        """The file whose existence asks the ranks to save and stop; its first line says why."""
        return self.path / "stop"

    @property
    def signalled(self) -> Path:
        """A file of step.sh for sbatch.sh, where Slurm has sent SIGTERM to a task."""
        return self.path / "signalled"

    @property
    def notice(self) -> Path:
        """Why the attempt is ended from outside, as the controller or the journal says; missing where it is not."""
        return self.path / "notice.json"

    def log(self, rank: int) -> Path:
        """Return the path of a rank's log."""
        return self.logs / f"rank-{rank:04d}.log"

    def probe(self, rank: int) -> Path:
        """Return the path of what a rank's probes have recorded (job/probe.py)."""
        return self.path / "probe" / f"{rank:04d}.jsonl"

    def nccl_log(self, rank: int) -> Path:
        """Return the path of NCCL's own log of a rank."""
        return self.logs / f"nccl-rank-{rank:04d}.log"

    def node_ends(self, node: int) -> Path:
        """Return the path of what the ranks of a node, and their step.sh, have left about their ends."""
        return self.ranks / f"node-{node:04d}.jsonl"

    def gate_output(self, name: str) -> Path:
        """Return the path of what a gate has printed."""
        return self.gate_outputs / f"{name}.txt"

    def gate_errors(self, name: str) -> Path:
        """Return the path of what a gate, and the srun that started it, wrote as errors."""
        return self.gate_outputs / f"{name}.err"

    def network_record(self, rank: int) -> Path:
        """Return the path of the report about the network of the node whose first rank is `rank`."""
        return self.network / f"{rank:04d}.json"

    def network_warning(self, rank: int) -> Path:
        """Return the path of the sentence about that network; there where somebody should read it."""
        return self.network / f"{rank:04d}.warning"

    def hang_record(self, node: int) -> Path:
        """Return the path of what a node's watchdog has seen of ranks without progress."""
        return self.stacks / f"node-{node:04d}.json"

    def telemetry_record(self, node: int) -> Path:
        """Return the path of what a node's GPUs and adapters did, as its watchdog has sampled it."""
        return self.telemetry / f"{node:04d}.json"

    def stacks_of_node(self, node: int) -> Path:
        """Return the path of the stacks of a node's ranks, as text."""
        return self.stacks / f"node-{node:04d}.txt"

    def flight_recorder(self, rank: int) -> Path:
        """Return the path of a rank's dump of torch's flight recorder, a pickle that `torchfrtrace` reads."""
        return self.stacks / f"{FLIGHT_RECORDER}{rank}"

    def unwatched(self, rank: int) -> Path:
        """Return the path of the reason why a rank cannot count its steps; then its node is not watched."""
        return self.stacks / f"unwatched-{rank:04d}"

    def placement_record(self, rank: int) -> Path:
        """Return the path of what the ranks of the node whose first rank is `rank` were bound to."""
        return self.placement / f"{rank:04d}.json"


@dataclass(frozen=True)
class RunPaths:
    """The paths of a run: `<run root>/<name>/<run id>`."""

    path: Path

    @property
    def plan_file(self) -> Path:
        """The plan, complete; secrets by name only."""
        return self.path / PLAN

    @property
    def argv_file(self) -> Path:
        """What each rank is given: recipe, arguments, overrides, options."""
        return self.path / ARGV

    @property
    def sbatch_script(self) -> Path:
        """The host's side of a run under Slurm."""
        return self.path / SBATCH_SCRIPT

    @property
    def step_script(self) -> Path:
        """What one task executes."""
        return self.path / STEP_SCRIPT

    @property
    def enter_script(self) -> Path:
        """How a command gets into the image with enroot or bwrap."""
        return self.path / ENTER_SCRIPT

    @property
    def sbatch_log(self) -> Path:
        """What sbatch.sh said."""
        return self.path / "sbatch.log"

    @property
    def code(self) -> Path:
        """The snapshot of code that the run executes."""
        return self.path / CODE

    @property
    def code_sums(self) -> Path:
        """The SHA-256 of each file of code/ when the run was made, by path; rank 0 compares before it trains."""
        return self.code / CODE_SUMS

    @property
    def entrypoint(self) -> Path:
        """The program of each rank."""
        return self.code / ENTRYPOINT

    @property
    def result_program(self) -> Path:
        """The program that composes result.json."""
        return self.code / "launcher/job/result.py"

    @property
    def gate_program(self) -> Path:
        """The program that judges a gate."""
        return self.code / "launcher/job/gate.py"

    @property
    def watchdog_program(self) -> Path:
        """The program that watches the ranks of a node for hangs."""
        return self.code / "launcher/job/watch/watchdog.py"

    @property
    def node_check_program(self) -> Path:
        """The program that checks the nodes of a job with spare ones."""
        return self.code / "launcher/job/doctor/node_check.py"

    @property
    def nsys_program(self) -> Path:
        """The program around nsys."""
        return self.code / "launcher/job/profiling/nsys.py"

    @property
    def journal_file(self) -> Path:
        """What the launcher did, one JSON line each."""
        return self.path / JOURNAL

    @property
    def ended_jobs(self) -> Path:
        """What Slurm has said of jobs that have ended for good, so that `status` does not ask again."""
        return self.path / "ended-jobs.json"

    @property
    def lease(self) -> Path:
        """The file that names the run's owner; missing while no job or process executes the run."""
        return self.path / LEASE

    @property
    def attempts_directory(self) -> Path:
        """The directory of all attempts."""
        return self.path / ATTEMPTS

    @property
    def latest(self) -> Path:
        """A symbolic link to the newest attempt."""
        return self.path / "latest"

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go unless the user says otherwise."""
        return self.path / "checkpoints"

    @property
    def manifests(self) -> Path:
        """The directory of manifests of checkpoints that are saved outside the run."""
        return self.path / "manifests"

    @property
    def set_aside_directory(self) -> Path:
        """The directory of the markers of checkpoints that were found damaged and are not loaded any more."""
        return self.path / "set-aside"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard's files go unless the user says otherwise."""
        return self.path / "tensorboard"

    @property
    def page(self) -> Path:
        """What `launcher page` made of the run."""
        return self.path / "page.html"

    @property
    def evaluations(self) -> Path:
        """What `launcher evaluate` found, a file for each evaluation."""
        return self.path / "evaluations"

    def export(self, iteration: int) -> Path:
        """Return the path of the model that `launcher evaluate` exported of an iteration, as transformers loads it."""
        return self.path / "exports" / f"iter_{iteration:07d}"

    def ended_lease(self, nonce: str) -> Path:
        """Return the path of the lease of an owner that has ended."""
        return self.path / f"lease.{nonce}.ended"

    def manifest(self, checkpoint: Path) -> Path:
        """Return the path of the manifest of a checkpoint: in its directory `iter_NNNNNNN` if that is the run's.

        Nothing is written into a directory outside the run.
        """
        if checkpoint.resolve().is_relative_to(self.path.resolve()):
            return checkpoint / MANIFEST
        of_directory = zlib.crc32(str(checkpoint.parent.resolve()).encode())
        return self.manifests / f"{checkpoint.name}-{of_directory:08x}.json"

    def set_aside(self, iteration: int) -> Path:
        """Return the path of the marker that sets the checkpoint of an iteration aside."""
        return self.set_aside_directory / f"iter_{iteration:07d}.json"

    def attempt_paths(self, name: str) -> AttemptPaths:
        """Return the paths of the attempt of this name (`000`), whether it exists or not."""
        return AttemptPaths(self.attempts_directory / name)
