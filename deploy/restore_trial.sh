# Runs inside a container of Redis: sh -c "$(cat deploy/restore_trial.sh)" trial FOLDER. Waits for FOLDER/restore.rdb,
# loads it by a Redis of its own and writes an append-only file from it, all of that inside FOLDER/restore. Beside it
# nothing is touched; what is no dump, or only half of one, ends here with 1.
set -e
data=$1
unset REDISCLI_AUTH
rm -rf "$data/restore"
mkdir "$data/restore"
until [ -e "$data/restore.rdb" ]; do sleep 0.2; done
mv "$data/restore.rdb" "$data/restore/dump.rdb"
cd "$data/restore"
asked() { redis-cli -s redis.sock "$@" | tr -d '\r'; }
(redis-server --dir "$PWD" --appendonly no --port 0 --unixsocket redis.sock --logfile "" || true; touch ended) &
until asked ping 2> /dev/null | grep -q PONG; do
    if [ -e ended ]; then
        echo "error: not a dump that this Redis can load; nothing was changed" >&2
        rm -rf "$data/restore"
        exit 1
    fi
    sleep 0.2
done
asked config set appendonly yes > /dev/null
until asked info persistence | grep -c -x -e aof_rewrite_in_progress:0 -e aof_rewrite_scheduled:0 | grep -q 2; do
    sleep 0.2
done
asked info persistence | grep -q -x aof_last_bgrewrite_status:ok
echo "restored $(asked dbsize) keys"
asked shutdown
until [ -e ended ]; do sleep 0.2; done
rm ended
