#!/bin/sh
# Installs the clients, once, and runs them: `tests/clients/run.sh --help`. Needs npm and the project's .venv (`make setup`).
# CLIENTS_VENV: folder of the clients' first virtual environment; the second has the same path with -2 appended.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
export CLIENTS_VENV="${CLIENTS_VENV:-$here/.venv}"
uv=$(command -v uv || echo "$root/.tools/bin/uv")

install_python() { # folder, requirements
    if ! cmp -s "$2" "$1/.installed"; then
        "$uv" venv --quiet --clear --python "$root/.venv/bin/python" "$1"
        "$uv" pip install --quiet --python "$1/bin/python" -r "$2"
        cp "$2" "$1/.installed"
    fi
}

install_python "$CLIENTS_VENV" "$here/requirements.txt"
install_python "$CLIENTS_VENV-2" "$here/requirements-2.txt"
if ! cmp -s "$here/package-lock.json" "$here/node_modules/.installed"; then
    # Some require Node 22 in their package.json; all run on 20.
    # Not `npm ci`: it requires binaries for other platforms, which not every registry has.
    (cd "$here" && npm install --no-save --loglevel=error)
    cp "$here/package-lock.json" "$here/node_modules/.installed"
fi
cd "$root"
exec .venv/bin/python -m tests.clients.run "$@"
