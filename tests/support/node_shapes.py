"""Nodes of the sites that profiles ship for: sockets, cores of a socket, threads of a core, GPUs and memory.

Facts, each with where it was read. `assumed` are those of which no source could be opened; they are like the nodes of
their generation elsewhere, and their profiles state nothing about CPUs that could be wrong on others.
"""

from tests.support.slurm.config import NodeShape

GIB = 1024
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ac.html
_P4 = NodeShape(2, 24, 2, 8, 1152 * GIB)
_P5 = NodeShape(2, 48, 2, 8, 2048 * GIB)
_P6_B300 = NodeShape(2, 48, 2, 8, 4096 * GIB)
_P6E = NodeShape(2, 72, 1, 4, 960 * GIB)
# Azure/azurehpc-health-checks:conf/nd96isr_h100_v5.conf@0e0a1ac (check_hw_cpuinfo 2 96 96)
_AZURE_H100 = NodeShape(2, 48, 1, 8, 1909409116 // 1024)
# The 128 of the name Standard_ND128isr; https://learn.microsoft.com/azure/virtual-machines/sizes/gpu-accelerated
_AZURE_GB200 = NodeShape(2, 64, 1, 4, 900 * GIB)
# https://docs.coreweave.com/platform/instances; coreweave/nccl-tests:mpi-operator@cb86553
_COREWEAVE = NodeShape(2, 32, 2, 8, 2048 * GIB)
# mlcommons/training_results_v5.1:NVIDIA/systems/tyche_ngpu8_ngc25.09_nemo.json@4da2d1cd, theia_ngpu8_ngc25.09_nemo.json
_GRACE = NodeShape(2, 72, 1, 4, 1700 * GIB)
# oracle-quickstart/oci-hpc:mgmt/lib/functions.py@b5285a6 (BM.GPU.H100.8, BM.GPU.H200.8);
# https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html
_SAPPHIRE_RAPIDS = NodeShape(2, 56, 2, 8, 2048 * GIB)
# Assumed: 208 and 140 vCPUs of Google's machine types.
_A3_MEGA = NodeShape(2, 52, 2, 8, 1872 * GIB)
_A4X = NodeShape(2, 70, 1, 4, 884 * GIB)

SHAPES = {
    "aws-p4d": _P4,
    "aws-p5": _P5,
    "aws-p5en": _P5,
    "aws-p6-b200": _P5,
    "aws-p6-b300": _P6_B300,
    "aws-p6e-gb200": _P6E,
    "azure-nd-h100-v5": _AZURE_H100,
    "azure-nd-h200-v5": _AZURE_H100,
    "azure-nd-gb200-v6": _AZURE_GB200,
    "azure-nd-gb300-v6": _AZURE_GB200,
    "coreweave-h100": _COREWEAVE,
    "coreweave-h200": _COREWEAVE,
    "coreweave-b200": _COREWEAVE,
    "coreweave-b300": _COREWEAVE,
    "coreweave-gb200": _GRACE,
    "coreweave-gb300": _GRACE,
    "coreweave-gb300-roce": _GRACE,
    "dgx-h100": _SAPPHIRE_RAPIDS,
    "dgx-b200": _SAPPHIRE_RAPIDS,  # assumed
    "dgx-b300": _SAPPHIRE_RAPIDS,  # assumed
    "dgx-gb200-nvl72": _GRACE,
    "dgx-gb300-nvl72": _GRACE,
    "gcp-a3-mega": _A3_MEGA,
    "gcp-a3-ultra": _SAPPHIRE_RAPIDS,  # assumed: 224 vCPUs
    "gcp-a4": _SAPPHIRE_RAPIDS,  # assumed: 224 vCPUs
    "gcp-a4x": _A4X,
    "gcp-a4x-max": _GRACE,  # assumed
    "oci-h100": _SAPPHIRE_RAPIDS,
    "oci-h200": _SAPPHIRE_RAPIDS,
    "oci-b200": _SAPPHIRE_RAPIDS,  # assumed
    "oci-b300": _SAPPHIRE_RAPIDS,  # assumed
    "oci-gb200": _GRACE,
    "oci-gb300": _GRACE,
}
