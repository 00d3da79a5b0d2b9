# Container image of Penstock: see deploy/README.md.
FROM python:3.11-slim-bookworm AS build

RUN pip install --no-cache-dir uv==0.13.8
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON=/usr/local/bin/python3.11 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /opt/penstock

# Extras of pyproject.toml that the image supports.
ARG EXTRAS="--extra redis --extra litellm --extra own-energy --extra train"
# Dependencies first: a change of the code then reinstalls only the code.
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-dev --no-install-project $EXTRAS
COPY README.md LICENSE NOTICE ./
COPY gateway ./gateway
RUN uv sync --frozen --no-dev --no-editable $EXTRAS


FROM python:3.11-slim-bookworm

RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/penstock --create-home penstock
COPY --from=build /opt/penstock/.venv /opt/penstock/.venv
# Example configuration; at start it lists the keys that are missing. Mount your own over it.
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
# Requests /livez directly, without the proxies of the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PENSTOCK_ADMIN_PORT'] + '/livez', timeout=2)"]
ENTRYPOINT ["penstock", "serve"]
