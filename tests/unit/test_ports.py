"""An address that cannot be listened on is said in a sentence with a way out."""

from __future__ import annotations

import socket

import pytest

from tallygate_server.ports import PortError, bind, check_port_free


def test_a_free_port_is_free_and_stays_free() -> None:
    with bind("127.0.0.1", 0, setting="TALLYGATE_GRPC_PORT") as bound:
        port = bound.getsockname()[1]

    check_port_free("127.0.0.1", port, setting="TALLYGATE_GRPC_PORT")
    check_port_free("127.0.0.1", port, setting="TALLYGATE_GRPC_PORT")


def test_a_port_shared_by_servers_of_the_same_kind_is_taken_for_us() -> None:
    """GRPC listens with SO_REUSEPORT, which would let a second server take half of the calls unnoticed."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()

        with pytest.raises(PortError) as refused:
            check_port_free("127.0.0.1", other.getsockname()[1], setting="TALLYGATE_GRPC_PORT")

    assert "is taken by process" in refused.value.message
    assert "TALLYGATE_GRPC_PORT" in refused.value.way_out


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(PortError) as refused:
        check_port_free("192.0.2.1", 0, setting="TALLYGATE_OPS_PORT")

    assert "TALLYGATE_OPS_HOST" in refused.value.way_out


def test_a_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(PortError) as refused:
        check_port_free("not an address", 0, setting="TALLYGATE_GRPC_PORT")

    assert "TALLYGATE_GRPC_HOST" in refused.value.way_out
