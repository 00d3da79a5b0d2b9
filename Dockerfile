# Penstock in a container: see deploy/README.md.
FROM python:3.11-slim-bookworm AS build

RUN pip install --no-cache-dir uv==0.13.8
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON=/usr/local/bin/python3.11 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /opt/penstock

# What the lock file names first: a change in our own code then installs only our own code again.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project
COPY README.md ./
COPY gateway ./gateway
RUN uv sync --frozen --no-dev --no-editable


FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/penstock --create-home penstock
COPY --from=build /opt/penstock/.venv /opt/penstock/.venv
# An example that says what it lacks when it is started as it is; mount your own over it.
COPY config/routing.yaml /etc/penstock/routing.yaml

ENV PATH=/opt/penstock/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PENSTOCK_CONFIG=/etc/penstock/routing.yaml \
    PENSTOCK_DATA=/var/lib/penstock \
    PENSTOCK_HOST=0.0.0.0 \
    PENSTOCK_PORT=8080 \
    PENSTOCK_ADMIN_PORT=9090
USER penstock
WORKDIR /var/lib/penstock
VOLUME /var/lib/penstock
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
# Asks itself, past any proxy that the environment names.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PENSTOCK_ADMIN_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["penstock", "serve"]
