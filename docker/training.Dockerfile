# The training image: networks in, a bundle out. See docker/README.md.
#   docker build -t rooftrace-training -f docker/training.Dockerfile .

# As in ../Dockerfile.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends libexpat1 && \
    rm -rf /var/lib/apt/lists/*
# Which ONNX Runtime checks an export; for torch, the package index decides.
ARG DEVICE=cpu
WORKDIR /opt/rooftrace
COPY pyproject.toml setup.py constraints.txt ./
COPY app/__init__.py app/
ENV PIP_CONSTRAINT=/opt/rooftrace/constraints.txt \
    PIP_BUILD_CONSTRAINT=/opt/rooftrace/constraints.txt
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    mkdir models && \
    touch README.md LICENSE && \
    python3 -m venv --without-pip venv && \
    python3 -m pip --python venv/bin/python3 install --no-cache-dir --editable ".[train,${DEVICE}]"
COPY LICENSE .
COPY app app
COPY training training
# The allocator's settings are the Makefile's; HOME is where caches may go, whoever the user is.
ENV PATH=/opt/rooftrace/venv/bin:$PATH \
    PYTHONPATH=/opt/rooftrace \
    HOME=/tmp \
    MALLOC_MMAP_THRESHOLD_=17179869184 \
    MALLOC_TRIM_THRESHOLD_=17179869184 \
    THP_MEM_ALLOC_ENABLE=1
USER 10001:10001
RUN python3 -m training --help

ENTRYPOINT ["python3", "-m", "training"]
CMD ["--help"]

ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rooftrace, training" \
      org.opencontainers.image.description="Trains and exports the networks of Rooftrace" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
