"""What torchrun tells the processes of one run, for tests that start these themselves."""

import random
import socket


def free_port() -> int:
    """Return a port that nothing listens on.

    It lies below those that Linux gives to sockets without a port of their own (32768 and up). Else a connection of
    another run could take it before the run listens.
    """
    while True:
        port = random.SystemRandom().randrange(20000, 32768)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def environments(ranks: int, nodes: int = 1) -> list[dict[str, str]]:
    """Return the environment of each process, of `ranks` processes on `nodes` nodes; of one process, an empty one."""
    if ranks == 1:
        return [{}]
    local = ranks // nodes
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(local), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    own = ((rank, rank % local, rank // local) for rank in range(ranks))
    return [{**shared, "RANK": str(r), "LOCAL_RANK": str(i), "GROUP_RANK": str(node)} for r, i, node in own]
