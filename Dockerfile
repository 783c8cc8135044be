# The training image: torch, Transformer Engine, Megatron Core and Bridge, for EFA and for InfiniBand, on linux/amd64
# and linux/arm64 (GB200). BuildKit (docker 23 and newer) and buildah 1.28 and newer build it:
#
#   docker build -t megatron-lm .                                      on NVIDIA's PyTorch image (the default)
#   docker build -t megatron-lm --build-arg BASE_IMAGE=... .           on another base, see below
#   docker build -t megatron-lm-cpu --target cpu .                     for CPU, from Debian and PyPI alone
#
# What a base lacks is added, what it has is kept: containers/*.sh look first. docs/measurements/dockerfile.md lists which
# steps were executed and where; docs/how-to/images.md shows how to change a version.

# --- Pinned versions; the source of each stands above it. ------------------------------------------------------------

# NVIDIA's PyTorch 26.06: PyTorch 2.13.0a0+8145d630e8, CUDA 13.3, Ubuntu 24.04 (PyTorch release notes, rel-26-06), on
# which Megatron-Bridge builds its own image (docker/Dockerfile.ci at 067f987df03b, 2026-08-22). The digest is that of the
# list for both architectures, as resolved by others on 2026-07-11 (its arm64 manifest is sha256:dcae8df08ef6...).
#
# The other base that is provided for, with PyTorch from requirements/gpu.txt (configs/images/megatron-cuda.toml):
#   nvcr.io/nvidia/cuda:13.0.2-devel-ubuntu24.04@sha256:5dc1bca23d05bd37b011be68ec470c03b403a5da07ec3a86e41af9470e9d0cc6
# torch 2.13.0 on PyPI is built for CUDA 13.0. devel, not runtime: kernels are compiled at run time, too.
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.06-py3@sha256:43c018d6a12963f1a1bad85ef8574b5c2a978eec2be0ebcacfb87f69e0d210e1

# The base of the target cpu: Debian 12 with CPython 3.12, the only one that Megatron Bridge 0.6.2 supports and that no
# Debian release has. The digest of the list for all architectures, as several public build recipes pin it.
#
# The other base that is provided for is Debian 12 itself (a public digest as well, or one made with mmdebstrap, see
# docs/how-to/images.md). Its Python 3.11 gets Megatron Bridge 0.3.1, from Debian and PyPI alone:
#   debian:12.11-slim@sha256:b1a741487078b369e78119849663d7f1a5341ef2768798f7b7406c4240f86aef
ARG CPU_BASE=python:3.12-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254

# EFA installer 1.50.0: libfabric 2.6.0amzn1.0, rdma-core 64.0, aws-ofi-nccl 1.21.1 (AWS, EFA release notes, 2026-08-21).
# AWS' page of checksums was not to be had; the sum is the one on which several public build recipes agree.
ARG EFA_VERSION=1.50.0
ARG EFA_SHA256=fa6dff8593d866866c13cb4640d9059835cd4efa427971f100ab40c97bef2841

# aws-ofi-nccl 1.21.1: tested with libfabric 2.6.0amzn1.0 and NCCL 2.31.2, for NCCL 2.17.1 and newer; the sum is on the
# page of the release (github.com/aws/aws-ofi-nccl/releases/tag/v1.21.1).
ARG OFI_NCCL_VERSION=1.21.1
ARG OFI_NCCL_SHA512=ab7aa6b6f2f5117252e7603cf39458ec9b2d03a4bc2d8b36ac61f0b41287bcea3de619ed2d1638b4258694f48380971a2c60a4eac8e230097e80de2bb8e04e75

# DeepEP's branch hybrid-ep of 2026-04-09 and the GPUs that it is compiled for (Hopper, Blackwell), as NVIDIA builds them
# for Megatron Bridge (Megatron-Bridge docker/Dockerfile.ci at v0.6.0, 51885cf13). An empty commit leaves both back ends
# out. The commit pins NCCL's source, a submodule, too.
ARG DEEPEP_COMMIT=34152ae28f80bcc3ee38d7a12cb2ad87cfd4ea72
ARG DEEPEP_ARCHS="9.0 10.0 12.0"

# Nsight Systems of CUDA 13.0.2, in the repository that NVIDIA's CUDA images have configured; it brings 2025.3.2.
# NVIDIA's PyTorch images have their own.
ARG NSYS_PACKAGE=cuda-nsight-systems-13-0
ARG NSYS_VERSION=13.0.2-1

# A site's own package index, or none (PIP_NO_INDEX=1, with wheels in containers/python/wheels). No credentials: a build
# argument stays in the history of the image.
ARG PIP_INDEX_URL=
ARG PIP_NO_INDEX=

# The target cpu takes torch alone from this index, in the pinned version, without a hash to compare: one without CUDA.
# The wheel on PyPI brings 2.6 GB of CUDA's libraries, without which it cannot be imported.
ARG TORCH_INDEX=

ARG REVISION=unknown

# --- The image for CPU; first, so that no engine looks at NVIDIA's registry for it -----------------------------------
FROM ${CPU_BASE} AS cpu-base
ARG TARGETARCH
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=bind,source=containers/system.sh,target=/mnt/system.sh \
    case "${TARGETARCH}" in amd64 | arm64) ;; *) echo "neither amd64 nor arm64: '${TARGETARCH}'" >&2; exit 1 ;; esac \
    && bash /mnt/system.sh

FROM cpu-base AS cpu-tools
ARG TARGETARCH
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=cache,id=pip-${TARGETARCH},target=/root/.cache/pip \
    --mount=type=bind,source=containers/python,target=/mnt/python \
    bash /mnt/python/packages.sh /mnt/python/tools.txt
COPY --chmod=0644 containers/venv.sh /etc/profile.d/launcher-venv.sh
ENV PATH=/opt/venv/bin:${PATH} \
    VIRTUAL_ENV=/opt/venv \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8
WORKDIR /workspace

FROM cpu-tools AS cpu
ARG TARGETARCH
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG TORCH_INDEX
RUN --mount=type=cache,id=pip-${TARGETARCH},target=/root/.cache/pip \
    --mount=type=bind,source=containers/python,target=/mnt/python \
    --mount=type=bind,source=requirements,target=/mnt/requirements \
    bash /mnt/python/cpu.sh /mnt/requirements
# Megatron is not imported here: without a GPU it needs what the launcher replaces in it (launcher/job/cpu).
RUN --mount=type=bind,source=containers/check.sh,target=/mnt/check.sh \
    --mount=type=bind,source=containers/versions.py,target=/mnt/versions.py \
    bash /mnt/check.sh --only python torch triton transformers nvidia-modelopt viztracer submitit py-spy rdma-core \
        --require python torch triton transformers nvidia-modelopt viztracer submitit py-spy rdma-core
ARG CPU_BASE
ARG REVISION
LABEL org.opencontainers.image.title="megatron-lm-cpu" \
      org.opencontainers.image.description="Megatron Core and Megatron Bridge without a GPU" \
      org.opencontainers.image.base.name="${CPU_BASE}" \
      org.opencontainers.image.revision="${REVISION}"

# --- What the base lacks of the distribution -------------------------------------------------------------------------
FROM ${BASE_IMAGE} AS base
ARG TARGETARCH
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=bind,source=containers/system.sh,target=/mnt/system.sh \
    --mount=type=bind,source=containers/torch_library.py,target=/mnt/torch_library.py \
    case "${TARGETARCH}" in amd64 | arm64) ;; *) echo "neither amd64 nor arm64: '${TARGETARCH}'" >&2; exit 1 ;; esac \
    && bash /mnt/system.sh && python3 /mnt/torch_library.py

# --- Tools that do not depend on torch, in /opt/venv -----------------------------------------------------------------
FROM base AS tools
ARG TARGETARCH
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=cache,id=pip-${TARGETARCH},target=/root/.cache/pip \
    --mount=type=bind,source=containers/python,target=/mnt/python \
    bash /mnt/python/packages.sh /mnt/python/tools.txt
ENV PATH=/opt/venv/bin:${PATH} \
    VIRTUAL_ENV=/opt/venv

# --- The training stack, in /opt/venv too ----------------------------------------------------------------------------
FROM tools AS packages
ARG TARGETARCH
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
RUN --mount=type=cache,id=pip-${TARGETARCH},target=/root/.cache/pip \
    --mount=type=bind,source=containers/python,target=/mnt/python \
    --mount=type=bind,source=requirements/gpu.txt,target=/mnt/gpu.txt \
    bash /mnt/python/packages.sh /mnt/gpu.txt

# --- DeepEP with HybridEP, and NVSHMEM: built here, copied from here with the training stack -------------------------
FROM packages AS experts
ARG TARGETARCH
ARG PIP_INDEX_URL
ARG PIP_NO_INDEX
ARG DEEPEP_COMMIT
ARG DEEPEP_ARCHS
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=cache,id=pip-${TARGETARCH},target=/root/.cache/pip \
    --mount=type=bind,source=containers/system.sh,target=/mnt/system.sh \
    --mount=type=bind,source=containers/experts.sh,target=/mnt/experts.sh \
    --mount=type=bind,source=containers/python,target=/mnt/python \
    bash /mnt/experts.sh

# --- EFA's user space ------------------------------------------------------------------------------------------------
FROM base AS fabric
ARG TARGETARCH
ARG EFA_VERSION
ARG EFA_SHA256
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=bind,source=containers/fabric.sh,target=/mnt/fabric.sh \
    bash /mnt/fabric.sh

# --- NCCL's plugin for it: built here, copied from here --------------------------------------------------------------
FROM fabric AS plugin
ARG TARGETARCH
ARG OFI_NCCL_VERSION
ARG OFI_NCCL_SHA512
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=bind,source=containers/system.sh,target=/mnt/system.sh \
    --mount=type=bind,source=containers/plugin.sh,target=/mnt/plugin.sh \
    bash /mnt/system.sh g++ libhwloc-dev make && bash /mnt/plugin.sh

# --- The image -------------------------------------------------------------------------------------------------------
FROM fabric AS megatron
ARG TARGETARCH
ARG NSYS_PACKAGE
ARG NSYS_VERSION
RUN --mount=type=cache,id=apt-${TARGETARCH},target=/var/cache/apt,sharing=locked \
    --mount=type=cache,id=lists-${TARGETARCH},target=/var/lib/apt,sharing=locked \
    --mount=type=bind,source=containers/profiler.sh,target=/mnt/profiler.sh \
    bash /mnt/profiler.sh
COPY --from=plugin /opt/amazon/ofi-nccl /opt/amazon/ofi-nccl
COPY --from=experts /opt/venv /opt/venv
# HybridEP compiles kernels when it runs, with the headers and libraries that this directory names.
COPY --from=experts /opt/rdma-core /opt/rdma-core
COPY --chmod=0644 containers/venv.sh /etc/profile.d/launcher-venv.sh
RUN printf '%s\n' /opt/amazon/efa/lib /opt/amazon/ofi-nccl/lib >/etc/ld.so.conf.d/fabric.conf && ldconfig

# No NCCL_*, FI_* or UCX_* variable is set: an image does not know its fabric, and a variable of the image would have to
# be beaten on every other cluster. Cluster profiles set them. (NVIDIA's base sets NCCL_NET_PLUGIN=spcx; on EFA
# the launcher names the plugin of this image instead.) No entrypoint either: neither enroot nor pyxis nor bwrap needs one.
# CUDA_HOME is read by HybridEP, which calls nvcc; NVIDIA's CUDA images do not set it.
ENV PATH=/opt/venv/bin:${PATH} \
    VIRTUAL_ENV=/opt/venv \
    CUDA_HOME=/usr/local/cuda \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LANG=C.UTF-8
WORKDIR /workspace

# Everything is imported; what is missing, broken or not the base's own torch any more ends the build.
ARG DEEPEP_COMMIT
RUN --mount=type=bind,source=containers/check.sh,target=/mnt/check.sh \
    --mount=type=bind,source=containers/versions.py,target=/mnt/versions.py \
    bash /mnt/check.sh --require torch cuda nccl triton transformer-engine megatron-core megatron-bridge transformers \
        nvidia-resiliency-ext viztracer submitit py-spy nsys rdma-core libfabric aws-ofi-nccl \
        ${DEEPEP_COMMIT:+deep-ep hybrid-ep nvshmem}

# Last: labels that change with every commit invalidate nothing.
ARG BASE_IMAGE
ARG REVISION
LABEL org.opencontainers.image.title="megatron-lm" \
      org.opencontainers.image.description="Megatron Core and Megatron Bridge for EFA and InfiniBand clusters" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.revision="${REVISION}"
