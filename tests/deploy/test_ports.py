"""Ports that tests and the launcher ask for are theirs."""

import socket

import pytest

from deploy.embedded_redis import free_port

pytestmark = pytest.mark.real_parts


def port_of_the_kernels_choice(*options):
    with socket.socket() as probe:
        for option in options:
            probe.setsockopt(socket.SOL_SOCKET, option, 1)
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_free_port_is_given_to_nobody_else_before_its_server_listens():
    """Thousands of others ask the kernel for any port meanwhile: none gets one of these, and servers can take them."""
    ports = {free_port() for _ in range(500)}
    assert len(ports) == 500
    others = {port_of_the_kernels_choice() for _ in range(3_000)}
    others |= {port_of_the_kernels_choice(socket.SO_REUSEADDR) for _ in range(3_000)}
    assert len(others) > 1_000
    assert not ports & others
    for port in ports:
        with socket.create_server(("127.0.0.1", port)) as server:
            assert server.getsockname()[1] == port
