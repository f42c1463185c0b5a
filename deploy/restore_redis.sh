#!/usr/bin/env bash
# Put a dump.rdb back into the compose project's Redis: deploy/restore_redis.sh backup.rdb
#
# Redis starts from its append-only file where there is one, and ignores dump.rdb then. So another Redis loads the
# dump in a folder beside the data and writes an append-only file from it, while the first one goes on. Only when that
# has worked are they exchanged; what Redis held before is gone then.
set -euo pipefail

if [ ! -s "${1:-}" ]; then
    echo "usage: $0 BACKUP.rdb, a file that is not empty" >&2
    exit 2
fi
backup=$(realpath "$1")
trial=$(cat "$(dirname "$(realpath "$0")")/restore_trial.sh")
docker=${DOCKER:-docker}
read -ra compose <<< "${COMPOSE:-docker compose}"

container=$("${compose[@]}" run -d --no-deps redis sh -c "$trial" trial /data | tail -n 1)
trap '"$docker" rm --force "$container" > /dev/null' EXIT
# Read inside the container by another user; the copy there is Redis's own. Under another name until it is whole.
tar --create --owner=999 --group=999 --mode=600 --transform='s/.*/restore.part/' --absolute-names "$backup" \
    | "$docker" cp - "$container:/data/"
"$docker" exec "$container" mv /data/restore.part /data/restore.rdb
status=$("$docker" wait "$container")
"$docker" logs "$container" 2>&1 | grep -E '^restored|rror' || true
[ "$status" = 0 ] || exit 1

"${compose[@]}" stop redis
"${compose[@]}" run --rm -T --no-deps redis sh -ec '
    cd /data
    rm -rf before
    mkdir before
    [ ! -e appendonlydir ] || mv appendonlydir before/
    mv restore/appendonlydir restore/dump.rdb .
    rm -rf before restore
' || status=$?
"${compose[@]}" up -d --no-build --no-deps redis
exit "$status"
