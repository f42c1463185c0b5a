"""Rolling upgrades: services of two versions read each other's documents, or say that they cannot."""

import msgspec
import pytest
from backports import zstd

from shared.public.state import state_document
from shared.snapshot import SCHEMA_VERSION, UnknownSchemaError, decode, encode
from tests.fakes import snapshot


def changed(document, change):
    """Pack a document as another version would have."""
    plain = msgspec.msgpack.decode(zstd.decompress(encode(document)))
    change(plain)
    return zstd.compress(msgspec.msgpack.encode(plain))


def test_an_old_api_reads_a_new_crawlers_snapshot():
    """Fields that it does not know are passed over, at every level."""

    def add(plain):
        plain["invented_later"] = {"x": [1]}
        plain["models"][0]["invented_later"] = 1
        plain["models"][0]["servers"][0]["invented_later"] = "x"

    document = snapshot()
    assert decode(changed(document, add)) == document


def test_a_new_api_reads_an_old_crawlers_snapshot():
    """Fields that were added since the first version have defaults, and every form can be made of them."""

    def drop(plain):
        for name in ("undialled_servers", "unanswered_keys", "refused", "private_swarm", "crawler_peer_id"):
            del plain[name]
        for model in plain["models"]:
            for server in model["servers"]:
                for name in ("conflict", "verdict", "error", "location", "multiaddrs"):
                    del server[name]

    read = decode(changed(snapshot(), drop))
    assert read.undialled_servers == 0
    assert read.models[0].servers[0].conflict is None
    assert state_document(read).model_reports[0].server_rows


@pytest.mark.parametrize("schema", [0, SCHEMA_VERSION + 1, 10**6])
def test_a_schema_that_would_be_misread_is_refused_by_name(schema):
    """The reader keeps what it has, and logs both numbers."""

    def rename(plain):
        plain["schema"] = schema
        plain["models"] = "something else altogether"

    with pytest.raises(UnknownSchemaError, match=f"{schema}.*{SCHEMA_VERSION}"):
        decode(changed(snapshot(), rename))
