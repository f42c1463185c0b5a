"""A wire between two network devices that hands on every Ethernet frame a fixed time later, in both directions.

`wire.py DEVICE DEVICE ONE_WAY_SECONDS`. Handshakes are as late as everything else, unlike behind a TCP proxy.
"""

import select
import socket
import sys
import time
from collections import deque

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING, ETH_P_ALL = 263, 15, 23, 3
"""From linux/if_packet.h and if_ether.h. The virtio header in front of each frame says what the sender's kernel left
undone, checksums and segmentation; it is handed on as it came."""
LARGEST = 1 << 17


def main() -> None:
    left, right = map(_tap, sys.argv[1:3])
    one_way = float(sys.argv[3])
    other = {left: right, right: left}
    on_the_way: deque[tuple[float, socket.socket, bytes]] = deque()
    while True:
        wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
        readable, _, _ = select.select([left, right], [], [], wait)
        for side in readable:
            on_the_way.append((time.monotonic() + one_way, other[side], side.recv(LARGEST)))
        while on_the_way and on_the_way[0][0] <= time.monotonic():
            _, side, frame = on_the_way.popleft()
            try:
                side.send(frame)
            except OSError:
                continue  # the cable is out: the frame is lost


def _tap(device: str) -> socket.socket:
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    tap.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    tap.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    tap.bind((device, ETH_P_ALL))
    return tap


if __name__ == "__main__":
    main()
