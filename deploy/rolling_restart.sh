#!/usr/bin/env bash
# Replace the containers of a service (default: api) by new ones, of the current image and settings, one at a time
# and with no moment in which fewer serve: a new one is started and waited for, and only then an old one is stopped.
#
#   docker compose build api && deploy/rolling_restart.sh
#   COMPOSE="docker-compose -p monitor" deploy/rolling_restart.sh reachability_worker
set -euo pipefail

service=${1:-api}
docker=${DOCKER:-docker}
read -ra compose <<< "${COMPOSE:-docker compose}"
healthy_within=${HEALTHY_WITHIN:-120}
# nginx looks the api's name up every two seconds; only then does the new one get requests.
name_known_after=4

running() { "${compose[@]}" ps -q "$service"; }
scale_to() { "${compose[@]}" up -d --no-build --no-deps --no-recreate --scale "$service=$1" "$service"; }

mapfile -t old < <(running)
if [ ${#old[@]} -eq 0 ]; then
    echo "no container of $service runs" >&2
    exit 1
fi
for container in "${old[@]}"; do
    before=" $(running | tr '\n' ' ')"
    scale_to $((${#old[@]} + 1))
    new=$(running | while read -r one; do [[ $before == *" $one "* ]] || echo "$one"; done)
    deadline=$((SECONDS + healthy_within))
    until [ "$("$docker" inspect --format '{{.State.Health.Status}}' "$new")" = healthy ]; do
        if [ $SECONDS -ge $deadline ]; then
            echo "the new container of $service is not healthy after $healthy_within s; the others go on serving" >&2
            "$docker" logs --tail 20 "$new" >&2
            exit 1
        fi
        sleep 1
    done
    sleep $name_known_after
    # Its own grace period (docker-compose.yml) lets open requests end.
    "$docker" stop "$container" > /dev/null
    "$docker" rm "$container" > /dev/null
done
echo "replaced ${#old[@]} containers of $service, one at a time"
