#!/usr/bin/env bash
# Replace all containers of a service (default: api) by new ones, of the current image and settings, with no moment
# in which nobody serves: as many new ones are started, waited for, and only then the old ones are stopped.
#
#   docker compose build api && deploy/rolling_restart.sh
#   COMPOSE="docker-compose -p monitor" deploy/rolling_restart.sh reachability_worker
set -euo pipefail

service=${1:-api}
docker=${DOCKER:-docker}
read -ra compose <<< "${COMPOSE:-docker compose}"
healthy_within=${HEALTHY_WITHIN:-120}
# nginx looks the api's name up every two seconds; only then do the new ones get requests.
names_known_after=4

mapfile -t old < <("${compose[@]}" ps -q "$service")
if [ ${#old[@]} -eq 0 ]; then
    echo "no container of $service runs" >&2
    exit 1
fi
"${compose[@]}" up -d --no-build --no-deps --no-recreate --scale "$service=$((2 * ${#old[@]}))" "$service"

mapfile -t all < <("${compose[@]}" ps -q "$service")
deadline=$((SECONDS + healthy_within))
for container in "${all[@]}"; do
    [[ " ${old[*]} " == *" $container "* ]] && continue
    until [ "$("$docker" inspect --format '{{.State.Health.Status}}' "$container")" = healthy ]; do
        if [ $SECONDS -ge $deadline ]; then
            echo "a new container of $service is not healthy after $healthy_within s; the old ones go on serving" >&2
            "$docker" logs --tail 20 "$container" >&2
            exit 1
        fi
        sleep 1
    done
done
sleep $names_known_after

for container in "${old[@]}"; do
    # Its own grace period (docker-compose.yml) lets open requests end.
    "$docker" stop "$container" > /dev/null
    "$docker" rm "$container" > /dev/null
done
"${compose[@]}" up -d --no-build --no-deps --no-recreate --scale "$service=${#old[@]}" "$service"
echo "replaced ${#old[@]} containers of $service"
