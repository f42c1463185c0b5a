"""Host names in strangers' addresses, resolved by a real resolver that asks a name server of ours."""

import asyncio

import dns.asyncresolver
import dns.message
import dns.rrset
import pytest

from shared.p2p.kad_messages import packed_id
from shared.p2p.multiaddr import packed
from shared.p2p.names import NotResolvedError, _whole_address, resolve
from tests.fakes import peer_id

pytestmark = pytest.mark.real_parts
RECORDS = {
    ("peer.example.", "A"): ["192.0.2.1"],
    ("peer.example.", "AAAA"): ["2001:db8::1"],
    ("_dnsaddr.peer.example.", "TXT"): [
        f"dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{peer_id(1)}", f"dnsaddr=/ip4/192.0.2.2/tcp/1/p2p/{peer_id(2)}",
        "dnsaddr=/ip4/192.0.2.3/tcp/1", "dnsaddr=", "dnsaddr=/ip4/x", "/ip4/192.0.2.4/tcp/1", "v=spf1 -all",
    ],
}  # fmt: skip


class NameServer(asyncio.DatagramProtocol):
    """Answers once it has been asked for `wanted` kinds of records."""

    def __init__(self, wanted):
        self.wanted, self.asked = wanted, {}

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        query = dns.message.from_wire(data)
        self.asked[query.question[0].rdtype] = query, sender
        if len(self.asked) < self.wanted:
            return
        for asked, asker in self.asked.values():
            question, answer = asked.question[0], dns.message.make_response(asked)
            kind = dns.rdatatype.to_text(question.rdtype)
            if records := RECORDS.get((question.name.to_text(), kind)):
                texts = [f'"{one}"' if kind == "TXT" else one for one in records]
                answer.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", kind, texts))
            self.transport.sendto(answer.to_wire(), asker)


@pytest.mark.parametrize(
    ("address", "kinds", "expected"),
    [
        ("/dns/peer.example/tcp/1", 2, ["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1"]),
        ("/dns4/peer.example/udp/1/quic-v1", 1, ["/ip4/192.0.2.1/udp/1/quic-v1"]),
        ("/dnsaddr/peer.example", 1, ["/ip4/192.0.2.1/tcp/1", "/ip4/192.0.2.3/tcp/1"]),
        ("/dns/nobody.example/tcp/1", 2, None),
    ],
)
async def test_a_name_stands_for_the_addresses_of_its_records(monkeypatch, address, kinds, expected):
    """All kinds are asked for at once, for a probe has no time for one after the other; other peers' are left out."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: NameServer(kinds), ("127.0.0.1", 0)
    )
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    resolving = resolve(packed([address])[0], packed_id(peer_id(1)))
    try:
        if expected is None:
            with pytest.raises(NotResolvedError):
                await resolving
        else:
            assert sorted(await resolving) == sorted(packed(expected))  # dnspython shuffles the records that it sends
    finally:
        transport.close()


def test_a_name_server_cannot_hold_up_all_others():
    """An id of a million characters is not decoded, which would take minutes."""
    assert _whole_address("dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/" + "Q" * 1_000_000, packed_id(peer_id(1))) == b""
