"""Whoever can write to Redis cannot make a worker import, call or fetch anything."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis as sync_redis
from rq import Queue
from rq.job import Callback, Job
from rq.serializers import JSONSerializer
from rq.webhook import Webhook
from rq.worker.base import BaseWorker

from reachability_worker.registration import Registration
from shared.reachability import queue_name
from shared.store.rq_job import InertJob

TOUCHED = []


def touch(*arguments, **_):
    TOUCHED.append(arguments)


class Listener(BaseHTTPRequestHandler):
    def do_POST(self):
        TOUCHED.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def listening():
    TOUCHED.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def plant(connection, queue, url):
    """A job whose worker seems to be lost, with everything in it that RQ would act on."""
    job = Job.create(
        touch, id="planted", connection=connection, serializer=JSONSerializer, origin=queue, status="started",
        on_success=Callback(touch), on_failure=Callback(touch), on_stopped=Callback(touch), timeout=5,
        webhooks=[Webhook(url, status, method="POST") for status in ("finished", "failed")],
    )  # fmt: skip
    job.save()
    connection.zadd(f"rq:wip:{queue}", {"planted:1": time.time() - 100})
    connection.lpush(f"rq:queue:{queue}:intermediate", "planted")
    connection.sadd("rq:queues", f"rq:queue:{queue}")
    return job


def test_a_worker_that_tidies_up_runs_nothing_that_stands_in_a_job(redis_url, listening):
    """RQ's cleaning of its registries would import and call the callback of a job whose worker is gone."""
    connection = sync_redis.Redis.from_url(redis_url)
    plant(connection, queue_name("here"), listening)
    registration = Registration("here", connection)
    registration.beat(busy=False)
    BaseWorker.clean_registries(registration)  # RQ's own cleaning, which ours leaves out
    assert connection.hget("rq:job:planted", "status") == b"failed"
    assert TOUCHED == []
    connection.close()


def test_the_test_above_can_fail(redis_url, listening):
    """What RQ does with the same job by itself."""
    connection = sync_redis.Redis.from_url(redis_url)
    plant(connection, "other", listening)
    Queue("other", connection=connection, serializer=JSONSerializer).started_job_registry.cleanup()
    assert TOUCHED != []
    connection.close()


def test_no_function_of_a_job_is_called(redis_url):
    """Not even one that could be imported."""
    connection = sync_redis.Redis.from_url(redis_url)
    job = plant(connection, "other", "http://127.0.0.1:1/")
    connection.hset(job.key, "data", json.dumps(["os.getpid", None, [], {}]))
    read = InertJob.fetch("planted", connection=connection, serializer=JSONSerializer)
    with pytest.raises(LookupError):
        read.perform()
    connection.close()
