"""Checks of Slurm itself: whether it answers, and whether this user may submit what the profile requests."""

import re
from collections.abc import Sequence

from launcher.contract.checks import Check, fail, ok, skip, warn
from launcher.doctor.site import CommandOutput, Site
from launcher.slurm.nodes import Node

_TOO_FEW = "node configuration is not available"
"""sbatch's message both for resources that no node has and for nodes that are down."""


def slurm_check(site: Site) -> Check:
    """Check that Slurm's controller answers."""
    name = "slurm"
    if not site.has_slurm:
        return skip(name, str(site.why_unknown))
    if site.slurm_error is not None:
        return fail(
            name,
            "no answer",
            site.slurm_error,
            "wait until the controller is back; on a machine other than the login node, SLURM_CONF must name the "
            "cluster's slurm.conf",
        )
    release = ".".join(f"{part:02d}" if index else str(part) for index, part in enumerate(site.release))
    down = re.findall(r"(\S+ at \S+) is DOWN", site.controllers)
    if down:
        return warn(
            name,
            release,
            f"{', '.join(down)} is down; another controller answers",
            "report it to the administrators: if that one fails as well, nothing can be submitted",
        )
    return ok(name, f"{release}, {site.config.get('ClusterName', 'no name')}")


def munge_check(site: Site) -> Check:
    """Check that a munge credential can be created and decoded."""
    name = "munge"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    if site.munge.text is None and site.config.get("AuthType") != "auth/munge":
        return skip(name, site.munge.why)
    if site.munge.text is None or "Success" not in site.munge.text:
        return fail(
            name,
            "refused",
            site.munge.why or "the credential could not be decoded",
            "munged must run on this machine with the cluster's key, and the clocks must agree",
        )
    return ok(name, "works")


def partition_check(site: Site) -> Check:
    """Check that the partition exists and is up."""
    name = "partition"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    wanted = site.partition
    known = sorted({group.partition for group in site.groups})
    if wanted is None:
        return fail(
            name,
            "none",
            "the profile names no partition, and Slurm has no default",
            f"name one: partition = ... in the profile ({', '.join(known)})",
        )
    groups = [group for group in site.groups if group.partition == wanted]
    if not groups:
        return fail(name, wanted, f"there is no partition {wanted!r}", f"name one of: {', '.join(known)}")
    if not all(group.up for group in groups):
        return fail(name, wanted, "the partition is not up: no job starts", "choose another: `sinfo -s` lists them")
    return ok(name, wanted)


def nodes_check(site: Site) -> Check:
    """Check that enough nodes are usable, among them those that the request names."""
    name = "nodes"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    own = site.own_nodes
    away = [node for node in own if not node.usable]
    usable = len(own) - len(away)
    wanted = site.request.nodes or 1
    value = f"{usable} of {len(own)} usable"
    remedy = "choose others, or ask the administrators to resume them (scontrol update nodename=... state=resume)"
    named = [node for node in away if node.name in site.nodelist]
    if named:
        return fail(name, value, f"of the requested nodes, {_words(named)}", remedy, usable)
    if usable < wanted:
        words = f": {_words(away)}" if away else ""
        return fail(name, value, f"{wanted} nodes are requested, {usable} are usable{words}", remedy, usable)
    return ok(name, value, usable)


def _words(nodes: Sequence[Node]) -> str:
    listed = (f"{node.name} is {node.state}{f' ({node.reason})' if node.reason else ''}" for node in nodes[:8])
    return "; ".join(listed)


def accounts_check(site: Site) -> Check:
    """Check that the user may use the profile's account and QOS."""
    name = "account"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    account, qos = site.request.account or site.cluster.account, site.request.qos or site.cluster.qos
    wanted = " ".join(f"{key} {value}" for key, value in (("account", account), ("qos", qos)) if value)
    if site.associations.text is None:
        return skip(name, site.associations.why, wanted)
    rows = [line.split("|") for line in site.associations.text.splitlines() if line.count("|") >= 2]
    accounts = sorted({row[0] for row in rows})
    named = [row for row in rows if account is None or row[0] == account]
    if not rows or not named:
        what = f"account {account!r}" if account else "any account"
        return fail(
            name,
            wanted or "none",
            f"{site.host.user} has no association with {what}",
            f"yours: {', '.join(accounts) or 'none'}; ask the administrators, or name another in the profile",
        )
    if qos is not None and not any(qos in row[2].split(",") for row in named):
        there = sorted({each for row in named for each in row[2].split(",") if each})
        return fail(name, wanted, f"you may not use qos {qos!r}", f"yours: {', '.join(there) or 'none'}")
    return ok(name, wanted or f"{len(accounts)} to choose from")


def directives_check(site: Site, tested: CommandOutput) -> Check:
    """Check that sbatch accepts the script that a run would be submitted with."""
    name = "directives"
    if unknown := site.why_unknown:
        return skip(name, unknown)
    if tested.text is None and not tested.why.startswith("sbatch ended"):
        return skip(name, tested.why)
    if tested.text is None and _TOO_FEW in tested.why and nodes_check(site).verdict == "fail":
        return skip(name, "sbatch --test-only needs more usable nodes (see nodes)")
    if tested.text is None:
        return fail(
            name,
            "refused",
            tested.why,
            "`launcher plan RECIPE --script` shows the options; remove a directive of the profile with KEY = false, or "
            "for one run with --unset-sbatch KEY",
        )
    return ok(name, "accepted (sbatch --test-only)")


CHECKS = (slurm_check, munge_check, partition_check, nodes_check, accounts_check)
"""Checks that need only the answers of the site, in the order of the table."""
