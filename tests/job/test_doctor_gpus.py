"""Verdicts over what nvidia-smi and the kernel's log have said; the texts are recorded ones, or written like them."""

import pytest

from launcher.contract.checks import Check
from launcher.job.doctor import gpus, links, xid
from launcher.job.doctor.expected import Expected
from launcher.job.doctor.probes import Reading

H100 = Expected(device="gpu", gpu="H100")
GONE = Reading(None, "nvidia-smi is not installed")

BASIC = """\
0, NVIDIA H100 80GB HBM3, 00000000:19:00.0, 570.133.20, 81559, 1
1, NVIDIA H100 80GB HBM3, 00000000:3B:00.0, 570.133.20, 81559, 1
"""
ECC = "0, Enabled, 0, 0\n1, Enabled, 0, 3\n"
ROWS = "00000000:19:00.0, 0, No, No\n00000000:3B:00.0, 1, No, No\n"
CLOCKS = """\
0, 700.00, 700.00, 1980, Not Active, Not Active, Not Active, Not Active
1, 700.00, 700.00, 1980, Not Active, Not Active, Not Active, Not Active
"""
NVLINK = "\n".join(
    line
    for gpu in (0, 1)
    for line in (
        f"GPU {gpu}: NVIDIA H100 80GB HBM3 (UUID: GPU-1)",
        *(f"\t Link {link}: 26.562 GB/s" for link in range(18)),
    )
)
LOG = """\
[    8.1] nvidia-nvlink: Nvlink Core is being initialized, major device number 234
[  511.2] NVRM: Xid (PCI:0000:19:00): 31, pid=4242, name=python, Ch 00000008, intr 00000000. MMU Fault
"""


def node(basic: str = BASIC, ecc: str = ECC, rows: str = ROWS, clocks: str = CLOCKS) -> gpus.Gpus:
    return gpus.Gpus(Reading(basic), Reading(ecc), Reading(rows), Reading(clocks))


def all_checks(seen: gpus.Gpus, expected: Expected = H100, ranks: int = 2) -> dict[str, Check]:
    checks = [gpus.count_check(seen, expected, ranks), gpus.kind_check(seen, expected)]
    checks += [judge(seen) for judge in gpus.CHECKS.values()]
    return {check.name: check for check in checks}


def test_a_healthy_node() -> None:
    found = all_checks(node())
    assert {check.verdict for check in found.values()} == {"ok"}
    assert set(gpus.CHECKS) < set(found)
    assert found["gpus"].number == 2
    assert found["gpu type"].value == "NVIDIA H100 80GB HBM3"
    assert found["remapped rows"].value == "1 replaced"
    assert found["clocks"].value == "up to 1980 MHz"
    assert gpus.addresses(node()) == ["0000:19:00.0", "0000:3b:00.0"]
    assert gpus.facts(node())["driver"] == "570.133.20"


@pytest.mark.parametrize(
    ("seen", "name", "verdict", "words"),
    [
        (
            node(basic=BASIC.splitlines()[0]),
            "gpus",
            "fail",
            "2 ranks were started on this node, but only 1 GPUs are seen",
        ),
        (node(basic=BASIC.replace("H100 80GB HBM3", "A100-SXM4-80GB")), "gpu type", "fail", "the profile says H100"),
        (node(basic=BASIC.replace("H100", "H200", 1)), "gpu type", "fail", "the GPUs of this node differ"),
        (node(basic=BASIC.replace("81559, 1\n", "81559, 40111\n", 1)), "gpu memory", "warn", "GPU 0: 40111 MiB"),
        (node(ecc="0, Enabled, 2, 2\n1, Enabled, 0, 0\n"), "ecc", "fail", "uncorrected"),
        (node(ecc="0, Disabled, [N/A], [N/A]\n1, Enabled, 0, 0\n"), "ecc", "warn", "ECC is off on GPU 0"),
        (node(rows=ROWS.replace("1, No, No", "1, Yes, No")), "remapped rows", "fail", "00000000:3B:00.0, until"),
        (node(rows=ROWS.replace("1, No, No", "9, No, Yes")), "remapped rows", "fail", "no spare rows are left"),
        (node(rows=ROWS.replace("1, No, No", "9, 0, 1")), "remapped rows", "fail", "no spare rows are left"),
        (
            node(clocks=CLOCKS.replace("1980, Not Active, Not Active", "1980, Active, Active", 1)),
            "clocks",
            "fail",
            "held down by heat",
        ),
        (
            node(clocks=CLOCKS.replace("Not Active, Not Active\n", "Active, Not Active\n", 1)),
            "clocks",
            "fail",
            "power supply",
        ),
        (node(clocks=CLOCKS.replace("Not Active\n", "Active\n", 1)), "clocks", "warn", "because of heat"),
        (node(clocks=CLOCKS.replace("700.00, 700.00", "500.00, 700.00", 1)), "clocks", "warn", "500.00 W"),
    ],
)
def test_what_is_wrong_is_found_and_nothing_else(seen: gpus.Gpus, name: str, verdict: str, words: str) -> None:
    found = all_checks(seen)
    assert found[name].verdict == verdict
    assert words in found[name].reason
    assert found[name].remedy
    assert {check.name for check in found.values() if check.verdict in ("warn", "fail")} == {name}


def test_unknown_is_never_ok() -> None:
    silent = gpus.Gpus(GONE, GONE, GONE, GONE)
    found = all_checks(silent)
    assert found.pop("gpus").verdict == "fail"
    assert {check.verdict for check in found.values()} == {"skip"}
    assert all("nvidia-smi is not installed" in check.reason for check in found.values())
    assert gpus.count_check(silent, Expected(device="auto"), 2).verdict == "skip"
    assert gpus.count_check(silent, Expected(device="cpu"), 2).verdict == "skip"
    lacking = gpus.Gpus(Reading(BASIC), Reading("0, [N/A], [N/A], [N/A]\n"), Reading("x, [N/A], [N/A], [N/A]"), GONE)
    assert {
        check.verdict for name, check in all_checks(lacking).items() if name in ("ecc", "remapped rows", "clocks")
    } == {"skip"}
    assert gpus.kind_check(node(), Expected(device="gpu")).verdict == "skip"


@pytest.mark.parametrize(
    ("gpu", "name", "verdict"),
    [
        ("B200", "NVIDIA GB200", "fail"),
        ("GB200", "NVIDIA GB200", "ok"),
        ("B200", "NVIDIA B200", "ok"),
        ("H100", "NVIDIA H100 80GB HBM3", "ok"),
        ("H20", "NVIDIA H200", "fail"),
        ("A100", "NVIDIA A100-SXM4-40GB", "ok"),
    ],
)
def test_types_of_gpus(gpu: str, name: str, verdict: str) -> None:
    seen = node(basic=BASIC.replace("NVIDIA H100 80GB HBM3", name))
    assert gpus.kind_check(seen, Expected(device="gpu", gpu=gpu)).verdict == verdict


@pytest.mark.parametrize(
    ("visible", "ranks", "verdict"),
    [
        ("0,1", 2, "ok"),
        ("0", 2, "fail"),
        ("", 2, "fail"),
        ("NoDevFiles", 2, "fail"),
        ("0,1,2,3", 2, "fail"),
        (None, 2, "skip"),
    ],
)
def test_what_slurm_gave(visible: str | None, ranks: int, verdict: str) -> None:
    environ = {"SLURM_JOB_ID": "7"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert gpus.share_check(environ, H100, ranks).verdict == verdict
    assert gpus.share_check({}, H100, ranks).verdict == "skip"


@pytest.mark.parametrize(
    ("numbers", "verdict", "remedy"),
    [
        ((), "ok", ""),
        ((31,), "warn", "keep the node"),
        ((13, 43, 63, 94), "warn", "keep the node"),
        ((79,), "fail", "reboot"),
        ((54, 79), "fail", "repaired"),
        ((31, 48), "fail", "reset"),
        ((74,), "fail", "reset"),
        ((95, 119, 120), "fail", "reset"),
        ((999,), "warn", "keep the node"),
    ],
)
def test_xids(numbers: tuple[int, ...], verdict: str, remedy: str) -> None:
    log = "\n".join(f"[  1.0] NVRM: Xid (PCI:0000:3b:00): {number}, pid=1, GPU has fallen" for number in numbers)
    check = xid.xid_check(Reading(log), True)
    assert check.verdict == verdict
    assert remedy in check.remedy


def test_a_kernel_log() -> None:
    assert xid.parse(LOG) == [("0000:19:00", 31)]
    check = xid.xid_check(Reading(LOG + "NVRM: Xid (PCI:0000:3B:00): 79, GPU has fallen off the bus.\n"), True)
    assert check.reason == "Xid 79 (the GPU has fallen off the bus) on 0000:3b:00"
    assert check.value == "31 x1, 79 x1"
    unreadable = Reading(None, "dmesg ended with status 1: dmesg: read kernel buffer failed: Operation not permitted")
    assert xid.xid_check(unreadable, True).verdict == "skip"
    assert xid.xid_check(Reading(""), False).verdict == "skip"


def test_nvlink() -> None:
    assert links.parse_nvlink(NVLINK) == {"0": (18, 0), "1": (18, 0)}
    assert links.nvlink_check(Reading(NVLINK), 2).value == "18 links each"
    down = NVLINK.replace("Link 17: 26.562 GB/s", "Link 17: <inactive>", 1)
    check = links.nvlink_check(Reading(down), 2)
    assert (check.verdict, check.value) == ("fail", "GPU 0: 17 of 18")
    fewer = "\n".join(NVLINK.splitlines()[:-1])
    assert links.nvlink_check(Reading(fewer), 2).value == "GPU 1: 17 of 18"
    assert links.nvlink_check(Reading("GPU 0: NVIDIA L4 (UUID: GPU-1)\n"), 1).verdict == "skip"
    assert links.nvlink_check(Reading(None, "no"), 2).verdict == "skip"
    assert links.nvlink_check(Reading(NVLINK), 0).verdict == "skip"
