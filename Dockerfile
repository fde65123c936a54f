# Two stages from one Debian slim image with Python 3.11 or later, pinned by digest at build time:
#   docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:... --build-arg VERSION=0.1.0 -t gateway .
# What the image holds beyond the defaults is chosen by EXTRAS_LOCK (deploy/image.lock: names, Redis, tokens, traces, Azure).
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY deploy/image.lock requirements-ner.lock ./
RUN pip install --require-hashes -r image.lock \
 && pip install --require-hashes --no-deps -r requirements-ner.lock
COPY pyproject.toml README.md policies.invariants.toml ./
COPY policies ./policies
COPY gateway ./gateway
COPY deploy/sbom.py ./sbom.py
# The build backend and pip have no business in what runs; the bill of materials names exactly what is left.
RUN pip install --no-deps --no-build-isolation . \
 && pip uninstall -y -q hatchling editables pathspec pluggy trove-classifiers setuptools wheel \
 && python -m compileall -q /opt/venv/lib \
 && python sbom.py > /opt/venv/sbom.cdx.json \
 && python -m pip uninstall -y -q pip

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="secure-inference-gateway" \
      org.opencontainers.image.description="A gateway in front of model endpoints: identity, policy, inspection both ways, a log that proves itself" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.cyclonedx.sbom="/opt/venv/sbom.cdx.json"
# By number alone: nothing at run time looks a name up, and no shell or home belongs to it.
COPY --from=build --chown=0:0 /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /etc/gateway
EXPOSE 8080 8081 9090
# State goes to mounted volumes: the root file system can be read-only.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s CMD ["gateway", "health"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/gateway.toml"]
