#!/usr/bin/env bash
# A bare host to its first completed flow run, as Prefect's documentation says, typed without a pause for thought.
# Runs on the host, where lock.txt and hello_flow.py have been put into the working directory. With the argument
# `several`: PostgreSQL, Redis and several API processes, as its page on how to scale says; else all defaults.
set -euo pipefail

# Several new servers register Prefect's block types at the same time; those that collide end, and are started again.
patiently() {
    "$@" || { sleep 10 && "$@"; } || { sleep 10 && "$@"; }
}

echo "== Python's venv and pip, from apt"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
apt-get install -qq -y --no-install-recommends python3-venv >/dev/null 2>&1

echo "== pip install"
python3 -m venv venv
. venv/bin/activate
# pip in hash mode refuses an extra (sqlalchemy[asyncio]) that a lock spells without it; the lock is complete.
pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement lock.txt

if [ "${1-}" = several ]; then
    echo "== PostgreSQL and Redis, from apt"
    apt-get install -qq -y --no-install-recommends postgresql redis-server >/dev/null 2>&1
    cd /
    runuser --user postgres -- psql --quiet --command "create role prefect login password 'prefect'" \
        --command 'create database prefect owner prefect'
    cd -
    export PREFECT_API_DATABASE_CONNECTION_URL=postgresql+asyncpg://prefect:prefect@127.0.0.1:5432/prefect
    export PREFECT_API_DATABASE_MIGRATE_ON_START=false
    export PREFECT_MESSAGING_BROKER=prefect_redis.messaging
    export PREFECT_MESSAGING_CACHE=prefect_redis.messaging
    export PREFECT_SERVER_EVENTS_CAUSAL_ORDERING=prefect_redis.ordering
    export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect_redis.lease_storage
    export PREFECT_REDIS_MESSAGING_HOST=127.0.0.1
    export PREFECT_SERVER_DOCKET_URL=redis://127.0.0.1:6379/1
    prefect --no-prompt server database upgrade -y >/dev/null
    nohup prefect --no-prompt server services start >services.log 2>&1 &
    options="--no-services --workers 2"
fi

echo "== prefect server start"
export PREFECT_API_URL=http://127.0.0.1:4200/api
# Not --background: no process reads the pipe that its output goes into, and the server ends once the pipe is full.
nohup prefect --no-prompt server start ${options-} >server.log 2>&1 &
prefect server status --wait --timeout 180 >/dev/null

echo "== prefect work-pool create, prefect worker start"
patiently prefect --no-prompt work-pool create --type process default >/dev/null
nohup prefect --no-prompt worker start --pool default >worker.log 2>&1 &

echo "== prefect deploy"
patiently prefect --no-prompt deploy hello_flow.py:hello_flow --name example --pool default >/dev/null

echo "== prefect deployment run"
prefect --no-prompt deployment run hello-flow/example --watch --watch-timeout 180 >run.log 2>&1
