# The image for Kubernetes (kuberay/rayjob.yaml) and for any cluster of containers:
#
#   docker build --build-arg "$(.venv/bin/duskfuse --revision)" --tag REGISTRY/duskfuse:0.1.0 .
#
# Python's own small image and the tested set of versions: PyTorch's packages bring CUDA, so that a node needs nothing
# but NVIDIA's driver and container toolkit; nodes without a GPU use the same image. Ray's version is that of
# constraints.txt, and so the same as everywhere else.
FROM python:3.11-slim

# libgl1, libglib2.0-0: OpenCV links to them. wget: KubeRay's probes ask the node's health with it.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 wget \
 && rm -rf /var/lib/apt/lists/*

# Not root. KubeRay and Ray expect a home that can be written to.
RUN useradd --create-home --uid 1000 ray
WORKDIR /home/ray/duskfuse

# Packages first: a change of the sources then rebuilds seconds, not gigabytes.
COPY pyproject.toml constraints.txt README.md ./
RUN mkdir workflows fusion detection \
 && pip install --no-cache-dir --constraint constraints.txt . \
 && pip uninstall --yes duskfuse && rm -r workflows fusion detection build *.egg-info

COPY workflows workflows
COPY fusion fusion
COPY detection detection
RUN pip install --no-cache-dir --no-deps --editable . && chown -R ray .

# DUSKFUSE_REVISION=commit@sources, as `duskfuse --revision` prints it: results then name the commit. It counts only for
# the sources it was printed for, so other sources in a working_dir are not mistaken for it.
ARG DUSKFUSE_REVISION=
ENV DUSKFUSE_REVISION=$DUSKFUSE_REVISION
ENV PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0 OMP_WAIT_POLICY=PASSIVE \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER ray
