# syntax=docker/dockerfile:1
# Two stages from one Debian slim image, pinned by digest at build time:
#   docker build --build-arg BASE=python:3.13-slim-bookworm@sha256:... -t gateway .
ARG BASE=python:3.13-slim-bookworm
FROM ${BASE} AS build
WORKDIR /src
RUN python -m venv /opt/venv
COPY requirements.lock ./
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY gateway ./gateway
COPY policies ./policies
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/venv/bin/python -m compileall -q /opt/venv/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="secure-inference-gateway" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="An ASGI gateway in front of model endpoints"
RUN groupadd --gid 10001 gateway && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin gateway
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /etc/gateway
EXPOSE 8080 8081 9090
# State goes to mounted volumes: the root file system can be read-only.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD ["python", "-c", "import http.client,sys; c=http.client.HTTPConnection('127.0.0.1',9090,timeout=2); c.request('GET','/healthz'); sys.exit(c.getresponse().status!=200)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/gateway.toml"]
