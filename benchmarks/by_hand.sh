#!/usr/bin/env bash
# A bare host to its first completed flow run, as Prefect's documentation says, typed without a pause for thought.
# Runs on the host, where lock.txt and hello_flow.py have been put into the working directory.
set -euo pipefail

echo "== Python's venv and pip, from apt"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
apt-get install -qq -y --no-install-recommends python3-venv >/dev/null 2>&1

echo "== pip install"
python3 -m venv venv
. venv/bin/activate
# pip in hash mode refuses an extra (sqlalchemy[asyncio]) that a lock spells without it; the lock is complete.
pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement lock.txt

echo "== prefect server start"
export PREFECT_API_URL=http://127.0.0.1:4200/api
# Not --background: that server's output goes into a pipe that nobody reads, and it dies of it.
nohup prefect --no-prompt server start >server.log 2>&1 &
prefect server status --wait --timeout 180 >/dev/null

echo "== prefect work-pool create, prefect worker start"
prefect --no-prompt work-pool create --type process default >/dev/null
nohup prefect --no-prompt worker start --pool default >worker.log 2>&1 &

echo "== prefect deploy"
prefect --no-prompt deploy hello_flow.py:hello_flow --name example --pool default >/dev/null

echo "== prefect deployment run"
prefect --no-prompt deployment run hello-flow/example --watch --watch-timeout 180 >run.log 2>&1
