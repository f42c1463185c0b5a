#!/usr/bin/env bash
# Put a dump.rdb back into the compose project's Redis: deploy/restore_redis.sh backup.rdb
#
# Redis starts from its append-only file where there is one, and ignores dump.rdb then. So the dump is loaded once
# without it, and a new append-only file is written from what was loaded. What Redis held before is gone.
set -euo pipefail

backup=$(realpath "$1")
docker=${DOCKER:-docker}
read -ra compose <<< "${COMPOSE:-docker compose}"

# Read inside the container by another user; the copy there is Redis's own.
"${compose[@]}" stop redis
container=$("${compose[@]}" run -d --no-deps redis sh -ec '
    unset REDISCLI_AUTH
    until [ -e /data/restore.rdb ]; do sleep 0.2; done
    rm -rf /data/appendonlydir
    mv /data/restore.rdb /data/dump.rdb
    redis-server --dir /data --appendonly no --port 0 --unixsocket /tmp/redis.sock --daemonize yes --logfile ""
    asked() { redis-cli -s /tmp/redis.sock "$@"; }
    until asked ping | grep -q PONG; do sleep 0.2; done
    asked config set appendonly yes
    until asked info persistence | grep -q "aof_rewrite_in_progress:0"; do sleep 0.2; done
    echo "restored $(asked dbsize) keys"
    asked shutdown
' | tail -n 1)
# Under another name until it is whole.
tar --create --owner=999 --group=999 --mode=600 --transform='s/.*/restore.part/' --absolute-names "$backup" \
    | "$docker" cp - "$container:/data/"
"$docker" exec "$container" mv /data/restore.part /data/restore.rdb
status=$("$docker" wait "$container")
"$docker" logs "$container" 2>&1 | grep -E 'restored|rror' || true
"$docker" rm "$container" > /dev/null
"${compose[@]}" up -d --no-build --no-deps redis
exit "$status"
