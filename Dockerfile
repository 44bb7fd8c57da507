# The serving image: Rooftrace and its models, no torch, no root. See docker/README.md.
#   docker build -t rooftrace .
#   docker build -t rooftrace:gpu --build-arg DEVICE=gpu .

# Any Debian or Ubuntu image with Python 3.11 or newer, as `python3`, and pip.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Which of the extras `cpu` and `gpu` is installed.
ARG DEVICE=cpu
# More of them, with commas between: openvino (int8 and bf16 on CPUs, 1.7 times as fast and more),
# map (the page's map), geo (GeoPackage, FlatGeobuf, GeoParquet), otel, tiles (live map tiles).
ARG EXTRAS="openvino,map"
WORKDIR /opt/rooftrace
COPY pyproject.toml setup.py constraints.txt ./
COPY app/__init__.py app/
# Both names: until release 25.3, pip let the first one bind what a package is built with, too.
ENV PIP_CONSTRAINT=/opt/rooftrace/constraints.txt \
    PIP_BUILD_CONSTRAINT=/opt/rooftrace/constraints.txt
# The package's own files come last, so that a change to them leaves this layer as it is. A private
# package index comes in as a secret and leaves no trace: --secret id=pip,src=pip.conf
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    mkdir models && \
    touch README.md LICENSE && \
    python3 -m venv --without-pip venv && \
    python3 -m pip --python venv/bin/python3 install --no-cache-dir --editable ".[${DEVICE}${EXTRAS:+,${EXTRAS}}]"

FROM ${BASE}
# rasterio's wheel expects the system's libexpat, which the slim Python images leave out.
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends libexpat1 && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /opt/rooftrace
COPY --from=build /opt/rooftrace/venv venv
COPY LICENSE .
COPY models models
COPY app app
# A volume that is mounted here belongs to the user.
RUN mkdir /var/lib/rooftrace && chown 10001:10001 /var/lib/rooftrace
ENV PATH=/opt/rooftrace/venv/bin:$PATH \
    ROOFTRACE_JOBS=/var/lib/rooftrace/jobs \
    ROOFTRACE_HOST=0.0.0.0 \
    ROOFTRACE_PORT=8000
USER 10001:10001
# No image without a bundle that loads, as this user; none with torch.
RUN rooftrace models && \
    python3 -c "import sys, importlib.util as u; sys.exit(bool(u.find_spec('torch')) and 'torch!')"

EXPOSE 8000
STOPSIGNAL SIGTERM
# Not urllib: it would ask a proxy that the environment names.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 CMD ["python3", "-c", "\
import os, sys, http.client; \
c = http.client.HTTPConnection('127.0.0.1', int(os.environ['ROOFTRACE_PORT']), timeout=9); \
c.request('GET', '/health/ready'); \
sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["rooftrace"]
CMD ["serve"]

ARG REVISION=unknown
LABEL org.opencontainers.image.title="Rooftrace" \
      org.opencontainers.image.description="Building masks from satellite and aerial imagery" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.revision="${REVISION}"
