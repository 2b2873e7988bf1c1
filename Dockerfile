# Two stages: the first installs the locked packages and builds our wheel, the second holds only what runs.
# Build: docker build --tag tallygate .
# Try:   docker run --rm -p 50051:50051 -p 50052:50052 tallygate
# Serve: docker run -e TALLYGATE_DATABASE_URL=... -e TALLYGATE_REDIS_URL=... -p 50051:50051 -p 50052:50052 tallygate

FROM python:3.13-slim-bookworm AS build

WORKDIR /build
COPY requirements.txt ./
# Checked against the lock's hashes once; everything below installs from these files and from nowhere else.
RUN pip download --no-cache-dir --require-hashes --only-binary :all: --dest /wheels -r requirements.txt
RUN pip install --no-cache-dir --no-index --find-links /wheels hatchling
COPY pyproject.toml README.md LICENSE ./
COPY generated generated
COPY src src
COPY protos/py.typed protos/py.typed
RUN python -m hatchling build --target wheel --directory /build/dist
# What the wheel names as needed to run, without the tools of development.
RUN python -m venv /opt/tallygate \
 && /opt/tallygate/bin/pip install --no-cache-dir --no-index --find-links /wheels /build/dist/*.whl \
 && /opt/tallygate/bin/pip check

FROM python:3.13-slim-bookworm

LABEL org.opencontainers.image.title="tallygate" \
      org.opencontainers.image.description="Entitlements and metering over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN useradd --system --uid 10001 --user-group --home-dir /data --create-home tallygate
COPY --from=build /opt/tallygate /opt/tallygate
# To try it with: tallygate catalog apply /usr/share/tallygate/catalogs/lekhak.yaml
COPY examples/catalogs /usr/share/tallygate/catalogs

ENV PATH=/opt/tallygate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TALLYGATE_GRPC_HOST=0.0.0.0 \
    TALLYGATE_OPS_HOST=0.0.0.0 \
    TALLYGATE_DATA_DIR=/data/embedded \
    TALLYGATE_LOG_FORMAT=json

USER 10001:10001
WORKDIR /data
# Used by the embedded servers only, that is without TALLYGATE_DATABASE_URL and TALLYGATE_REDIS_URL.
VOLUME /data
EXPOSE 50051 50052
# TERM drains: health turns to NOT_SERVING, calls in flight end, stores are closed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('TALLYGATE_OPS_PORT', '50052') + '/healthz', timeout=2)"]

ENTRYPOINT ["tallygate"]
CMD ["serve"]
